package rlsconfig_test

import (
	"cmp"
	"encoding/json"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// rulesOfFuzz are the kinds of limit that there are.
func rulesOfFuzz(f *testing.F) []*rlsconfig.Rule {
	second := metav1.Duration{Duration: time.Second}
	var rules []*rlsconfig.Rule
	for _, change := range []func(*v1alpha1.Limit){
		func(*v1alpha1.Limit) {},
		func(l *v1alpha1.Limit) {
			l.Key, l.Missing = []string{"header:X-Tenant", "query:q"}, ptr(v1alpha1.MissingGlobal)
		},
		func(l *v1alpha1.Limit) { l.Key, l.Missing = []string{"header:X-Tenant"}, ptr(v1alpha1.MissingDeny) },
		func(l *v1alpha1.Limit) { l.Key, l.Rate, l.Concurrency = []string{"ip"}, nil, ptr(int32(3)) },
		func(l *v1alpha1.Limit) {
			l.Key, l.Scope = []string{"ip/24", "method", "cel:request.path"}, ptr(v1alpha1.ScopeProxy)
		},
		func(l *v1alpha1.Limit) {
			l.Key = []string{"namespace:tenant", "route", "path"}
			l.When = &v1alpha1.When{Methods: []string{"GET"}, Paths: []string{"/v1", "=/exact", "~/a.*"}, Headers: map[string]string{"x-tier": "!*"}, CEL: ptr("true")}
			l.Values = []v1alpha1.ValueLimit{{Match: map[string]string{"path": "/v1"}, Rate: &v1alpha1.Rate{Requests: 3, Per: second}}, {Match: map[string]string{"route": "a"}, Unlimited: ptr(true)}}
		},
	} {
		r, err := rlsconfig.Compile("shop/api/some", v1alpha1.OnErrorAllow, limitOf(change))
		if err != nil {
			f.Fatal(err)
		}
		rules = append(rules, r)
	}
	return rules
}

// FuzzCompile has a limit be anything that JSON can say. One that is valid and compiles has Envoys do what they take,
// and is the same when it was encoded.
func FuzzCompile(f *testing.F) {
	for _, r := range rulesOfFuzz(f) {
		text, err := json.Marshal(r.Limit)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var limit v1alpha1.Limit
		if json.Unmarshal(text, &limit) != nil {
			return
		}
		policy := &v1alpha1.LimitPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "api"}, Spec: v1alpha1.LimitPolicySpec{
			TargetRefs: []gatewayv1.LocalPolicyTargetReferenceWithSectionName{{LocalPolicyTargetReference: gatewayv1.LocalPolicyTargetReference{Group: gatewayv1.GroupName, Kind: "HTTPRoute", Name: "api"}}},
			Limits:     []v1alpha1.Limit{limit},
		}}
		taken := len(policy.Validate()) == 0
		r, err := rlsconfig.Compile("shop/api/"+limit.Name, v1alpha1.OnErrorAllow, policy.Spec.WithDefaults().Limits[0])
		if err != nil {
			if len(err.Error()) == 0 {
				t.Error("an error that says nothing")
			}
			return
		}
		for _, m := range renderings(r) {
			if err := m.ValidateAll(); err != nil && taken {
				t.Errorf("%+v: %v is refused: %v", limit, m, err)
			}
		}
		s, err := rlsconfig.Encode([]*rlsconfig.Rule{r})
		if err != nil {
			return // text that is not UTF-8
		}
		if again, err := rlsconfig.Decode(s); err != nil || len(again) != 1 {
			t.Errorf("%+v was encoded and is %v, %v", r, again, err)
		}
	})
}

// FuzzDecode has rules come that another program, or another version of ours, encoded.
func FuzzDecode(f *testing.F) {
	s, err := rlsconfig.Encode(rulesOfFuzz(f))
	if err != nil {
		f.Fatal(err)
	}
	text, err := protojson.Marshal(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		s := &structpb.Struct{}
		if protojson.Unmarshal(text, s) != nil {
			return
		}
		rules, err := rlsconfig.Decode(s)
		if n := len(s.GetFields()["rules"].GetListValue().GetValues()); len(rules) != n && err == nil {
			t.Errorf("%d rules of %d, and nobody is told why", len(rules), n)
		}
		for _, r := range rules {
			renderings(r)
		}
		rlsconfig.Tree("shop/edge", rules, map[string]float64{"shop/api/some": 0.5})
	})
}

// rendering is what an Envoy is sent of a rule.
type rendering interface {
	proto.Message
	ValidateAll() error
}

// renderings are all that is made of a rule.
func renderings(r *rlsconfig.Rule) (all []rendering) {
	for _, site := range []rlsconfig.Site{{}, {Route: "shop/web/0", Labels: map[string]string{"tenant": "a"}, Quota: true}} {
		for _, m := range r.Actions(site) {
			all = append(all, m)
		}
		for _, m := range r.Denied(site) {
			m.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"} // which is the route's
			all = append(all, m)
		}
	}
	for _, m := range r.Buckets() {
		all = append(all, m)
	}
	r.HasQuota()
	r.Overrides()
	for _, form := range r.Forms() {
		var entries []*commonv3.RateLimitDescriptor_Entry
		for _, e := range form.Entries {
			entries = append(entries, &commonv3.RateLimitDescriptor_Entry{Key: e.Key, Value: cmp.Or(e.Value, "a")})
		}
		r.Bound(form.Values(entries))
	}
	return all
}
