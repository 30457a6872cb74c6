package rlsconfig_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

func ptr[T any](v T) *T { return &v }

// The generators draw complete limits, as package v1alpha1 makes them, of which Compile may refuse some.

var (
	drawPart = rapid.SampledFrom([]string{
		"header:X-Tenant", "header:host", "header:x-user", "query:page", "query:q", "ip", "ip/24",
		"method", "path", "route", "namespace:tenant", "cel:request.host",
	})
	// Few values, so that those of a rule and those of a request meet.
	drawValue = rapid.SampledFrom([]string{"a", "b", "c", "10.0.0.0"})
	drawRate  = rapid.Custom(func(t *rapid.T) *v1alpha1.Rate {
		return &v1alpha1.Rate{
			Requests: rapid.SampledFrom([]int64{1, 50, 60, 1_000_000_000}).Draw(t, "requests"),
			Per:      metav1.Duration{Duration: time.Duration(rapid.SampledFrom([]int{1, 7, 10, 60, 3600, 86400}).Draw(t, "seconds")) * time.Second},
			Burst:    ptr(rapid.Int64Range(1, 1_000_000_000).Draw(t, "burst")),
		}
	})
	drawLimit = rapid.Custom(func(t *rapid.T) v1alpha1.Limit {
		l := v1alpha1.Limit{
			Name:    "some",
			Key:     rapid.SliceOfN(drawPart, 0, 3).Draw(t, "key"),
			Missing: ptr(rapid.SampledFrom([]v1alpha1.Missing{"Global", "Skip", "Deny"}).Draw(t, "missing")),
			Scope:   ptr(rapid.SampledFrom([]v1alpha1.Scope{"Fleet", "Proxy"}).Draw(t, "scope")),
			Mode:    ptr(rapid.SampledFrom([]v1alpha1.LimitMode{"Enforce", "Shadow"}).Draw(t, "mode")),
		}
		concurrent := rapid.IntRange(0, 4).Draw(t, "concurrent") == 0
		bound := func() (*v1alpha1.Rate, *int32) {
			if concurrent {
				return nil, ptr(rapid.Int32Range(1, 9).Draw(t, "concurrency"))
			}
			return drawRate.Draw(t, "rate"), nil
		}
		l.Rate, l.Concurrency = bound()
		if rapid.Bool().Draw(t, "selects") {
			l.When = &v1alpha1.When{
				Methods: rapid.SliceOfN(rapid.SampledFrom([]string{"GET", "POST"}), 1, 2).Draw(t, "methods"),
				Headers: map[string]string{"x-tier": rapid.SampledFrom([]string{"*", "!*", "~a+", "gold"}).Draw(t, "header")},
			}
			if rapid.Bool().Draw(t, "by expression") {
				l.When.CEL = ptr("request.host == 'a' // or not")
			}
		}
		for range rapid.IntRange(0, 3).Draw(t, "values") {
			v := v1alpha1.ValueLimit{Match: map[string]string{}}
			for _, part := range l.Key {
				if rapid.IntRange(0, 3).Draw(t, "named") > 0 {
					v.Match[part] = drawValue.Draw(t, "value")
				}
			}
			if v.Rate, v.Concurrency = bound(); rapid.IntRange(0, 3).Draw(t, "unlimited") == 0 {
				v.Rate, v.Concurrency, v.Unlimited = nil, nil, ptr(true)
			}
			l.Values = append(l.Values, v)
		}
		if rapid.IntRange(0, 4).Draw(t, "adapts") == 0 {
			l.Adapt = &v1alpha1.Adapt{By: v1alpha1.AdaptByHealth, Floor: ptr(rapid.Float64Range(0.01, 1).Draw(t, "floor")), Ceil: ptr(1.0), Step: ptr(0.05), Hold: &metav1.Duration{Duration: 10 * time.Second}}
		}
		if rapid.IntRange(0, 4).Draw(t, "replies") == 0 {
			l.Reply = &v1alpha1.Reply{Status: ptr[int32](503), Headers: map[string]string{"x-why": "ä%"}, Body: ptr("{}\n")}
		}
		return l
	})
	drawSite = rapid.Custom(func(t *rapid.T) rlsconfig.Site {
		s := rlsconfig.Site{Route: "shop/web/0", Quota: rapid.Bool().Draw(t, "quota")}
		if rapid.Bool().Draw(t, "labelled") {
			s.Labels = map[string]string{"tenant": drawValue.Draw(t, "label")}
		}
		return s
	})
)

// drawRules are compiled rules, each of its own ID, at least one.
func drawRules(t *rapid.T) []*rlsconfig.Rule {
	var rules []*rlsconfig.Rule
	for range rapid.IntRange(1, 4).Draw(t, "rules") {
		r, err := rlsconfig.Compile(fmt.Sprintf("shop/api/limit-%d", len(rules)), v1alpha1.OnErrorAllow, drawLimit.Draw(t, "limit"))
		if err == nil {
			rules = append(rules, r)
		}
	}
	if len(rules) == 0 {
		t.Skip("no limit of these can be compiled")
	}
	return rules
}

func limitOf(change func(*v1alpha1.Limit)) v1alpha1.Limit {
	l := v1alpha1.Limit{
		Name: "some", Rate: &v1alpha1.Rate{Requests: 10, Per: metav1.Duration{Duration: time.Second}, Burst: ptr(int64(20))},
		Missing: ptr(v1alpha1.MissingSkip), Scope: ptr(v1alpha1.ScopeFleet), Mode: ptr(v1alpha1.LimitEnforce),
	}
	change(&l)
	return l
}

func compile(t *testing.T, change func(*v1alpha1.Limit)) *rlsconfig.Rule {
	t.Helper()
	r, err := rlsconfig.Compile("shop/api/some", v1alpha1.OnErrorAllow, limitOf(change))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCompileRefuses(t *testing.T) {
	values := func(of ...map[string]string) (out []v1alpha1.ValueLimit) {
		for _, m := range of {
			out = append(out, v1alpha1.ValueLimit{Match: m, Unlimited: ptr(true)})
		}
		return out
	}
	for name, c := range map[string]struct {
		change func(*v1alpha1.Limit)
		want   string // the beginning
	}{
		"a part that is none":   {func(l *v1alpha1.Limit) { l.Key = []string{"method", "ips"} }, `key[1]: "ips"`},
		"a starry part":         {func(l *v1alpha1.Limit) { l.Key = []string{"header:x*"} }, `key[0]: "header:x*" ends with a star`},
		"a claim":               {func(l *v1alpha1.Limit) { l.Key = []string{"claim:sub"} }, `key[0]: "claim:sub": claims cannot be trusted`},
		"too short a network":   {func(l *v1alpha1.Limit) { l.Key = []string{"ip/7"} }, `key[0]: "ip/7"`},
		"the same header twice": {func(l *v1alpha1.Limit) { l.Key = []string{"header:a", "header:A"} }, `key[1]: "header:A" is key[0] again`},
		"neither bound":         {func(l *v1alpha1.Limit) { l.Rate = nil }, "rate: "},
		"no unit":               {func(l *v1alpha1.Limit) { l.Rate.Per.Duration = 7 * time.Second }, "rate.per: 10 in 7s"},
		"no unit of a value": {func(l *v1alpha1.Limit) {
			l.Key = []string{"method"}
			l.Values = []v1alpha1.ValueLimit{{Match: map[string]string{"method": "GET"}, Rate: &v1alpha1.Rate{Requests: 10, Per: metav1.Duration{Duration: 7 * time.Second}}}}
		}, "values[0].rate.per: "},
		"a value of no part": {func(l *v1alpha1.Limit) { l.Key = []string{"method"}; l.Values = values(map[string]string{"path": "/"}) }, `values[0].match: "path": is no part of the key; expected one of method`},
		"a value of two parts": {func(l *v1alpha1.Limit) {
			l.Key = []string{"header:id", "query:id"}
			l.Values = values(map[string]string{"id": "1"})
		}, `values[0].match: "id": is header:id and query:id`},
		"no address": {func(l *v1alpha1.Limit) {
			l.Key = []string{"ip"}
			l.Values = values(map[string]string{"ip": "10.0.0.0/8"})
		}, `values[0].match: "ip": "10.0.0.0/8": expected an address`},
		"a star": {func(l *v1alpha1.Limit) {
			l.Key = []string{"method"}
			l.Values = values(map[string]string{"method": "P*"})
		}, `values[0].match: "P*" ends with a star`},
		"the same values twice": {func(l *v1alpha1.Limit) {
			l.Key = []string{"ip/24"}
			l.Values = values(map[string]string{"ip/24": "10.0.0.7"}, map[string]string{"ip/24": "10.0.0.0/24"})
		}, "values[1].match: is that of values[0]"},
		"more than can be counted": {func(l *v1alpha1.Limit) {
			l.Key = []string{"header:a", "header:b", "header:c"}
			for i := range 22 {
				for _, name := range l.Key {
					l.Values = append(l.Values, values(map[string]string{name: fmt.Sprint(i)})...)
				}
			}
		}, "values: more than 1024"},
		"a rate where concurrency is meant": {func(l *v1alpha1.Limit) {
			l.Key, l.Rate, l.Concurrency = []string{"method"}, nil, ptr[int32](3)
			l.Values = []v1alpha1.ValueLimit{{Match: map[string]string{"method": "GET"}, Rate: &v1alpha1.Rate{}}}
		}, "values[0]: expected exactly one"},
		"a global counter for what cannot be told": {func(l *v1alpha1.Limit) {
			l.Key, l.Missing = []string{"cel:request.host"}, ptr(v1alpha1.MissingGlobal)
		}, "missing: "},
		"a denial by expression": {func(l *v1alpha1.Limit) {
			l.Key, l.Missing, l.When = []string{"header:x"}, ptr(v1alpha1.MissingDeny), &v1alpha1.When{CEL: ptr("true")}
		}, "missing: requests are denied by a route"},
		"a denial by backend": {func(l *v1alpha1.Limit) {
			l.Key, l.Missing, l.When = []string{"header:x"}, ptr(v1alpha1.MissingDeny), &v1alpha1.When{Backends: []string{"canary"}}
		}, "missing: requests are denied before"},
		"a path that is none":            {func(l *v1alpha1.Limit) { l.When = &v1alpha1.When{Paths: []string{"/a", "b"}} }, "when.paths[1]: "},
		"an expression that is none":     {func(l *v1alpha1.Limit) { l.When = &v1alpha1.When{Paths: []string{"~["}} }, "when.paths[0]: "},
		"a header's expression":          {func(l *v1alpha1.Limit) { l.When = &v1alpha1.When{Headers: map[string]string{"x-a": "~["}} }, "when.headers[x-a]: "},
		"expressions too large together": {func(l *v1alpha1.Limit) { l.When = &v1alpha1.When{Paths: slicesOf(16, "~(a{100}){9}")} }, "when.paths: together"},
		"concurrency in a proxy":         {func(l *v1alpha1.Limit) { proxy(l); l.Rate, l.Concurrency = nil, ptr[int32](1) }, "concurrency: "},
		"a reply of a proxy":             {func(l *v1alpha1.Limit) { proxy(l); l.Reply = &v1alpha1.Reply{} }, "reply: "},
		"a proxy that adapts":            {func(l *v1alpha1.Limit) { proxy(l); l.Adapt = &v1alpha1.Adapt{} }, "adapt: "},
		"a proxy's backends":             {func(l *v1alpha1.Limit) { proxy(l); l.When = &v1alpha1.When{Backends: []string{"canary"}} }, "when.backends: "},
		"buckets that overlap": {func(l *v1alpha1.Limit) {
			proxy(l)
			l.Key, l.Values = []string{"method", "ip"}, values(map[string]string{"method": "GET"})
		}, "values[0].match: leaves out a part"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rlsconfig.Compile("shop/api/some", v1alpha1.OnErrorAllow, limitOf(c.change))
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func proxy(l *v1alpha1.Limit) { l.Scope = ptr(v1alpha1.ScopeProxy) }

func slicesOf(n int, s string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

func TestCompileAllowsAnyRateInAProxy(t *testing.T) {
	r := compile(t, func(l *v1alpha1.Limit) { proxy(l); l.Rate.Per.Duration = 7 * time.Second })
	b := r.Buckets()[0].GetTokenBucket()
	if b.GetMaxTokens() != 20 || b.GetTokensPerFill().GetValue() != 10 || b.GetFillInterval().AsDuration() != 7*time.Second {
		t.Errorf("bucket %v", b)
	}
}
