package rls

import (
	"slices"
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/rls/gcra"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// domain is the rules of one fleet, made ready to be asked. It is immutable: Configure and SetFactors put
// another one in its place, the counters of a rule are in both.
type domain struct {
	name   string
	rules  map[string]*rule
	leases bool // there are limits of concurrency
}

// rule is all variants of one ID: the newest first, then those that Envoys may still ask for.
type rule struct {
	*counters
	factor   float64
	variants []*variant
}

// variant is one form of a rule.
type variant struct {
	counters *counters
	rule     *rlsconfig.Rule
	parts    []string // of the key, as descriptors name them
	global   bool     // requests without a part share a counter
	lease    bool     // a limit of concurrency
	shadow   bool
	reply    *reply
	factor   float64
	burst    int64 // configured, 0: as many as a rate has requests

	bound  bound
	values []value
	// older has the variants before this one that differ from it in their bounds alone.
	older []*variant
}

// value is another bound for some values of the key.
type value struct {
	match []*string // nil: any
	bound bound
}

// bound is what one counter keeps to.
type bound struct {
	unlimited   bool
	rate        gcra.Bound
	concurrency int64
	// status is what Envoy makes x-ratelimit-limit of; nil of concurrency. It is shared by answers.
	status *rlsv3.RateLimitResponse_RateLimit
}

// reply is what a refused request is answered with.
type reply struct {
	headers []*corev3.HeaderValue
	body    []byte
}

// newDomain compiles rules. old are the ones that Envoys may still ask for.
func newDomain(name string, rules, old []*rlsconfig.Rule, factors map[string]float64, of func(id string) *counters) *domain {
	d := &domain{name: name, rules: make(map[string]*rule, len(rules))}
	for i, r := range slices.Concat(rules, old) {
		known := d.rules[r.ID]
		if known == nil {
			known = &rule{counters: of(r.ID), factor: 1}
			if f, ok := factors[r.ID]; ok {
				known.factor = f
			}
			d.rules[r.ID] = known
		}
		v := newVariant(known, r)
		d.leases = d.leases || v.lease
		if i >= len(rules) {
			if newer := known.variant(v.parts, v.lease); newer != nil {
				newer.older = append(newer.older, v)
				continue
			}
		}
		known.variants = append(known.variants, v)
	}
	return d
}

func newVariant(known *rule, r *rlsconfig.Rule) *variant {
	l := &r.Limit
	v := &variant{
		counters: known.counters, rule: r, factor: known.factor,
		lease:  l.Concurrency != nil,
		shadow: r.Shadow(),
		reply:  newReply(l.Reply),
		bound:  newBound(r.Bound(nil), known.factor),
	}
	if l.Rate != nil && l.Rate.Burst != nil {
		v.burst = *l.Rate.Burst
	}
	for _, form := range r.Forms() {
		if form.Missing {
			v.global = true
			continue
		}
		for _, e := range form.Entries {
			switch e.Key {
			case rlsconfig.EntryRule, rlsconfig.EntryWhen, rlsconfig.EntryCEL, rlsconfig.EntryLease:
			default:
				v.parts = append(v.parts, e.Key)
			}
		}
	}
	for _, o := range r.Overrides() {
		v.values = append(v.values, value{o.Match, newBound(o.Bound, known.factor)})
	}
	return v
}

func newBound(b rlsconfig.Bound, factor float64) bound {
	switch {
	case b.Concurrency > 0:
		return bound{concurrency: gcra.Scale(int64(b.Concurrency), factor)}
	case b.Rate != nil:
		burst := b.Rate.Requests
		if b.Rate.Burst != nil {
			burst = *b.Rate.Burst
		}
		return newRate(b.Rate.Requests, b.Rate.Per.Duration, burst, factor)
	}
	return bound{unlimited: true}
}

func newRate(requests int64, per time.Duration, burst int64, factor float64) bound {
	return bound{
		rate:   gcra.NewBound(requests, per, burst, factor),
		status: rateStatus(uint32(min(gcra.Scale(requests, factor), 1<<32-1)), per),
	}
}

// rateStatus is a rate as an answer has it: so many units, of which there are seconds, minutes, hours and days.
func rateStatus(requests uint32, per time.Duration) *rlsv3.RateLimitResponse_RateLimit {
	status := &rlsv3.RateLimitResponse_RateLimit{RequestsPerUnit: requests}
	for _, u := range units {
		if per%u.per == 0 {
			status.Unit = u.unit
			if n := per / u.per; n > 1 {
				status.UnitMultiplier = wrapperspb.UInt32(uint32(n))
			}
			return status
		}
	}
	return status
}

var units = []struct {
	per  time.Duration
	unit rlsv3.RateLimitResponse_RateLimit_Unit
}{
	{24 * time.Hour, rlsv3.RateLimitResponse_RateLimit_DAY},
	{time.Hour, rlsv3.RateLimitResponse_RateLimit_HOUR},
	{time.Minute, rlsv3.RateLimitResponse_RateLimit_MINUTE},
	{time.Second, rlsv3.RateLimitResponse_RateLimit_SECOND},
}

// pers are the units that a descriptor's own limit may have.
var pers = map[typev3.RateLimitUnit]time.Duration{
	typev3.RateLimitUnit_SECOND: time.Second,
	typev3.RateLimitUnit_MINUTE: time.Minute,
	typev3.RateLimitUnit_HOUR:   time.Hour,
	typev3.RateLimitUnit_DAY:    24 * time.Hour,
	typev3.RateLimitUnit_MONTH:  30 * 24 * time.Hour,
	typev3.RateLimitUnit_YEAR:   365 * 24 * time.Hour,
}

func newReply(r *v1alpha1.Reply) *reply {
	if r == nil {
		return nil
	}
	out := &reply{}
	if r.Status != nil && *r.Status != 429 {
		out.headers = append(out.headers, &corev3.HeaderValue{Key: rlsconfig.ReplyHeader, Value: strconv.Itoa(int(*r.Status))})
	}
	names := make([]string, 0, len(r.Headers))
	for name := range r.Headers {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		out.headers = append(out.headers, &corev3.HeaderValue{Key: name, Value: r.Headers[name]})
	}
	if r.Body != nil {
		out.body = []byte(*r.Body)
	}
	return out
}

// variant is the newest one with these parts.
func (r *rule) variant(parts []string, lease bool) *variant {
	for _, v := range r.variants {
		if v.lease == lease && slices.Equal(v.parts, parts) {
			return v
		}
	}
	return nil
}

// described is what a descriptor says.
type described struct {
	variant *variant
	// entries are the parts of the key, or the one entry that stands for all of them.
	entries []*ratelimitv3.RateLimitDescriptor_Entry
	lease   string
}

// A descriptor that is counted by nobody, and why.
const (
	ignoredDomain   = "unknown_fleet"
	ignoredEmpty    = "empty"
	ignoredRule     = "unknown_rule"
	ignoredForm     = "unknown_form"
	ignoredFalse    = "cel_false"
	ignoredOverflow = "too_many"
)

// describe finds what counts for a descriptor. Its form is that of package rlsconfig; one of another form, of a
// rule that is not known, or without entries is counted by nobody, and why is said.
func (d *domain) describe(entries []*ratelimitv3.RateLimitDescriptor_Entry) (described, string) {
	if len(entries) == 0 {
		return described{}, ignoredEmpty
	}
	if entries[0].GetKey() != rlsconfig.EntryRule {
		return described{}, ignoredForm
	}
	r := d.rules[entries[0].GetValue()]
	if r == nil {
		return described{}, ignoredRule
	}
	entries = entries[1:]
	if len(entries) > 0 && entries[0].GetKey() == rlsconfig.EntryWhen {
		entries = entries[1:]
	}
	if len(entries) > 0 && entries[0].GetKey() == rlsconfig.EntryCEL {
		if entries[0].GetValue() != "true" {
			return described{}, ignoredFalse
		}
		entries = entries[1:]
	}
	out := described{entries: entries}
	if last := len(entries) - 1; last >= 0 && entries[last].GetKey() == rlsconfig.EntryLease {
		out.entries, out.lease = entries[:last], entries[last].GetValue()
	}
	for _, v := range r.variants {
		if v.fits(out.entries, out.lease != "") {
			out.variant = v
			return out, ""
		}
	}
	return described{}, ignoredForm
}

// isMissing says whether the entries stand for a request that lacks a part.
func isMissing(entries []*ratelimitv3.RateLimitDescriptor_Entry) bool {
	return len(entries) == 1 && entries[0].GetKey() == rlsconfig.EntryMissing
}

func (v *variant) fits(entries []*ratelimitv3.RateLimitDescriptor_Entry, lease bool) bool {
	if v.lease != lease {
		return false
	}
	if isMissing(entries) {
		return v.global
	}
	if len(entries) != len(v.parts) {
		return false
	}
	for i, e := range entries {
		if e.GetKey() != v.parts[i] {
			return false
		}
	}
	return true
}

// at is the bound of a key: that of the first value that matches, the tighter one while an older bound holds.
func (v *variant) at(entries []*ratelimitv3.RateLimitDescriptor_Entry) *bound {
	b := v.own(entries)
	for _, older := range v.older {
		b = tighter(b, older.own(entries))
	}
	return b
}

func (v *variant) own(entries []*ratelimitv3.RateLimitDescriptor_Entry) *bound {
	if len(v.values) == 0 || len(entries) != len(v.parts) || isMissing(entries) {
		return &v.bound
	}
	for i := range v.values {
		if v.values[i].matches(entries) {
			return &v.values[i].bound
		}
	}
	return &v.bound
}

func (v *value) matches(entries []*ratelimitv3.RateLimitDescriptor_Entry) bool {
	for i, want := range v.match {
		if want != nil && entries[i].GetValue() != *want {
			return false
		}
	}
	return true
}

func tighter(a, b *bound) *bound {
	switch {
	case a.unlimited:
		return b
	case b.unlimited:
		return a
	case a.concurrency > 0:
		if b.concurrency < a.concurrency {
			return b
		}
		return a
	}
	t := bound{rate: gcra.Tighter(a.rate, b.rate), status: a.status}
	if b.rate.Interval() > a.rate.Interval() {
		t.status = b.status
	}
	return &t
}

// stated is the bound that a descriptor brings along, nil if it is of no use.
func (v *variant) stated(l *ratelimitv3.RateLimitDescriptor_RateLimitOverride) *bound {
	requests := int64(l.GetRequestsPerUnit())
	if v.lease {
		return &bound{concurrency: gcra.Scale(requests, v.factor)}
	}
	per := pers[l.GetUnit()]
	if per == 0 || requests == 0 {
		return nil
	}
	burst := v.burst
	if burst == 0 {
		burst = requests
	}
	b := newRate(requests, per, burst, v.factor)
	return &b
}
