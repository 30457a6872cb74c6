package rls

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/wrapperspb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const edge = "shop/edge"

// rate makes the rule shop/api/<name> of so many requests a second, changed by change.
func rate(name string, requests int64, key string, change ...func(*v1alpha1.Limit)) *rlsconfig.Rule {
	l := v1alpha1.Limit{Name: name, Rate: &v1alpha1.Rate{Requests: requests, Per: metav1.Duration{Duration: time.Second}}}
	if key != "" {
		l.Key = strings.Split(key, ",")
	}
	for _, c := range change {
		c(&l)
	}
	return &rlsconfig.Rule{ID: "shop/api/" + name, Limit: l}
}

func burst(n int64) func(*v1alpha1.Limit) { return func(l *v1alpha1.Limit) { l.Rate.Burst = &n } }

func per(d time.Duration) func(*v1alpha1.Limit) {
	return func(l *v1alpha1.Limit) { l.Rate.Per.Duration = d }
}

func concurrent(n int32) func(*v1alpha1.Limit) {
	return func(l *v1alpha1.Limit) { l.Rate, l.Concurrency = nil, &n }
}

func shadow(l *v1alpha1.Limit) { l.Mode = new(v1alpha1.LimitShadow) }
func global(l *v1alpha1.Limit) { l.Missing = new(v1alpha1.MissingGlobal) }

// rig is a Server with rules.
type rig struct {
	*Server
	t        *testing.T
	registry *prometheus.Registry
}

func newRig(t *testing.T, rules ...*rlsconfig.Rule) *rig {
	t.Helper()
	return newRigWith(t, Options{}, rules...)
}

func newRigWith(t *testing.T, o Options, rules ...*rlsconfig.Rule) *rig {
	t.Helper()
	r := &rig{t: t, registry: prometheus.NewRegistry()}
	o.Metrics = r.registry
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	var err error
	if r.Server, err = New(o); err != nil {
		t.Fatal(err)
	}
	r.Configure(edge, rules, nil)
	return r
}

// desc is a descriptor of entries "key=value".
func desc(entries ...string) *ratelimitv3.RateLimitDescriptor {
	d := &ratelimitv3.RateLimitDescriptor{}
	for _, e := range entries {
		k, v, _ := strings.Cut(e, "=")
		d.Entries = append(d.Entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: k, Value: v})
	}
	return d
}

func request(descriptors ...*ratelimitv3.RateLimitDescriptor) *rlsv3.RateLimitRequest {
	return &rlsv3.RateLimitRequest{Domain: edge, Descriptors: descriptors}
}

func (r *rig) ask(descriptors ...*ratelimitv3.RateLimitDescriptor) *rlsv3.RateLimitResponse {
	r.t.Helper()
	answer, err := r.ShouldRateLimit(context.Background(), request(descriptors...))
	if err != nil {
		r.t.Fatal(err)
	}
	return answer
}

func (r *rig) ok(descriptors ...*ratelimitv3.RateLimitDescriptor) bool {
	r.t.Helper()
	return r.ask(descriptors...).OverallCode == rlsv3.RateLimitResponse_OK
}

// saturate asks until it is refused, and says how often it was not.
func (r *rig) saturate(descriptors ...*ratelimitv3.RateLimitDescriptor) (n int) {
	r.t.Helper()
	for r.ok(descriptors...) {
		if n++; n > 100_000 {
			r.t.Fatal("is never refused")
		}
	}
	return n
}

func (r *rig) metric(name string, labels ...string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			matches := f.GetName() == name
			for _, want := range labels {
				found := false
				for _, l := range m.GetLabel() {
					found = found || l.GetName()+"="+l.GetValue() == want
				}
				matches = matches && found
			}
			if matches {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func (r *rig) expect(what string, have, want any) {
	r.t.Helper()
	if have != want {
		r.t.Errorf("%s: %v, expected %v", what, have, want)
	}
}

func tenant(rule, name string) *ratelimitv3.RateLimitDescriptor {
	return desc("rule=shop/api/"+rule, "header:X-Tenant="+name)
}

func TestEachKeyHasItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rate("tenant", 100, "header:X-Tenant", burst(200)))
		admitted := map[string]int{}
		const seconds = 10
		for range seconds * 1000 {
			for _, name := range []string{"a", "b"} {
				if r.ok(tenant("tenant", name)) {
					admitted[name]++
				}
			}
			if r.ok(tenant("tenant", "slow")) {
				admitted["slow"]++
			}
			time.Sleep(time.Millisecond)
			if r.ok(tenant("tenant", "a")) {
				admitted["a"]++
			}
		}
		for _, name := range []string{"a", "b", "slow"} {
			r.expect(name, admitted[name] >= seconds*100+199 && admitted[name] <= seconds*100+200, true)
		}
	})
}

func TestFixedWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRigWith(t, Options{FixedWindows: true}, rate("all", 5, "", burst(100)))
		all := desc("rule=shop/api/all")
		r.expect("a window", r.saturate(all), 5)
		time.Sleep(999 * time.Millisecond)
		r.expect("its end", r.saturate(all), 0)
		time.Sleep(time.Millisecond)
		r.expect("the next", r.saturate(all), 5)
	})
}

// TestARefusalTakesNothingFromTheOthers has one limit refuse before and after others in the request.
func TestARefusalTakesNothingFromTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rate("wide", 50, ""), rate("tight", 3, ""), rate("shadow", 20, "", shadow), rate("streams", 1, "", concurrent(10)))
		wide, tight, shadowed := desc("rule=shop/api/wide"), desc("rule=shop/api/tight"), desc("rule=shop/api/shadow")
		for i := range 40 {
			lease := desc("rule=shop/api/streams", fmt.Sprintf("lease=%d", i))
			r.expect("request", r.ok(wide, tight, lease, shadowed), i < 3)
		}
		r.expect("leases", r.metric("evenkeel_rls_leases"), 3.0)
		answer := r.ask(wide, tight)
		r.expect("the refusing one", answer.Statuses[1].Code, rlsv3.RateLimitResponse_OVER_LIMIT)
		r.expect("the other one", answer.Statuses[0].Code, rlsv3.RateLimitResponse_OK)
		r.expect("left of wide", r.saturate(wide), 47)
		r.expect("left of shadow", r.ask(shadowed).Statuses[0].Code, rlsv3.RateLimitResponse_OK)
		r.expect("refused by shadow", r.metric("evenkeel_rls_requests_total", "rule=shop/api/shadow", "outcome=shadow_refused"), 0.0)
	})
}

func TestShadowRefusesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rate("shadow", 2, "", shadow))
		for range 5 {
			answer := r.ask(desc("rule=shop/api/shadow"))
			r.expect("code", answer.OverallCode, rlsv3.RateLimitResponse_OK)
			r.expect("announced", answer.Statuses[0].CurrentLimit == nil, true)
		}
		r.expect("would have refused", r.metric("evenkeel_rls_requests_total", "outcome=shadow_refused"), 3.0)
	})
}

func TestValuesAndMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ten := int64(10)
		r := newRig(t, rate("tier", 2, "header:X-Tenant,method", global, func(l *v1alpha1.Limit) {
			second := metav1.Duration{Duration: time.Second}
			l.Values = []v1alpha1.ValueLimit{
				{Match: map[string]string{"X-Tenant": "vip", "method": "GET"}, Rate: &v1alpha1.Rate{Requests: 5, Per: second, Burst: &ten}},
				{Match: map[string]string{"header:X-Tenant": "vip"}, Rate: &v1alpha1.Rate{Requests: 4, Per: second}},
				{Match: map[string]string{"X-Tenant": "internal"}, Unlimited: new(true)},
			}
		}))
		as := func(name, method string) *ratelimitv3.RateLimitDescriptor {
			return desc("rule=shop/api/tier", "when=true", "cel=true", "header:X-Tenant="+name, "method="+method)
		}
		r.expect("both values", r.saturate(as("vip", "GET")), 10)
		r.expect("one value", r.saturate(as("vip", "POST")), 4)
		r.expect("another", r.saturate(as("vip", "PUT")), 4)
		r.expect("no value", r.saturate(as("free", "GET")), 2)
		for range 100 {
			r.expect("unlimited", r.ok(as("internal", "GET")), true)
		}
		r.expect("missing", r.saturate(desc("rule=shop/api/tier", "missing=global")), 2)
		r.expect("another value of when", r.saturate(desc("rule=shop/api/tier", "header:X-Tenant=vip", "method=GET")), 0)
	})
}

// TestEachFormIsCounted has each form that descriptors of a rule have meet the bound that rlsconfig says.
func TestEachFormIsCounted(t *testing.T) {
	second := metav1.Duration{Duration: time.Second}
	tiers := func(l *v1alpha1.Limit) {
		l.When = &v1alpha1.When{Methods: []string{"GET"}, CEL: new("true")}
		l.Values = []v1alpha1.ValueLimit{
			{Match: map[string]string{"ip": "10.0.0.1", "X-Tenant": "a"}, Rate: &v1alpha1.Rate{Requests: 5, Per: second}},
			{Match: map[string]string{"ip": "10.0.0.1"}, Rate: &v1alpha1.Rate{Requests: 6, Per: second}},
			{Match: map[string]string{"X-Tenant": "a"}, Unlimited: new(true)},
		}
	}
	rules := []*rlsconfig.Rule{rate("none", 2, ""), rate("tiers", 3, "header:X-Tenant,ip", tiers), rate("global", 4, "query:q,ip/24", global), streams(7)}
	r := newRig(t, rules...)
	bounds := map[Bound]bool{}
	for _, rule := range rules {
		for _, form := range rule.Forms() {
			for _, tenant := range []string{"a", "b"} {
				for _, ip := range []string{"10.0.0.1/32", "10.0.0.2/32"} {
					d := &ratelimitv3.RateLimitDescriptor{}
					for _, e := range form.Entries {
						value := e.Value
						if value == "" {
							value = tenant
						}
						if e.Key == rlsconfig.EntryAddress {
							value = ip
						}
						d.Entries = append(d.Entries, &ratelimitv3.RateLimitDescriptor_Entry{Key: e.Key, Value: value})
					}
					what, why := r.domain(edge).describe(d.Entries)
					if why != "" {
						t.Fatalf("%v is not counted: %s", d, why)
					}
					want := newBound(rule.Bound(form.Values(d.Entries)), 1)
					r.expect(d.String(), what.variant.at(what.entries).view(), want.view())
					bounds[want.view()] = true
				}
			}
		}
	}
	r.expect("different bounds", len(bounds), 7)
}

func TestWhatNobodyCountsIsAllowed(t *testing.T) {
	r := newRig(t, rate("tenant", 1, "header:X-Tenant"), rate("streams", 0, "", concurrent(1)))
	for reason, d := range map[string]*ratelimitv3.RateLimitDescriptor{
		"empty":        desc(),
		"unknown_rule": desc("rule=shop/api/gone", "header:X-Tenant=a"),
		"unknown_form": desc("rule=shop/api/tenant", "header:X-User=a"),
		"cel_false":    desc("rule=shop/api/tenant", "cel=false", "header:X-Tenant=a"),
	} {
		for range 3 {
			r.expect(reason, r.ok(d), true)
		}
		r.expect(reason, r.metric("evenkeel_rls_ignored_descriptors_total", "reason="+reason), 3.0)
	}
	for _, d := range []*ratelimitv3.RateLimitDescriptor{
		desc("header:X-Tenant=a"), desc("rule=shop/api/tenant"), desc("rule=shop/api/tenant", "missing=global"), desc("rule=shop/api/streams"), nil,
	} {
		r.expect("unknown form", r.ok(d, d), true)
	}
	answer, err := r.ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{Domain: "no/fleet", Descriptors: []*ratelimitv3.RateLimitDescriptor{desc("a=b")}})
	r.expect("unknown fleet", err == nil && answer.OverallCode == rlsv3.RateLimitResponse_OK && len(answer.Statuses) == 1, true)
	r.expect("unknown fleet", r.metric("evenkeel_rls_ignored_descriptors_total", "reason=unknown_fleet"), 1.0)
	many := make([]*ratelimitv3.RateLimitDescriptor, 300)
	for i := range many {
		many[i] = desc()
	}
	r.expect("statuses", len(r.ask(many...).Statuses), 300)
	r.expect("too many", r.metric("evenkeel_rls_ignored_descriptors_total", "reason=too_many"), 300.0-maxDescriptors)
}

func TestHits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rate("all", 10, ""))
		hits := func(n uint64, negative bool) *ratelimitv3.RateLimitDescriptor {
			d := desc("rule=shop/api/all")
			d.HitsAddend, d.IsNegativeHits = wrapperspb.UInt64(n), negative
			return d
		}
		r.expect("11 of 10", r.ok(hits(11, false)), false)
		r.expect("a number beyond all", r.ok(hits(1<<63, false)), false)
		r.expect("7 of 10", r.ok(hits(7, false)), true)
		r.expect("none", r.ok(hits(0, false)), true)
		r.expect("4 of 3", r.ok(hits(4, false)), false)
		r.expect("2 back", r.ok(hits(2, true)), true)
		r.expect("left", r.saturate(desc("rule=shop/api/all")), 5)
		r.expect("more back than taken", r.ok(hits(1<<63, true)), true)
		r.expect("left", r.saturate(desc("rule=shop/api/all")), 10)
		time.Sleep(time.Second)
		answer, err := r.ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{Domain: edge, Descriptors: []*ratelimitv3.RateLimitDescriptor{desc("rule=shop/api/all")}, HitsAddend: 4})
		r.expect("of the request", err == nil && answer.Statuses[0].LimitRemaining == 6, true)
	})
}

func TestADescriptorBringsItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rate("canary", 100, ""), rate("bursty", 100, "", burst(7)), rate("streams", 0, "", concurrent(100)))
		stated := func(rule string, n uint32, more ...string) *ratelimitv3.RateLimitDescriptor {
			d := desc(append([]string{"rule=shop/api/" + rule}, more...)...)
			d.Limit = &ratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: n, Unit: typev3.RateLimitUnit_MINUTE}
			return d
		}
		r.expect("its own burst", r.saturate(stated("canary", 3)), 3)
		r.expect("the rule's burst", r.saturate(stated("bursty", 60)), 7)
		time.Sleep(time.Second)
		r.expect("its rate", r.saturate(stated("bursty", 60)), 1)
		r.SetFactors(map[string]map[string]float64{edge: {"shop/api/bursty": 0.5}})
		time.Sleep(time.Second)
		r.expect("half its rate", r.saturate(stated("bursty", 60)), 0)
		r.expect("one stream", r.ok(stated("streams", 1, "lease=1")), true)
		r.expect("two streams", r.ok(stated("streams", 1, "lease=2")), false)
		unitless := desc("rule=shop/api/canary")
		unitless.Limit = &ratelimitv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1}
		time.Sleep(2 * time.Minute)
		r.expect("a bound without a unit", r.saturate(unitless), 100)
	})
}

// TestAChangeKeepsTheCounters replaces rules by others of the same ID.
func TestAChangeKeepsTheCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rate("tenant", 10, "header:X-Tenant"), rate("gone", 10, ""))
		r.saturate(tenant("tenant", "a"))
		r.saturate(desc("rule=shop/api/gone"))
		r.Configure(edge, []*rlsconfig.Rule{rate("tenant", 100, "header:X-Tenant")}, nil)
		r.expect("raised, at once", r.saturate(tenant("tenant", "a")), 0)
		time.Sleep(10 * time.Millisecond)
		r.expect("raised, in a tenth of the time", r.saturate(tenant("tenant", "a")), 1)
		r.Configure(edge, []*rlsconfig.Rule{rate("tenant", 5, "header:X-Tenant")}, nil)
		time.Sleep(199 * time.Millisecond)
		r.expect("lowered", r.saturate(tenant("tenant", "a")), 0)
		time.Sleep(time.Millisecond)
		r.expect("lowered, in twice the time", r.saturate(tenant("tenant", "a")), 1)
		r.SetFactors(map[string]map[string]float64{edge: {"shop/api/tenant": 0.2}})
		time.Sleep(999 * time.Millisecond)
		r.expect("with a factor", r.saturate(tenant("tenant", "a")), 0)
		time.Sleep(time.Millisecond)
		r.expect("with a factor, in five times the time", r.saturate(tenant("tenant", "a")), 1)
		r.expect("the factor", r.metric("evenkeel_rls_factor"), 0.2)
		r.SetFactors(map[string]map[string]float64{edge: {"shop/api/tenant": 0}})
		r.expect("no factor", r.metric("evenkeel_rls_factor"), 1.0)
		r.expect("no floor", r.metric("evenkeel_rls_factor_floor"), 0.0)
		follows := rate("tenant", 5, "header:X-Tenant")
		floor := 0.2
		follows.Limit.Adapt = &v1alpha1.Adapt{By: v1alpha1.AdaptByHealth, Floor: &floor}
		r.Configure(edge, []*rlsconfig.Rule{follows}, nil)
		r.expect("the floor", r.metric("evenkeel_rls_factor_floor", "rule=shop/api/tenant"), floor)
		r.expect("rules with series", r.metric("evenkeel_rls_requests_total", "rule=shop/api/gone"), 0.0)
		r.expect("a rule that is gone", r.ok(desc("rule=shop/api/gone")), true)
	})
}

// TestTwoGenerationsAtATime has the rules of before beside the new ones, as during a change.
func TestTwoGenerationsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		before := []*rlsconfig.Rule{rate("bound", 10, ""), rate("key", 3, "header:X-Tenant"), rate("removed", 4, "")}
		after := []*rlsconfig.Rule{rate("bound", 50, ""), rate("key", 5, "header:X-User"), rate("added", 6, "")}
		r.Configure(edge, after, before)
		r.expect("the tighter bound", r.saturate(desc("rule=shop/api/bound")), 10)
		r.expect("the key of before", r.saturate(tenant("key", "a")), 3)
		r.expect("the new key", r.saturate(desc("rule=shop/api/key", "header:X-User=a")), 5)
		r.expect("removed", r.saturate(desc("rule=shop/api/removed")), 4)
		r.expect("added", r.saturate(desc("rule=shop/api/added")), 6)
		r.Configure(edge, after, nil)
		time.Sleep(time.Second)
		r.expect("the new bound", r.saturate(desc("rule=shop/api/bound")), 50)
		r.expect("the key of before, later", r.ok(tenant("key", "a")), true)
		r.Configure(edge, nil, nil)
		r.expect("without rules", r.ok(desc("rule=shop/api/added")), true)
	})
}

func TestWhatAnAnswerSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		custom := &v1alpha1.Reply{Status: new(int32(503)), Headers: map[string]string{"x-b": "2", "x-a": "1"}, Body: new("later")}
		r := newRig(t, rate("all", 3, "", per(30*time.Second), func(l *v1alpha1.Limit) { l.Reply = custom }))
		answer := r.ask(desc("rule=shop/api/all"))
		st := answer.Statuses[0]
		r.expect("limit", fmt.Sprint(st.CurrentLimit.RequestsPerUnit, st.CurrentLimit.Unit, st.CurrentLimit.UnitMultiplier.GetValue()), "3 SECOND 30")
		r.expect("remaining", st.LimitRemaining, uint32(2))
		r.expect("reset", st.DurationUntilReset.AsDuration(), 10*time.Second)
		r.expect("no reply", answer.RawBody == nil && answer.ResponseHeadersToAdd == nil, true)
		r.saturate(desc("rule=shop/api/all"))
		time.Sleep(500 * time.Millisecond)
		answer = r.ask(desc("rule=shop/api/all"))
		r.expect("the next, in whole seconds", answer.Statuses[0].DurationUntilReset.AsDuration(), 10*time.Second)
		r.expect("body", string(answer.RawBody), "later")
		headers := ""
		for _, h := range answer.ResponseHeadersToAdd {
			headers += h.Key + "=" + h.Value + " "
		}
		r.expect("headers", headers, "x-evenkeel-reply=503 x-a=1 x-b=2 ")
	})
}

func TestLimitsAndExplain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, rate("tenant", 4, "header:X-Tenant", global, func(l *v1alpha1.Limit) {
			l.Values = []v1alpha1.ValueLimit{{Match: map[string]string{"X-Tenant": "vip"}, Rate: &v1alpha1.Rate{Requests: 8, Per: metav1.Duration{Duration: time.Second}}}}
		}), rate("a", 1, ""))
		r.SetFactors(map[string]map[string]float64{edge: {"shop/api/tenant": 0.5}})
		for i := range 100 {
			for range i {
				r.ask(tenant("tenant", fmt.Sprintf("t%02d", i)))
			}
		}
		limits := r.Limits()
		r.expect("rules", len(limits), 2)
		l := limits[1]
		r.expect("rule", fmt.Sprint(l.Fleet, " ", l.Rule, " ", l.Factor, " ", l.Now, " ", l.Requests, " ", l.Keys), "shop/edge shop/api/tenant 0.5 {2 2 0 false} 4950 99")
		r.expect("refused", l.Refused, uint64(4950-1-2*98))
		r.expect("top keys", len(l.Top), topKeys)
		if top := l.Top[0]; top.Key != "header:X-Tenant=t99" || top.Refused < 97 || top.Refused-top.Error > 97 {
			t.Errorf("the most refused is %+v, expected t99 with 97", top)
		}
		e, err := r.Explain(t.Context(), edge, "shop/api/tenant", map[string]string{"X-Tenant": "t99"})
		r.expect("explained", fmt.Sprint(e, err), fmt.Sprint(Explanation{Key: "header:X-Tenant=t99", Bound: Bound{Rate: 2, Burst: 2}, Value: -1, Factor: 0.5, Reset: 500 * time.Millisecond}, nil))
		e, err = r.Explain(t.Context(), edge, "shop/api/tenant", map[string]string{"header:X-Tenant": "vip"})
		r.expect("explained", fmt.Sprint(e.Value, e.Remaining, e.Admitted, e.Bound, err), "0 4 true {4 4 0 false} <nil>")
		e, err = r.Explain(t.Context(), edge, "shop/api/tenant", nil)
		r.expect("explained", fmt.Sprint(e.Key, err), "missing=global<nil>")
		r.expect("keys after keys were explained that nobody came with", r.Limits()[1].Keys, int64(99))
		for _, values := range []map[string]string{{"X-User": "a"}, {"X-Tenant": "a", "X-User": "a"}} {
			if _, err := r.Explain(t.Context(), edge, "shop/api/tenant", values); err == nil || !strings.Contains(err.Error(), "X-User") {
				t.Errorf("%v: %v", values, err)
			}
		}
		if _, err := r.Explain(t.Context(), edge, "shop/api/none", nil); err == nil {
			t.Error("a rule that is not there was explained")
		}
	})
}
