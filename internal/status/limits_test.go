package status

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// limiting is a LimitPolicy for the Gateway of-evenkeel, a route, a rule of it, and a route behind no Gateway of ours.
func limiting(scope v1alpha1.Scope) *v1alpha1.LimitPolicy {
	p := &v1alpha1.LimitPolicy{ObjectMeta: meta("limits")}
	for _, ref := range []struct {
		kind, name, section string
	}{{"Gateway", "of-evenkeel", ""}, {"HTTPRoute", "web", ""}, {"HTTPRoute", "web", "read"}, {"HTTPRoute", "away", ""}} {
		t := gatewayv1.LocalPolicyTargetReferenceWithSectionName{}
		t.Group, t.Kind, t.Name = gatewayv1.GroupName, gatewayv1.Kind(ref.kind), gatewayv1.ObjectName(ref.name)
		if ref.section != "" {
			t.SectionName = new(gatewayv1.SectionName(ref.section))
		}
		p.Spec.TargetRefs = append(p.Spec.TargetRefs, t)
	}
	p.Spec.Limits = []v1alpha1.Limit{{Name: "all", Scope: &scope, Rate: &v1alpha1.Rate{Requests: 1, Per: metav1.Duration{Duration: time.Second}}}}
	return p
}

func TestALimitPolicyIsProgrammedWhereItHolds(t *testing.T) {
	web := routeTo("web", gatewayv1.ParentReference{Name: "of-evenkeel"})
	web.Spec.Rules = []gatewayv1.HTTPRouteRule{{Name: new(gatewayv1.SectionName("read"))}}
	with := func(kind translate.Type, state xds.SyncState, nack *xds.Nack) []xds.Proxy {
		p := proxy("a", "shop/of-evenkeel", xds.Synced)
		p.Types[kind], p.LastNack = xds.TypeState{State: state}, nack
		return []xds.Proxy{p}
	}
	const routes = "shop/of-evenkeel/80"
	refused := func(kind translate.Type, name string) []xds.Proxy {
		return with(kind, xds.Nacked, &xds.Nack{Type: kind, Resource: name, Source: "Gateway shop/of-evenkeel", Message: "no"})
	}
	for _, tc := range []struct {
		name    string
		scope   v1alpha1.Scope
		proxies []xds.Proxy
		want    string // of the Gateway and the route, which the rule and the route elsewhere follow
	}{
		{"acknowledged", v1alpha1.ScopeFleet, with(translate.RDS, xds.Synced, nil), "APR"},
		{"routes are waited for", v1alpha1.ScopeFleet, with(translate.RDS, xds.Pending, nil), "ApR"},
		{"slots are waited for", v1alpha1.ScopeFleet, with(translate.ECDS, xds.Pending, nil), "ApR"},
		{"endpoints are not", v1alpha1.ScopeFleet, with(translate.EDS, xds.Pending, nil), "APR"},
		{"another fleet's proxies are not", v1alpha1.ScopeFleet, append(with(translate.RDS, xds.Synced, nil), proxy("b", "shop/other", xds.Pending)), "APR"},
		{"its routes are refused", v1alpha1.ScopeFleet, refused(translate.RDS, routes), "ApR"},
		{"routes of another listener are refused", v1alpha1.ScopeFleet, refused(translate.RDS, "shop/of-evenkeel/81"), "APR"},
		{"its slot is refused", v1alpha1.ScopeFleet, refused(translate.ECDS, translate.AllowFilter), "ApR"},
		{"a slot of others is refused", v1alpha1.ScopeProxy, refused(translate.ECDS, translate.AllowFilter), "APR"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := cluster(tc.proxies, gatewayOf("evenkeel", listener("a", 80, "")), web, routeTo("away"), limiting(tc.scope))
			s := in.stanza(t, source.KindLimitPolicy, "limits")
			if len(s.Ancestors) != 4 {
				t.Fatalf("%d ancestors", len(s.Ancestors))
			}
			for i, want := range []string{tc.want, tc.want, tc.want, "APR"} { // of a route elsewhere there is nothing to wait for
				if got := short(s.Ancestors[i].Conditions); got != want {
					t.Errorf("%d: %s, want %s: %+v", i, got, want, s.Ancestors[i].Conditions)
				}
			}
			if section := s.Ancestors[2].AncestorRef.SectionName; section == nil || *section != "read" {
				t.Errorf("the ancestor that is a rule: %+v", s.Ancestors[2].AncestorRef)
			}
		})
	}
}

// TestALimitPolicyThatHoldsNowhere: there is nothing to wait for but that the Envoys that had it have it no more.
func TestALimitPolicyThatHoldsNowhere(t *testing.T) {
	web := routeTo("web", gatewayv1.ParentReference{Name: "of-evenkeel"})
	web.Spec.Rules = []gatewayv1.HTTPRouteRule{{Name: new(gatewayv1.SectionName("read"))}}
	off := limiting(v1alpha1.ScopeFleet)
	off.Spec.Limits[0].Mode = new(v1alpha1.LimitOff)
	waiting := proxy("a", "shop/of-evenkeel", xds.Synced)
	waiting.Types[translate.RDS] = xds.TypeState{State: xds.Pending}
	for _, tc := range []struct {
		name, want, message string
		proxies             []xds.Proxy
	}{
		{"nobody is connected", "APR", "nothing is to be programmed", nil},
		{"all have acknowledged", "APR", "nothing is to be programmed", []xds.Proxy{proxy("a", "shop/of-evenkeel", xds.Synced)}},
		{"one may have it still", "ApR", "waiting for a", []xds.Proxy{waiting}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := cluster(tc.proxies, gatewayOf("evenkeel", listener("a", 80, "")), web, routeTo("away"), off)
			for i, a := range in.stanza(t, source.KindLimitPolicy, "limits").Ancestors[:3] {
				if got := short(a.Conditions); got != tc.want || !strings.Contains(meaning(a.Conditions, TypeProgrammed), tc.message) {
					t.Errorf("%d: %s, want %s with %q: %+v", i, got, tc.want, tc.message, a.Conditions)
				}
			}
		})
	}
}

// meaning is the message of the condition of a type.
func meaning(conditions []metav1.Condition, kind string) string {
	for _, c := range conditions {
		if c.Type == kind {
			return c.Message
		}
	}
	return ""
}
