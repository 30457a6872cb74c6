package rls

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// Limit is what the service knows of one rule.
type Limit struct {
	// Fleet and Rule name it.
	Fleet string `json:"fleet"`
	Rule  string `json:"rule"`
	// Configured is the limit, as the newest rule of that ID has it.
	Configured v1alpha1.Limit `json:"configured"`
	// Changing says that Envoys may still ask by an older form of the rule, whose bound holds where it is tighter.
	Changing bool `json:"changing"`
	// Factor is what the bounds are multiplied with, and Now is the bound in force for keys without a value of
	// their own.
	Factor float64 `json:"factor"`
	Now    Bound   `json:"now"`
	// Requests that the rule was asked about, of which it refused Refused, and would have refused ShadowRefused.
	Requests      uint64 `json:"requests"`
	Refused       uint64 `json:"refused"`
	ShadowRefused uint64 `json:"shadowRefused"`
	// Keys in memory that have a count, and Leases of requests in service; both are 0 with Redis, which has them.
	Keys   int64 `json:"keys"`
	Leases int64 `json:"leases"`
	// Top are the keys that are refused most, at most 16.
	Top []TopKey `json:"top"`
}

// TopKey is a key with its refusals, which may be up to Error fewer.
type TopKey struct {
	Key     string `json:"key"`
	Refused uint64 `json:"refused"`
	Error   uint64 `json:"error"`
}

// Bound is a bound in force. Exactly one of Rate, Concurrency and Unlimited says something.
type Bound struct {
	// Rate in requests per second, and Burst in requests, 0 with fixed windows.
	Rate        float64 `json:"rate,omitempty"`
	Burst       int64   `json:"burst,omitempty"`
	Concurrency int64   `json:"concurrency,omitempty"`
	Unlimited   bool    `json:"unlimited,omitempty"`
}

func (s *Server) show(b *bound) Bound {
	shown := b.view()
	if s.opts.FixedWindows {
		shown.Burst = 0
	}
	return shown
}

func (b *bound) view() Bound {
	switch {
	case b.unlimited:
		return Bound{Unlimited: true}
	case b.concurrency > 0:
		return Bound{Concurrency: b.concurrency}
	}
	return Bound{Rate: float64(time.Second) / float64(b.rate.Interval()), Burst: b.rate.Burst()}
}

// Limits are all rules, in the order of fleets and IDs.
func (s *Server) Limits() []Limit {
	var out []Limit
	for _, d := range *s.domains.Load() {
		for id, r := range d.rules {
			v := r.variants[0]
			out = append(out, Limit{
				Fleet: d.name, Rule: id, Configured: v.rule.Limit, Factor: r.factor, Now: s.show(v.at(nil)),
				Changing: len(r.variants) > 1 || len(v.older) > 0,
				Requests: r.requests.Load(), Refused: r.refused.Load(), ShadowRefused: r.shadowRefused.Load(),
				Keys: r.table.keys.Load(), Leases: r.leases.Load(), Top: r.top.view(),
			})
		}
	}
	slices.SortFunc(out, func(a, b Limit) int {
		return cmp.Or(strings.Compare(a.Fleet, b.Fleet), strings.Compare(a.Rule, b.Rule))
	})
	return out
}

func (t *top) view() []TopKey {
	t.mu.Lock()
	out := make([]TopKey, 0, len(t.keys))
	for _, k := range t.keys {
		out = append(out, TopKey{k.text, k.count, k.error})
	}
	t.mu.Unlock()
	slices.SortFunc(out, func(a, b TopKey) int {
		return cmp.Or(cmp.Compare(b.Refused, a.Refused), strings.Compare(a.Key, b.Key))
	})
	return out
}

// Explanation is what a rule would say to a request now. Nothing is taken.
type Explanation struct {
	// Key as descriptors have it.
	Key string `json:"key"`
	// Bound in force for the key.
	Bound Bound `json:"bound"`
	// Value is which of the limit's values matched, from 0; -1 if none did.
	Value int `json:"value"`
	// Factor is in Bound already.
	Factor float64 `json:"factor"`
	// Shadow says that a refusal would refuse nothing.
	Shadow bool `json:"shadow"`
	// Admitted says whether one request would be admitted, and Remaining how many.
	Admitted  bool  `json:"admitted"`
	Remaining int64 `json:"remaining"`
	// Held is how many requests are in service, of a limit of concurrency.
	Held int64 `json:"held,omitempty"`
	// Reset is when all is earned back; if nothing is admitted, when one request is.
	Reset time.Duration `json:"reset"`
}

// Explain says what a rule makes of a request with these values of its key, by part or by what comes after
// the part's colon. No values at all are those of a request that lacks a part, if the rule has parts. Errors
// say which parts were expected.
func (s *Server) Explain(ctx context.Context, fleet, id string, values map[string]string) (Explanation, error) {
	d := s.domain(fleet)
	if d == nil || d.rules[id] == nil {
		return Explanation{}, fmt.Errorf("fleet %q has no rule %q", fleet, id)
	}
	v := d.rules[id].variants[0]
	entries, err := v.entries(values)
	if err != nil {
		return Explanation{}, fmt.Errorf("rule %q: %w", id, err)
	}
	h := hit{described: described{variant: v, entries: entries}, bound: v.at(entries), key: s.hasher.key(entries), n: 1}
	out := Explanation{Key: h.text(), Bound: s.show(h.bound), Value: -1, Factor: v.factor, Shadow: v.shadow, Admitted: true}
	for i := range v.values {
		if !isMissing(entries) && v.values[i].matches(entries) {
			out.Value = i
			break
		}
	}
	switch {
	case h.bound.unlimited:
	case v.lease:
		if out.Held, err = s.store.held(ctx, v.counters, entries); err != nil {
			return Explanation{}, fmt.Errorf("rule %q: %w", id, err)
		}
		out.Remaining = max(0, h.bound.concurrency-out.Held)
		out.Admitted = out.Remaining > 0
	default:
		hits := []hit{h}
		if _, err := s.store.count(ctx, hits, time.Now().UnixNano(), false); err != nil {
			return Explanation{}, fmt.Errorf("rule %q: %w", id, err)
		}
		answer := hits[0].answer
		out.Admitted, out.Remaining, out.Reset = answer.Admitted, answer.Remaining, answer.Reset
		if answer.Admitted {
			out.Remaining++
		}
	}
	return out, nil
}

// entries are what a descriptor would have for the key.
func (v *variant) entries(values map[string]string) ([]*ratelimitv3.RateLimitDescriptor_Entry, error) {
	if len(values) == 0 && v.global {
		return []*ratelimitv3.RateLimitDescriptor_Entry{{Key: rlsconfig.EntryMissing, Value: rlsconfig.MissingGlobal}}, nil
	}
	ordered, err := v.rule.Values(values)
	if err != nil {
		return nil, err
	}
	entries := make([]*ratelimitv3.RateLimitDescriptor_Entry, len(v.parts))
	for i, part := range v.parts {
		entries[i] = &ratelimitv3.RateLimitDescriptor_Entry{Key: part, Value: ordered[i]}
	}
	return entries, nil
}
