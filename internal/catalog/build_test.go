package catalog

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/source"
)

// The universe of the property tests: few names, so that references hit and miss.
var (
	namespaces = []string{"shop", "bank"}
	names      = []string{"a", "b", "c"}
)

func meta(t *rapid.T) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: rapid.SampledFrom(namespaces).Draw(t, "namespace"),
		Name:      rapid.SampledFrom(names).Draw(t, "name"),
	}
}

func change[V any](objects map[types.NamespacedName]*V, m metav1.ObjectMeta, object *V, deleted bool) map[types.NamespacedName]*V {
	next := maps.Clone(objects)
	if next == nil {
		next = map[types.NamespacedName]*V{}
	}
	name := types.NamespacedName{Namespace: m.Namespace, Name: m.Name}
	if next[name] = object; deleted {
		delete(next, name)
	}
	return next
}

// mutate gives a Store that differs from s in one object. With valid no object is refused in itself.
func mutate(t *rapid.T, s *source.Store, valid bool) *source.Store {
	next := *s
	m := meta(t)
	deleted := rapid.IntRange(0, 4).Draw(t, "deleted") == 0
	service := func() string { return rapid.SampledFrom(names).Draw(t, "service") }
	bad := func() bool { return !valid && rapid.Bool().Draw(t, "bad") }
	switch rapid.SampledFrom([]string{"class", "gateway", "route", "grant", "service", "slice", "pod", "policy", "limits", "limits", "namespace"}).Draw(t, "kind") {
	case "class":
		m.Namespace, m.Name = "", rapid.SampledFrom([]string{"ours", "ours", "theirs"}).Draw(t, "class")
		c := &gatewayv1.GatewayClass{ObjectMeta: m, Spec: gatewayv1.GatewayClassSpec{ControllerName: ControllerName}}
		if m.Name == "theirs" {
			c.Spec.ControllerName = "example.com/theirs"
		}
		next.GatewayClasses = change(s.GatewayClasses, m, c, deleted)
	case "gateway":
		g := &gatewayv1.Gateway{ObjectMeta: m, Spec: gatewayv1.GatewaySpec{GatewayClassName: "ours"}}
		for i := range rapid.IntRange(1, 3).Draw(t, "listeners") {
			l := gatewayv1.Listener{Name: gatewayv1.SectionName(fmt.Sprint("l", i)), Port: int32(80 + i%2), Protocol: gatewayv1.HTTPProtocolType}
			l.Hostname = new(gatewayv1.Hostname(rapid.SampledFrom([]string{"", "*.example.com", "a.example.com"}).Draw(t, "listener host")))
			if rapid.Bool().Draw(t, "from all") {
				l.AllowedRoutes = &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: new(gatewayv1.NamespacesFromAll)}}
			}
			if bad() {
				l.Port = 0
			}
			g.Spec.Listeners = append(g.Spec.Listeners, l)
		}
		next.Gateways = change(s.Gateways, m, g, deleted)
	case "route":
		next.HTTPRoutes = change(s.HTTPRoutes, m, drawRoute(t, m, bad()), deleted)
	case "grant":
		g := &gatewayv1.ReferenceGrant{ObjectMeta: m, Spec: gatewayv1.ReferenceGrantSpec{
			From: []gatewayv1.ReferenceGrantFrom{
				{Group: gatewayv1.GroupName, Kind: "HTTPRoute", Namespace: gatewayv1.Namespace(rapid.SampledFrom(namespaces).Draw(t, "from"))},
				{Group: v1alpha1.GroupName, Kind: "Proxy", Namespace: "edge"},
			},
			To: []gatewayv1.ReferenceGrantTo{{Kind: "Service", Name: new(gatewayv1.ObjectName(service()))}},
		}}
		next.ReferenceGrants = change(s.ReferenceGrants, m, g, deleted)
	case "service":
		o := &corev1.Service{ObjectMeta: m}
		for i := range rapid.IntRange(1, 2).Draw(t, "ports") {
			o.Spec.Ports = append(o.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("p", i), Port: int32(8080 + i)})
		}
		next.Services = change(s.Services, m, o, deleted)
	case "slice":
		o := drawSlice(t, m, service())
		if bad() {
			o.AddressType = discoveryv1.AddressTypeFQDN
		}
		next.EndpointSlices = change(s.EndpointSlices, m, o, deleted)
	case "pod":
		o := &corev1.Pod{ObjectMeta: m, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}}
		o.Annotations = map[string]string{WeightAnnotation: rapid.SampledFrom([]string{"1", "2"}).Draw(t, "weight"), ScrapeAnnotation: "true"}
		if bad() {
			o.Annotations[WeightAnnotation] = "much"
		}
		next.Pods = change(s.Pods, m, o, deleted)
	case "policy":
		o := &v1alpha1.BalancePolicy{ObjectMeta: m}
		o.Spec.Strategy = new(rapid.SampledFrom([]v1alpha1.Strategy{v1alpha1.StrategyRTT, v1alpha1.StrategyStatic}).Draw(t, "strategy"))
		o.Spec.TargetRefs = []gatewayv1.LocalPolicyTargetReference{
			{Kind: "Service", Name: gatewayv1.ObjectName(service())},
			{Group: gatewayv1.GroupName, Kind: "Gateway", Name: gatewayv1.ObjectName(service())},
		}
		if bad() {
			o.Spec.Mode = new(v1alpha1.Mode("Sideways"))
		}
		next.BalancePolicies = change(s.BalancePolicies, m, o, deleted)
	case "limits":
		next.LimitPolicies = change(s.LimitPolicies, m, drawLimits(t, m, bad()), deleted)
	case "namespace":
		m.Namespace, m.Name = "", m.Namespace
		m.Labels = map[string]string{"tenant": rapid.SampledFrom(names).Draw(t, "tenant")}
		next.Namespaces = change(s.Namespaces, m, &corev1.Namespace{ObjectMeta: m}, deleted)
	}
	return &next
}

func drawLimits(t *rapid.T, m metav1.ObjectMeta, bad bool) *v1alpha1.LimitPolicy {
	o := &v1alpha1.LimitPolicy{ObjectMeta: m}
	ref := gatewayv1.LocalPolicyTargetReferenceWithSectionName{}
	ref.Group, ref.Name = gatewayv1.GroupName, gatewayv1.ObjectName(rapid.SampledFrom(names).Draw(t, "target"))
	switch ref.Kind = gatewayv1.Kind(rapid.SampledFrom([]string{"Gateway", "HTTPRoute"}).Draw(t, "target kind")); {
	case ref.Kind == "Gateway":
		o.Spec.Override = new(rapid.Bool().Draw(t, "override"))
	case rapid.Bool().Draw(t, "section"):
		ref.SectionName = new(gatewayv1.SectionName("main"))
	}
	o.Spec.TargetRefs = []gatewayv1.LocalPolicyTargetReferenceWithSectionName{ref}
	for _, name := range names[:rapid.IntRange(1, 3).Draw(t, "limits")] {
		l := v1alpha1.Limit{Name: name, Key: []string{"namespace:tenant"}, Rate: &v1alpha1.Rate{
			Requests: int64(rapid.IntRange(1, 3).Draw(t, "requests")), Per: metav1.Duration{Duration: time.Second},
		}}
		l.Mode = new(rapid.SampledFrom([]v1alpha1.LimitMode{v1alpha1.LimitEnforce, v1alpha1.LimitOff}).Draw(t, "mode"))
		if rapid.Bool().Draw(t, "backends") {
			l.When = &v1alpha1.When{Backends: []string{rapid.SampledFrom(names).Draw(t, "counted")}}
		}
		if bad {
			l.Rate.Per.Duration = 0
		}
		o.Spec.Limits = append(o.Spec.Limits, l)
	}
	return o
}

func drawRoute(t *rapid.T, m metav1.ObjectMeta, bad bool) *gatewayv1.HTTPRoute {
	r := &gatewayv1.HTTPRoute{ObjectMeta: m}
	r.Spec.ParentRefs = []gatewayv1.ParentReference{{
		Name:      gatewayv1.ObjectName(rapid.SampledFrom(names).Draw(t, "gateway")),
		Namespace: new(gatewayv1.Namespace(rapid.SampledFrom(namespaces).Draw(t, "gateway namespace"))),
	}}
	if host := rapid.SampledFrom([]string{"", "*.example.com", "a.example.com", "b.net"}).Draw(t, "host"); host != "" {
		r.Spec.Hostnames = []gatewayv1.Hostname{gatewayv1.Hostname(host)}
	}
	path := rapid.SampledFrom([]string{"/", "/a", "/a/b"}).Draw(t, "path")
	if bad {
		path = "nowhere"
	}
	r.Spec.Rules = []gatewayv1.HTTPRouteRule{{
		Name:    new(gatewayv1.SectionName(rapid.SampledFrom([]string{"main", "other"}).Draw(t, "rule"))),
		Matches: []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Value: &path}}},
		BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: gatewayv1.BackendObjectReference{
			Name:      gatewayv1.ObjectName(rapid.SampledFrom(names).Draw(t, "backend")),
			Namespace: new(gatewayv1.Namespace(rapid.SampledFrom(namespaces).Draw(t, "backend namespace"))),
			Port:      new(int32(8080)),
		}}}},
	}}
	return r
}

func drawSlice(t *rapid.T, m metav1.ObjectMeta, service string) *discoveryv1.EndpointSlice {
	m.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	o := &discoveryv1.EndpointSlice{ObjectMeta: m, AddressType: discoveryv1.AddressTypeIPv4}
	o.Ports = []discoveryv1.EndpointPort{{Name: new("p0"), Port: new(int32(9000))}}
	for range rapid.IntRange(0, 3).Draw(t, "endpoints") {
		o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprint("10.0.0.", rapid.IntRange(1, 5).Draw(t, "address"))},
			Conditions: discoveryv1.EndpointConditions{Ready: new(rapid.Bool().Draw(t, "ready")), Serving: new(rapid.Bool().Draw(t, "serving"))},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Name: rapid.SampledFrom(names).Draw(t, "pod")},
		})
	}
	return o
}

// start is a Store in which references may succeed.
func start(t *rapid.T, valid bool) *source.Store {
	s := &source.Store{}
	for range rapid.IntRange(0, 40).Draw(t, "objects") {
		s = mutate(t, s, valid)
	}
	return s
}

func requireEqual(t *rapid.T, got, want *Catalog) {
	t.Helper()
	if !reflect.DeepEqual(got.Fleets, want.Fleets) || !reflect.DeepEqual(got.Services, want.Services) || !slices.Equal(got.Verdicts, want.Verdicts) {
		t.Fatalf("got:\n%s\nwant:\n%s", picture(got), picture(want))
	}
}

// Where nothing is kept the Catalog before is but a means to be fast.
func TestBuildForgetsWhatWasBefore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := start(t, true)
		c := Build(nil, s, Options{})
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			s = mutate(t, s, true)
			prev := c
			c = Build(prev, s, Options{})
			requireEqual(t, c, Build(nil, s, Options{}))
			for name, service := range c.Services {
				if was := prev.Services[name]; was != service && reflect.DeepEqual(was, service) {
					t.Fatalf("%s is equal, but not shared", name)
				}
			}
			for name, fleet := range c.Fleets {
				if was := prev.Fleets[name]; was != fleet && reflect.DeepEqual(was, fleet) {
					t.Fatalf("%s is equal, but not shared", name)
				}
			}
		}
	})
}

// A catalog of the same Store is the same in every pointer.
func TestBuildOfTheSameStoreSharesAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := start(t, false)
		c := Build(nil, s, Options{})
		again := Build(c, s, Options{})
		if !maps.Equal(c.Fleets, again.Fleets) || !maps.Equal(c.Services, again.Services) || !slices.Equal(c.Verdicts, again.Verdicts) {
			t.Fatalf("got:\n%s\nwant:\n%s", picture(again), picture(c))
		}
	})
}

// breakable are the kinds of objects that can be refused whole, with a way to put one in a Store, good or bad.
var breakable = map[string]func(t *rapid.T, s *source.Store, m metav1.ObjectMeta, bad bool){
	source.KindHTTPRoute: func(t *rapid.T, s *source.Store, m metav1.ObjectMeta, bad bool) {
		s.HTTPRoutes = change(s.HTTPRoutes, m, drawRoute(t, m, bad), false)
	},
	source.KindLimitPolicy: func(t *rapid.T, s *source.Store, m metav1.ObjectMeta, bad bool) {
		s.LimitPolicies = change(s.LimitPolicies, m, drawLimits(t, m, bad), false)
	},
}

// An object that turns bad changes nothing but its own verdicts, once it was accepted.
func TestARefusedVersionChangesNothing(t *testing.T) {
	for kind, put := range breakable {
		t.Run(kind, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				s := start(t, true)
				m := meta(t)
				put(t, s, m, false)
				before := Build(nil, s, Options{})

				next := *s
				put(t, &next, m, true)
				after := Build(before, &next, Options{})

				if !maps.Equal(before.Fleets, after.Fleets) || !maps.Equal(before.Services, after.Services) {
					t.Fatalf("got:\n%s\nwant:\n%s", picture(after), picture(before))
				}
				self := source.Ref{Kind: kind, Namespace: m.Namespace, Name: m.Name}
				others := func(c *Catalog) []Verdict {
					return slices.DeleteFunc(slices.Clone(c.Verdicts), func(v Verdict) bool { return v.Object == self })
				}
				if !slices.Equal(others(before), others(after)) {
					t.Fatalf("got:\n%s\nwant:\n%s", picture(after), picture(before))
				}
				for _, v := range after.Verdicts {
					if v.Object == self && v.Accepted.OK {
						t.Fatalf("accepted: %s", v.Describe())
					}
				}
			})
		})
	}
}

// An object that was never accepted leaves the others as they are without it.
func TestABadNewObjectChangesNothing(t *testing.T) {
	for kind, put := range breakable {
		t.Run(kind, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				s := start(t, true)
				m := meta(t)
				delete(s.HTTPRoutes, types.NamespacedName{Namespace: m.Namespace, Name: m.Name})
				delete(s.LimitPolicies, types.NamespacedName{Namespace: m.Namespace, Name: m.Name})
				next := *s
				put(t, &next, m, true)
				without, with := Build(nil, s, Options{}), Build(nil, &next, Options{})
				if !reflect.DeepEqual(without.Fleets, with.Fleets) || !reflect.DeepEqual(without.Services, with.Services) {
					t.Fatalf("got:\n%s\nwant:\n%s", picture(with), picture(without))
				}
			})
		})
	}
}

// A limit holds where the documentation says: worked out anew, route by route, from the objects alone.
func TestTheMostSpecificLimitHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := start(t, true)
		class := metav1.ObjectMeta{Name: "ours"}
		s.GatewayClasses = change(s.GatewayClasses, class, &gatewayv1.GatewayClass{ObjectMeta: class, Spec: gatewayv1.GatewayClassSpec{ControllerName: ControllerName}}, false)
		m := metav1.ObjectMeta{Namespace: "shop", Name: "a"}
		s.Gateways = change(s.Gateways, m, &gatewayv1.Gateway{ObjectMeta: m, Spec: gatewayv1.GatewaySpec{
			GatewayClassName: "ours", Listeners: []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType}},
		}}, false)
		route := drawRoute(t, m, false)
		route.Spec.ParentRefs = []gatewayv1.ParentReference{{Name: "a"}}
		s.HTTPRoutes = change(s.HTTPRoutes, m, route, false)
		for _, m.Name = range names {
			p := drawLimits(t, m, false)
			p.Spec.TargetRefs[0].Name = "a"
			s.LimitPolicies = change(s.LimitPolicies, m, p, rapid.IntRange(0, 9).Draw(t, "left out") == 0)
		}
		c := Build(nil, s, Options{})
		if len(c.Fleets["shop/a"].Listeners[0].VirtualHosts) == 0 {
			t.Fatal("the route is not attached")
		}
		for _, f := range c.Fleets {
			for _, l := range f.Listeners {
				for _, v := range l.VirtualHosts {
					for i := range v.Routes {
						r := &v.Routes[i]
						var got []string
						for _, limit := range r.Limits {
							got = append(got, limit.Rule.ID)
							if want := s.Namespaces[types.NamespacedName{Name: r.Object.Namespace}]; want != nil && limit.Labels["tenant"] != want.Labels["tenant"] {
								t.Fatalf("%s: labels %v, the namespace has %v", r.Name, limit.Labels, want.Labels)
							}
						}
						if want := expectedLimits(s, f.Object, r); !slices.Equal(got, want) {
							t.Fatalf("%s behind %s: has %v, want %v\n%s", r.Name, f.Name, got, want, picture(c))
						}
					}
				}
			}
		}
	})
}

func expectedLimits(s *source.Store, gateway source.Ref, r *Route) (ids []string) {
	section := s.HTTPRoutes[types.NamespacedName{Namespace: r.Object.Namespace, Name: r.Object.Name}].Spec.Rules[0]
	backend := string(section.BackendRefs[0].Name)
	for _, name := range names { // of limits
		var gatewayPolicy, routePolicy, rulePolicy *v1alpha1.LimitPolicy // of each target the older, which here is the first by name
		for _, p := range s.LimitPolicies {
			if !slices.ContainsFunc(p.Spec.Limits, func(l v1alpha1.Limit) bool { return l.Name == name }) {
				continue
			}
			ref := p.Spec.TargetRefs[0]
			var at **v1alpha1.LimitPolicy
			switch named := (source.Ref{Kind: string(ref.Kind), Namespace: p.Namespace, Name: string(ref.Name)}); {
			case named == gateway:
				at = &gatewayPolicy
			case named == r.Object && ref.SectionName == nil:
				at = &routePolicy
			case named == r.Object && *ref.SectionName == *section.Name:
				at = &rulePolicy
			default:
				continue
			}
			if *at == nil || p.Name < (*at).Name {
				*at = p
			}
		}
		best := cmp.Or(rulePolicy, routePolicy, gatewayPolicy)
		if gatewayPolicy != nil && *gatewayPolicy.Spec.Override {
			best = gatewayPolicy
		}
		if best == nil {
			continue
		}
		l := best.Spec.Limits[slices.IndexFunc(best.Spec.Limits, func(l v1alpha1.Limit) bool { return l.Name == name })]
		if *l.Mode != v1alpha1.LimitOff && (l.When == nil || l.When.Backends[0] == backend) {
			ids = append(ids, best.Namespace+"/"+best.Name+"/"+name)
		}
	}
	slices.Sort(ids)
	return ids
}

// Whatever comes, what goes out is sound, and verdicts are sorted.
func TestWhatIsBuiltIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := start(t, false)
		c := Build(nil, s, Options{})
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			s = mutate(t, s, false)
			c = Build(c, s, Options{})
			if problem := unsound(c); problem != "" {
				t.Fatal(problem)
			}
		}
	})
}

func unsound(c *Catalog) string {
	if !slices.IsSortedFunc(c.Verdicts, compareVerdicts) {
		return "the verdicts are not sorted"
	}
	for _, v := range c.Verdicts {
		for _, condition := range []Condition{v.Accepted, v.ResolvedRefs} {
			if condition.Reason == "" || !condition.OK && condition.Message == "" {
				return "a verdict without a reason: " + v.Describe()
			}
		}
	}
	for _, f := range c.Fleets {
		for _, name := range f.Services {
			if c.Services[name] == nil {
				return f.Name + " sends to " + name + ", which does not exist"
			}
		}
		for _, l := range f.Listeners {
			for i, v := range l.VirtualHosts {
				if i > 0 && compareDomains(l.VirtualHosts[i-1].Domain, v.Domain) >= 0 {
					return l.Name + ": domains out of order"
				}
				names := map[string]bool{}
				for _, r := range v.Routes {
					if names[r.Name] {
						return r.Name + " is twice in " + v.Domain
					}
					names[r.Name] = true
				}
			}
		}
	}
	for _, s := range c.Services {
		for i, e := range s.Endpoints {
			at, err := netip.ParseAddrPort(e.Address)
			switch {
			case err != nil || at.String() != e.Address || at.Port() == 0:
				return s.Name + ": bad address " + e.Address
			case at.Addr().IsLoopback() || at.Addr().IsLinkLocalUnicast() || at.Addr().IsMulticast() || at.Addr().IsUnspecified():
				return s.Name + ": an address that should be refused: " + e.Address
			case i > 0 && s.Endpoints[i-1].Address >= e.Address:
				return s.Name + ": endpoints out of order or twice: " + e.Address
			case !(e.Base > 0) || !(e.Multiplier > 0) || e.CPULimit < 0:
				return s.Name + ": bad numbers at " + e.Address
			}
		}
	}
	return ""
}
