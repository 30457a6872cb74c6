package rlsconfig_test

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	exprv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rate_limit_descriptors/expr/v3"
	configv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// emit is a descriptor that an Envoy may send for the actions, where all of them find a value.
func emit(t *rapid.T, limit *routev3.RateLimit) []*commonv3.RateLimitDescriptor_Entry {
	var entries []*commonv3.RateLimitDescriptor_Entry
	for _, a := range limit.GetActions() {
		var e *commonv3.RateLimitDescriptor_Entry
		add := func(key, value string) { e = &commonv3.RateLimitDescriptor_Entry{Key: key, Value: value} }
		switch {
		case a.GetGenericKey() != nil:
			add(a.GetGenericKey().GetDescriptorKey(), a.GetGenericKey().GetDescriptorValue())
		case a.GetHeaderValueMatch() != nil:
			add(a.GetHeaderValueMatch().GetDescriptorKey(), a.GetHeaderValueMatch().GetDescriptorValue())
		case a.GetQueryParameterValueMatch() != nil:
			add(a.GetQueryParameterValueMatch().GetDescriptorKey(), a.GetQueryParameterValueMatch().GetDescriptorValue())
		case a.GetRequestHeaders() != nil:
			add(a.GetRequestHeaders().GetDescriptorKey(), rapid.OneOf(drawValue, rapid.Just("")).Draw(t, "header"))
		case a.GetQueryParameters() != nil:
			add(a.GetQueryParameters().GetDescriptorKey(), rapid.OneOf(drawValue, rapid.Just("")).Draw(t, "parameter"))
		case a.GetMaskedRemoteAddress() != nil:
			add("masked_remote_address", fmt.Sprintf("10.0.0.0/%d", a.GetMaskedRemoteAddress().GetV4PrefixMaskLen().GetValue()))
		case a.GetExtension() != nil:
			d := &exprv3.Descriptor{}
			if err := a.GetExtension().GetTypedConfig().UnmarshalTo(d); err != nil {
				t.Fatal(err)
			}
			if d.GetDescriptorKey() == rlsconfig.EntryCEL {
				add(d.GetDescriptorKey(), "true")
			} else {
				add(d.GetDescriptorKey(), drawValue.Draw(t, "expression"))
			}
		default:
			t.Fatalf("an action that is not known: %v", a)
		}
		if e.GetValue() == "" && a.GetRequestHeaders() == nil && a.GetQueryParameters() == nil {
			t.Fatalf("%v has an empty value, which Envoy refuses", a)
		}
		entries = append(entries, e)
	}
	return entries
}

// lookUp is how the reference service finds the limit of a descriptor.
func lookUp(level []*configv3.RateLimitDescriptor, entries []*commonv3.RateLimitDescriptor_Entry) *configv3.RateLimitDescriptor {
	var node *configv3.RateLimitDescriptor
	for _, e := range entries {
		find := func(value string) *configv3.RateLimitDescriptor {
			for _, d := range level {
				if d.GetKey() == e.GetKey() && d.GetValue() == value {
					return d
				}
			}
			return nil
		}
		if node = find(e.GetValue()); node == nil {
			node = find("")
		}
		if node == nil {
			return nil
		}
		level = node.GetDescriptors()
	}
	return node
}

// TestEveryDescriptorIsCounted: what the actions can emit has exactly one form, one node in the tree, one
// bucket, and they all say what Bound says.
func TestEveryDescriptorIsCounted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := drawRules(t)
		tree := rlsconfig.Tree("shop/edge", rules, nil)
		site := drawSite.Draw(t, "site")
		for _, r := range rules {
			for _, limit := range r.Actions(site) {
				if err := limit.ValidateAll(); err != nil {
					t.Fatal(err)
				}
				entries := emit(t, limit)
				var forms []rlsconfig.Form
				for _, other := range rules {
					for _, f := range other.Forms() {
						if f.Matches(entries) {
							if other != r {
								t.Fatalf("%v of %s is taken for %s", entries, r.ID, other.ID)
							}
							forms = append(forms, f)
						}
					}
				}
				if len(forms) != 1 {
					t.Fatalf("%v has %d forms, want one of %v", entries, len(forms), r.Forms())
				}
				want := r.Bound(forms[0].Values(entries))
				if r.Scope() == v1alpha1.ScopeProxy {
					checkBucket(t, r, entries, want)
					continue
				}
				node := lookUp(tree.GetDescriptors(), entries)
				if node == nil || node.GetRateLimit() == nil {
					t.Fatalf("%v is not counted by %v", entries, tree)
				}
				checkNode(t, node, r, want)
				if q := limit.GetLimit().GetRateLimit(); q != nil && (q.GetRequestsPerUnit() != node.GetRateLimit().GetRequestsPerUnit() || int(q.GetUnit()) != int(node.GetRateLimit().GetUnit())) {
					t.Fatalf("the quota is %v, the node's %v", q, node.GetRateLimit())
				}
			}
		}
	})
}

func checkNode(t *rapid.T, node *configv3.RateLimitDescriptor, r *rlsconfig.Rule, want rlsconfig.Bound) {
	p := node.GetRateLimit()
	if node.GetShadowMode() != r.Shadow() {
		t.Fatalf("%v: shadow is %v", node, r.Shadow())
	}
	if p.GetUnlimited() != (want.Rate == nil) {
		t.Fatalf("%v, want %v", p, want)
	}
	if want.Rate == nil {
		return
	}
	seconds := map[configv3.RateLimitUnit]int64{1: 1, 2: 60, 3: 3600, 4: 86400}[p.GetUnit()]
	if got := int64(p.GetRequestsPerUnit()) * int64(want.Rate.Per.Duration/time.Second); seconds == 0 || got != want.Rate.Requests*seconds {
		t.Fatalf("%v, want %v", p, want.Rate)
	}
}

// checkBucket looks as the local filter does: an exact bucket, else one of those with open values, of which no
// two may match, for it takes any.
func checkBucket(t *rapid.T, r *rlsconfig.Rule, entries []*commonv3.RateLimitDescriptor_Entry, want rlsconfig.Bound) {
	var exact, open []*commonv3.LocalRateLimitDescriptor
	for _, b := range r.Buckets() {
		matches, isExact := len(b.GetEntries()) == len(entries), true
		for i, e := range b.GetEntries() {
			matches = matches && e.GetKey() == entries[i].GetKey() && (e.GetValue() == "" || e.GetValue() == entries[i].GetValue())
			isExact = isExact && e.GetValue() != ""
		}
		switch {
		case matches && isExact:
			exact = append(exact, b)
		case matches:
			open = append(open, b)
		}
	}
	if len(exact) > 1 || len(open) > 1 || len(exact)+len(open) == 0 {
		t.Fatalf("%v has the buckets %v and %v", entries, exact, open)
	}
	b := append(exact, open...)[0]
	if err := b.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	if want.Rate != nil && (int64(b.GetTokenBucket().GetMaxTokens()) != *want.Rate.Burst || b.GetTokenBucket().GetFillInterval().AsDuration() != want.Rate.Per.Duration) || b.GetShadowMode() != r.Shadow() {
		t.Fatalf("%v, want %v", b, want.Rate)
	}
	if want.Rate == nil && b.GetTokenBucket().GetMaxTokens() < 1<<31 {
		t.Fatalf("%v, want no limit", b)
	}
}

func TestEncodeIsTheIdentity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := drawRules(t)
		encode := func() []byte {
			s, err := rlsconfig.Encode(rules)
			if err != nil {
				t.Fatal(err)
			}
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			decoded, err := rlsconfig.Decode(s)
			if err != nil {
				t.Fatal(err)
			}
			if len(decoded) != len(rules) {
				t.Fatalf("%d rules became %d", len(rules), len(decoded))
			}
			for i, r := range rules {
				if again := decoded[i]; !reflect.DeepEqual(normal(again), normal(r)) {
					t.Fatalf("%+v became %+v", r, again)
				}
			}
			return b
		}
		if a, b := encode(), encode(); !slices.Equal(a, b) {
			t.Fatal("two encodings of the same rules differ")
		}
	})
}

// normal has no empty list where there may be none.
func normal(r *rlsconfig.Rule) rlsconfig.Rule {
	n := *r
	if len(n.Limit.Key) == 0 {
		n.Limit.Key = nil
	}
	return n
}

func TestDecodeNamesWhatItLeavesOut(t *testing.T) {
	good := compile(t, func(*v1alpha1.Limit) {})
	bad := &rlsconfig.Rule{ID: "shop/api/bad", Limit: limitOf(func(l *v1alpha1.Limit) { l.Key = []string{"claim:x"} })}
	s, err := rlsconfig.Encode([]*rlsconfig.Rule{bad, good})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := rlsconfig.Decode(s)
	if len(rules) != 1 || rules[0].ID != good.ID || err == nil || !regexp.MustCompile(`^rules\[0\]: "shop/api/bad": key\[0\]`).MatchString(err.Error()) {
		t.Errorf("got %v and %v", rules, err)
	}
}

// TestPathsMeanThePath: whatever the query is, a request is selected by its path alone.
func TestPathsMeanThePath(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		expression := rapid.StringMatching(`\^?/(a|b|\.|\.\*|\[\^b\]|\(a\|b\)\+|a\?|\\\?)*\$?`).Draw(t, "expression")
		alone, err := regexp.Compile(`^(?:` + expression + `)$`)
		if err != nil {
			t.Skip(err)
		}
		r, err := rlsconfig.Compile("a/b/c", "Allow", limitOf(func(l *v1alpha1.Limit) { l.When = &v1alpha1.When{Paths: []string{"~" + expression}} }))
		if err != nil {
			t.Skip(err)
		}
		matcher := pathMatcher(t, r)
		path := "/" + rapid.StringMatching(`[ab]{0,3}`).Draw(t, "path")
		for _, query := range []string{"", "?", "?a=b", "?x=/a?b"} {
			if got, want := matcher.MatchString(path+query), alone.MatchString(path); got != want {
				t.Fatalf("%s is %v for %q, want %v", expression, got, path+query, want)
			}
		}
	})
}

func TestPathPrefixes(t *testing.T) {
	for _, c := range []struct{ path, of, not string }{
		{"/v1", "/v1 /v1/ /v1/a /v1?q /v1/a?q=/", "/v11 /v /v2?/v1 /V1"},
		{"/v1/", "/v1 /v1/a", "/v11"},
		{"/", "/ /a /?q", "a"},
		{"=/a.b", "/a.b /a.b?q", "/a.b/ /axb /a.b/?"},
	} {
		r := compile(t, func(l *v1alpha1.Limit) { l.When = &v1alpha1.When{Paths: []string{c.path, "=/other"}} })
		m := pathMatcher(t, r)
		for _, p := range regexp.MustCompile(" ").Split(c.of, -1) {
			if !m.MatchString(p) {
				t.Errorf("%s does not select %s", c.path, p)
			}
		}
		for _, p := range regexp.MustCompile(" ").Split(c.not, -1) {
			if m.MatchString(p) {
				t.Errorf("%s selects %s", c.path, p)
			}
		}
	}
}

// pathMatcher is the expression for the :path of the rule's first descriptor, matched as Envoy does.
func pathMatcher(t interface{ Fatal(...any) }, r *rlsconfig.Rule) *regexp.Regexp {
	for _, a := range r.Actions(rlsconfig.Site{})[0].GetActions() {
		for _, h := range a.GetHeaderValueMatch().GetHeaders() {
			if h.GetName() == ":path" {
				return regexp.MustCompile(`^(?:` + h.GetStringMatch().GetSafeRegex().GetRegex() + `)$`)
			}
		}
	}
	t.Fatal("the rule does not select by path")
	return nil
}

func TestFirstValueThatMatchesIsTaken(t *testing.T) {
	r := compile(t, func(l *v1alpha1.Limit) {
		l.Key = []string{"header:X-Tenant", "method", "ip/24"}
		l.Values = []v1alpha1.ValueLimit{
			{Match: map[string]string{"method": "GET", "x-tenant": "prod"}, Unlimited: ptr(true)},
			{Match: map[string]string{"header:X-Tenant": "prod"}, Rate: &v1alpha1.Rate{Requests: 500, Per: l.Rate.Per}},
			{Match: map[string]string{"ip/24": "10.1.2.3"}, Rate: &v1alpha1.Rate{Requests: 1, Per: l.Rate.Per}},
		}
	})
	for _, c := range []struct {
		tenant, method, address string
		want                    int64 // 0: unlimited
	}{
		{"prod", "GET", "10.1.2.9", 0},
		{"prod", "POST", "10.1.2.9", 500},
		{"x", "GET", "10.1.2.9", 1},
		{"x", "GET", "10.1.3.9", 10},
	} {
		values, err := r.Values(map[string]string{"X-Tenant": c.tenant, "method": c.method, "ip/24": c.address})
		if err != nil {
			t.Fatal(err)
		}
		if b := r.Bound(values); b.Unlimited != (c.want == 0) || !b.Unlimited && b.Rate.Requests != c.want {
			t.Errorf("%v has %+v, want %d", values, b, c.want)
		}
	}
	if b := r.Bound(nil); b.Rate.Requests != 10 {
		t.Errorf("requests that lack a part have %+v", b)
	}
	if _, err := r.Values(map[string]string{"method": "GET"}); err == nil {
		t.Error("a part without a value was not missed")
	}
}

func TestFactors(t *testing.T) {
	r := compile(t, func(*v1alpha1.Limit) {})
	for factor, want := range map[float64]uint32{0.5: 5, 0.01: 1, 1e30: 1<<32 - 1} {
		tree := rlsconfig.Tree("d", []*rlsconfig.Rule{r}, map[string]float64{r.ID: factor})
		if got := tree.GetDescriptors()[0].GetRateLimit().GetRequestsPerUnit(); got != want {
			t.Errorf("10 times %v is %d, want %d", factor, got, want)
		}
	}
}
