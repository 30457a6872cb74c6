// Package rlsconfig turns the limits of LimitPolicies into rules, and each rule into what is needed to keep
// it: the actions by which an Envoy describes a request (in RDS), the counters that a rate limit service keeps
// for such descriptions (our own, and the reference service's RateLimitConfig), or the buckets of a single
// Envoy (in ECDS). All of them come from the one Rule, so that no Envoy can describe a request in a way that
// nothing counts. It is pure.
//
// # What a description looks like
//
// The entries of a descriptor of a rule, in this order; a request that an action does not find a value for
// sends none:
//
//	rule     = <the rule's ID>
//	when     = true                     where methods, paths or headers select
//	cel      = true | false             where a CEL expression selects; false is counted by nobody
//	<part>   = <value>                  for each part of the key, named as the key has it; or in place of all
//	missing  = global                   of a request that lacks a part, under Missing: Global
//	lease    = <x-request-id>           of a limit of concurrency, last
//
// It asks nobody, keeps no counter (package rls does) and knows no route: where a rule holds is package
// catalog's to say.
package rlsconfig

import "evenkeel.io/controlplane/api/v1alpha1"

// Names of descriptor entries.
const (
	EntryRule    = "rule"
	EntryWhen    = "when"
	EntryCEL     = "cel"
	EntryMissing = "missing"
	EntryLease   = "lease"
)

// Rule is one limit of one policy.
type Rule struct {
	// ID is "<namespace>/<policy>/<limit>". Counters are kept by it, so it holds no version.
	ID string `json:"id"`
	// OnError is the policy's.
	OnError v1alpha1.OnError `json:"onError"`
	// Limit is the limit, valid and complete (v1alpha1.Limit.WithDefaults).
	Limit v1alpha1.Limit `json:"limit"`
}
