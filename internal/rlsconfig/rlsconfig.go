// Package rlsconfig turns the limits of LimitPolicies into rules, and each rule into what is needed to keep
// it: the actions by which an Envoy describes a request (in RDS), the counters that a rate limit service keeps
// for such descriptions (our own, and the reference service's RateLimitConfig), or the buckets of a single
// Envoy (in ECDS). All of them come from the one Rule, so that no Envoy can describe a request in a way that
// nothing counts. It is pure.
//
// # What a description looks like
//
// The entries of a descriptor of a rule, in this order (Forms); a request that an action does not find a value
// for sends none:
//
//	rule     = <the rule's ID>
//	when     = true                     where methods, paths or headers select
//	cel      = true                     where a CEL expression selects
//	<part>   = <value>                  for each part of the key, named as the key has it (those of ip are
//	                                    named masked_remote_address); or in place of all of them
//	missing  = global                   of a request that lacks a part, under Missing: Global
//	lease    = <x-request-id>           of a limit of concurrency, last
//
// It asks nobody, keeps no counter (package rls does) and knows no route: where a rule holds is package
// catalog's to say.
package rlsconfig

import (
	"errors"
	"fmt"
	"strings"

	"evenkeel.io/controlplane/api/v1alpha1"
)

// Names of descriptor entries.
const (
	EntryRule    = "rule"
	EntryWhen    = "when"
	EntryCEL     = "cel"
	EntryMissing = "missing"
	EntryLease   = "lease"
	// EntryAddress is what Envoy calls the entry of an address, whatever we would call it.
	EntryAddress = "masked_remote_address"
)

// MissingGlobal is the value of EntryMissing.
const MissingGlobal = "global"

// ReplyHeader is a header that the rate limit service gives an Envoy with a refusal whose status is not 429:
// the status, in digits. The Envoy answers 429 by itself and then looks at it.
const ReplyHeader = "x-evenkeel-reply"

// Rule is one limit of one policy.
type Rule struct {
	// ID is "<namespace>/<policy>/<limit>". Counters are kept by it, so it holds no version.
	ID string `json:"id"`
	// OnError is the policy's.
	OnError v1alpha1.OnError `json:"onError"`
	// Limit is the limit, valid and complete (v1alpha1.Limit.WithDefaults).
	Limit v1alpha1.Limit `json:"limit"`
}

// Policy is "<namespace>/<policy>", the first two parts of the ID.
func (r *Rule) Policy() string { return r.ID[:max(0, strings.LastIndexByte(r.ID, '/'))] }

// Scope is where the rule is counted.
func (r *Rule) Scope() v1alpha1.Scope {
	if s := r.Limit.Scope; s != nil {
		return *s
	}
	return v1alpha1.ScopeFleet
}

// Shadow says whether the rule refuses nothing.
func (r *Rule) Shadow() bool { return r.Limit.Mode != nil && *r.Limit.Mode == v1alpha1.LimitShadow }

func (r *Rule) missing() v1alpha1.Missing {
	if m := r.Limit.Missing; m != nil {
		return *m
	}
	return v1alpha1.MissingSkip
}

// Compile makes the rule of a limit that is complete (v1alpha1.Limit.WithDefaults) and whose fields are valid
// one by one (v1alpha1.LimitPolicySpec.Validate). It refuses what cannot be counted or described: the errors
// begin with the field, as the limit has it ("values[1].match: ...").
func Compile(id string, onError v1alpha1.OnError, limit v1alpha1.Limit) (*Rule, error) {
	r := &Rule{ID: id, OnError: onError, Limit: limit}
	parts, err := parseKey(limit.Key)
	if err != nil {
		return nil, err
	}
	var problems []error
	check := func(bad bool, format string, args ...any) {
		if bad {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	if (limit.Rate == nil) == (limit.Concurrency == nil) {
		return nil, errors.New("rate: expected exactly one of rate and concurrency")
	}
	if _, err := r.selectors(); err != nil {
		problems = append(problems, err)
	}
	if err := r.checkMissing(parts); err != nil {
		problems = append(problems, err)
	}
	if limit.Rate != nil && r.Scope() == v1alpha1.ScopeFleet {
		check(!portable(*limit.Rate), "rate.%s", unportable(*limit.Rate))
	}
	if err := r.checkValues(parts); err != nil {
		problems = append(problems, err)
	}
	if r.Scope() == v1alpha1.ScopeProxy {
		const only = "is not to be had with scope Proxy, where an Envoy counts by itself; expected scope Fleet or none"
		check(limit.Concurrency != nil, "concurrency: %s", only)
		check(limit.Reply != nil, "reply: %s", only)
		check(limit.Adapt != nil, "adapt: %s", only)
		check(limit.When != nil && len(limit.When.Backends) > 0, "when.backends: %s", only)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return r, nil
}
