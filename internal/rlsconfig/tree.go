package rlsconfig

import (
	"math"
	"slices"
	"strings"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	configv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/api/v1alpha1"
)

// MaxDynamicBuckets is how many values of a key each Envoy keeps a bucket for, per limit of scope Proxy: beyond
// it the bucket that was used least recently is forgotten, and its key starts with a full one.
const MaxDynamicBuckets = 10_000

// bounded yields the descriptors of the rule that have a bound, as entries of which an empty value stands for
// any other. Buckets have values of all parts or of none (Compile): where a few are exact and the others open
// there is nothing that the bucket of all values does not say, and an Envoy takes any bucket that matches.
func (r *Rule) bounded() func(yield func([]Entry, Bound) bool) {
	return func(yield func([]Entry, Bound) bool) {
		for _, f := range r.Forms() {
			if f.Missing {
				if !yield(f.Entries, r.bound()) {
					return
				}
				continue
			}
			for values, bound := range r.counters(r.parts()) {
				if r.Scope() == v1alpha1.ScopeProxy && slices.Contains(values, nil) && slices.ContainsFunc(values, isExact) {
					continue
				}
				entries := slices.Clone(f.Entries)
				for i, v := range values {
					if v != nil {
						entries[f.from+i].Value = *v
					}
				}
				if !yield(entries, bound) {
					return
				}
			}
		}
	}
}

func isExact(value *string) bool { return value != nil }

// Tree is the configuration of the reference service for a domain. factors multiply the bounds of rules, by
// ID; none is 1. It knows no burst, and no leases: a limit of concurrency is unlimited there. Rules of scope
// Proxy are none of its business.
func Tree(domain string, rules []*Rule, factors map[string]float64) *configv3.RateLimitConfig {
	out := &configv3.RateLimitConfig{Name: domain, Domain: domain}
	rules = slices.Clone(rules)
	slices.SortStableFunc(rules, func(a, b *Rule) int { return strings.Compare(a.ID, b.ID) })
	for _, r := range rules {
		if r.Scope() != v1alpha1.ScopeFleet {
			continue
		}
		factor, ok := factors[r.ID]
		if !ok {
			factor = 1
		}
		for entries, bound := range r.bounded() {
			leaf := grow(&out.Descriptors, entries)
			leaf.RateLimit, leaf.ShadowMode = policy(bound, factor), r.Shadow()
		}
	}
	return out
}

// grow is the node at the end of the way that the entries are, made where it is missing.
func grow(level *[]*configv3.RateLimitDescriptor, entries []Entry) *configv3.RateLimitDescriptor {
	var node *configv3.RateLimitDescriptor
	for _, e := range entries {
		i := slices.IndexFunc(*level, func(d *configv3.RateLimitDescriptor) bool { return d.GetKey() == e.Key && d.GetValue() == e.Value })
		if i < 0 {
			i = len(*level)
			*level = append(*level, &configv3.RateLimitDescriptor{Key: e.Key, Value: e.Value})
		}
		node = (*level)[i]
		level = &node.Descriptors
	}
	return node
}

func policy(bound Bound, factor float64) *configv3.RateLimitPolicy {
	if bound.Rate == nil {
		return &configv3.RateLimitPolicy{Unlimited: true}
	}
	requests, u, ok := perUnit(*bound.Rate)
	if !ok {
		return &configv3.RateLimitPolicy{Unlimited: true} // nothing that Compile lets pass
	}
	scaled := math.Round(float64(requests) * factor)
	return &configv3.RateLimitPolicy{
		Unit:            configv3.RateLimitUnit(u.number),
		RequestsPerUnit: uint32(min(max(scaled, 1), math.MaxUint32)),
	}
}

// Buckets are the token buckets of a rule of scope Proxy in each Envoy.
func (r *Rule) Buckets() []*commonv3.LocalRateLimitDescriptor {
	var out []*commonv3.LocalRateLimitDescriptor
	for entries, bound := range r.bounded() {
		d := &commonv3.LocalRateLimitDescriptor{TokenBucket: bucket(bound), ShadowMode: r.Shadow()}
		for _, e := range entries {
			d.Entries = append(d.Entries, &commonv3.RateLimitDescriptor_Entry{Key: e.Key, Value: e.Value})
		}
		out = append(out, d)
	}
	return out
}

// bucket holds as many tokens as the burst and is filled evenly; an unlimited one is never empty.
func bucket(bound Bound) *typev3.TokenBucket {
	if bound.Rate == nil {
		return BottomlessBucket()
	}
	burst := bound.Rate.Requests
	if bound.Rate.Burst != nil {
		burst = *bound.Rate.Burst
	}
	return &typev3.TokenBucket{
		MaxTokens:     wire(burst),
		TokensPerFill: wrapperspb.UInt32(wire(bound.Rate.Requests)),
		FillInterval:  durationpb.New(bound.Rate.Per.Duration),
	}
}

func wire(n int64) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }

// BottomlessBucket is a bucket that lets everything pass.
func BottomlessBucket() *typev3.TokenBucket {
	return &typev3.TokenBucket{
		MaxTokens:     math.MaxUint32,
		TokensPerFill: wrapperspb.UInt32(math.MaxUint32),
		FillInterval:  durationpb.New(units[0].length),
	}
}
