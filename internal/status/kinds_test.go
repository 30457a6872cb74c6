package status

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/xds"
)

// cluster is a Store, and what its catalog says with these proxies.
func cluster(proxies []xds.Proxy, objects ...source.Object) Input {
	store := source.NewStore()
	store.Add(&gatewayv1.GatewayClass{
		ObjectMeta: metav1.ObjectMeta{Name: "evenkeel", Generation: 3}, Spec: gatewayv1.GatewayClassSpec{ControllerName: catalog.ControllerName},
	})
	store.Add(&gatewayv1.GatewayClass{
		ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: "example.com/other"},
	})
	for _, o := range objects {
		store.Add(o)
	}
	return Input{Store: store, Catalog: catalog.Build(nil, store, catalog.Options{}), Proxies: proxies}
}

func (in Input) stanza(t *testing.T, kind, name string) Stanza {
	t.Helper()
	j := new(Kinds).Stanzas(in, Conditions(in))[source.Ref{Kind: kind, Namespace: "shop", Name: name}]
	if j == nil {
		return Stanza{}
	}
	if want := types.UID("uid of " + name); j.UID != want {
		t.Errorf("%s %s: UID %q, want %q", kind, name, j.UID, want)
	}
	return j.Stanza
}

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid of " + name), Generation: 7}
}

func gatewayOf(class gatewayv1.ObjectName, listeners ...gatewayv1.Listener) *gatewayv1.Gateway {
	return &gatewayv1.Gateway{ObjectMeta: meta(string("of-" + class)), Spec: gatewayv1.GatewaySpec{GatewayClassName: class, Listeners: listeners}}
}

func listener(name string, port int, hostname string) gatewayv1.Listener {
	l := gatewayv1.Listener{Name: gatewayv1.SectionName(name), Port: gatewayv1.PortNumber(port), Protocol: gatewayv1.HTTPProtocolType}
	if hostname != "" {
		l.Hostname = new(gatewayv1.Hostname(hostname))
	}
	return l
}

func routeTo(name string, parents ...gatewayv1.ParentReference) *gatewayv1.HTTPRoute {
	r := &gatewayv1.HTTPRoute{ObjectMeta: meta(name)}
	r.Spec.ParentRefs = parents
	return r
}

func balance(name string, targets ...string) *v1alpha1.BalancePolicy {
	p := &v1alpha1.BalancePolicy{ObjectMeta: meta(name)}
	for _, target := range targets {
		ref := gatewayv1.LocalPolicyTargetReference{Kind: "Service", Name: gatewayv1.ObjectName(target)}
		if strings.HasPrefix(target, "of-") {
			ref.Group, ref.Kind = gatewayv1.GroupName, "Gateway"
		}
		p.Spec.TargetRefs = append(p.Spec.TargetRefs, ref)
	}
	return p
}

// short is a status in few words: conditions as letters of their type, capital if True.
func short(conditions []metav1.Condition) (text string) {
	for _, c := range conditions {
		letter := strings.ToLower(c.Type[:1])
		if c.Status == metav1.ConditionTrue {
			letter = strings.ToUpper(letter)
		}
		text += letter
	}
	return text
}

func TestAGatewayWithAllKindsOfListeners(t *testing.T) {
	kinds := listener("kinds", 82, "")
	kinds.AllowedRoutes = &gatewayv1.AllowedRoutes{Kinds: []gatewayv1.RouteGroupKind{{Kind: "GRPCRoute"}, {Kind: "TCPRoute"}}}
	tcp := listener("tcp", 83, "")
	tcp.Protocol = gatewayv1.TCPProtocolType
	in := cluster(nil, gatewayOf("evenkeel", listener("a", 80, "a.example"), listener("same", 80, "a.example"), listener("b", 81, ""), kinds, tcp),
		routeTo("both", gatewayv1.ParentReference{Name: "of-evenkeel"}),
		routeTo("one", gatewayv1.ParentReference{Name: "of-evenkeel", SectionName: new(gatewayv1.SectionName("b"))}))
	s := in.stanza(t, source.KindGateway, "of-evenkeel")
	if short(s.Conditions) != "Ap" || len(s.Addresses) != 0 {
		t.Errorf("%+v", s)
	}
	for i, want := range []struct {
		name, conditions string
		attached, kinds  int
	}{
		{"a", "AcpR", 1, 1}, {"same", "aCpR", 0, 1}, {"b", "AcpR", 2, 1}, {"kinds", "Acpr", 0, 0}, {"tcp", "acpR", 0, 0},
	} {
		l := s.Listeners[i]
		if string(l.Name) != want.name || short(l.Conditions) != want.conditions || int(l.AttachedRoutes) != want.attached || len(l.SupportedKinds) != want.kinds {
			t.Errorf("listener %s: %s, %d routes, %d kinds; want %+v", l.Name, short(l.Conditions), l.AttachedRoutes, len(l.SupportedKinds), want)
		}
		for _, c := range l.Conditions {
			if c.ObservedGeneration != 7 {
				t.Errorf("%+v is of no generation", c)
			}
		}
		if l.SupportedKinds == nil {
			t.Errorf("listener %s: kinds that are absent are any", l.Name)
		}
	}
}

func TestAddresses(t *testing.T) {
	for given, want := range map[string]string{"": "", "10.0.0.9": "10.0.0.9", "0.0.0.0": "", "::": "", "2001:db8::1": "2001:db8::1"} {
		g := gatewayOf("evenkeel", listener("a", 80, ""))
		if given != "" {
			g.Spec.Addresses = []gatewayv1.GatewaySpecAddress{{Value: given}}
		}
		got := ""
		for _, a := range cluster(nil, g).stanza(t, source.KindGateway, "of-evenkeel").Addresses {
			got += a.Value
		}
		if got != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}

// TestWhoseObjectsHaveAStatus: nothing is said of what other controllers answer for, or nobody.
func TestWhoseObjectsHaveAStatus(t *testing.T) {
	ours := gatewayv1.ParentReference{Name: "of-evenkeel", Port: new(gatewayv1.PortNumber(80))}
	in := cluster(nil, gatewayOf("evenkeel", listener("a", 80, "")), gatewayOf("other", listener("a", 80, "")), gatewayOf("none", listener("a", 80, "")),
		routeTo("mixed", gatewayv1.ParentReference{Name: "of-other"}, gatewayv1.ParentReference{Name: "of-none"}, gatewayv1.ParentReference{Name: "missing"},
			gatewayv1.ParentReference{Kind: new(gatewayv1.Kind("Service")), Group: new(gatewayv1.Group("")), Name: "of-evenkeel"}, ours,
			gatewayv1.ParentReference{Name: "of-evenkeel", Port: new(gatewayv1.PortNumber(81))}),
		routeTo("theirs", gatewayv1.ParentReference{Name: "of-other"}))
	for _, absent := range []source.Ref{
		{Kind: source.KindGateway, Name: "of-other"}, {Kind: source.KindGateway, Name: "of-none"}, {Kind: source.KindHTTPRoute, Name: "theirs"},
	} {
		if s := in.stanza(t, absent.Kind, absent.Name); !s.Empty() {
			t.Errorf("%s says %+v", absent, s)
		}
	}
	classes := new(Kinds).Stanzas(in, Conditions(in))
	if classes[source.Ref{Kind: source.KindGatewayClass, Name: "other"}] != nil {
		t.Error("the class of another has a status")
	}
	if c := classes[source.Ref{Kind: source.KindGatewayClass, Name: "evenkeel"}].Stanza.Conditions; short(c) != "A" || c[0].ObservedGeneration != 3 {
		t.Errorf("our class says %+v", c)
	}
	s := in.stanza(t, source.KindHTTPRoute, "mixed")
	if len(s.Parents) != 2 {
		t.Fatalf("%+v", s.Parents)
	}
	for i, want := range []string{"ApR", "apR"} { // port 81 has no listener
		if p := s.Parents[i]; short(p.Conditions) != want || p.ControllerName != catalog.ControllerName || int(*p.ParentRef.Port) != 80+i {
			t.Errorf("%+v, want %s", p, want)
		}
	}
}

func TestAPolicyHasAnAncestorForEveryTarget(t *testing.T) {
	targets := []string{"of-evenkeel", "of-other"}
	for i := range 14 {
		targets = append(targets, fmt.Sprintf("s%d", i))
	}
	in := cluster(nil, gatewayOf("evenkeel", listener("a", 80, "")), gatewayOf("other", listener("a", 80, "")), balance("p", targets...))
	s := in.stanza(t, source.KindBalancePolicy, "p")
	if len(s.Ancestors) != 16 {
		t.Fatalf("%d ancestors", len(s.Ancestors))
	}
	for i, want := range []string{"ApR", "apR", "apR"} {
		a := s.Ancestors[i]
		if string(a.AncestorRef.Name) != targets[i] || *a.AncestorRef.Namespace != "shop" || short(a.Conditions) != want {
			t.Errorf("%d: %+v, want %s", i, a, want)
		}
	}
	many := cluster(nil, balance("p", append(targets, "s14")...)).stanza(t, source.KindBalancePolicy, "p") // of a directory, say
	if len(many.Ancestors) != 16 {
		t.Errorf("%d ancestors are more than an API server takes", len(many.Ancestors))
	}
	if a := s.Ancestors[2].AncestorRef; *a.Kind != "Service" || *a.Group != "" {
		t.Errorf("%+v", a)
	}
}

func TestARefusedVersionIsTheOneThatIsJudged(t *testing.T) {
	in := cluster(nil, gatewayOf("evenkeel", listener("a", 80, "")), routeTo("r", gatewayv1.ParentReference{Name: "of-evenkeel"}))
	in.Store.Problems = []source.Problem{{
		Object: source.Ref{Kind: source.KindHTTPRoute, Namespace: "shop", Name: "r"}, Generation: 8, Field: "spec.rulez", Message: "no such field", Kept: "the version before",
	}}
	for _, c := range in.stanza(t, source.KindHTTPRoute, "r").Parents[0].Conditions {
		want := int64(7)
		if c.Type == TypeAccepted {
			want = 8
			if c.Status != metav1.ConditionFalse || c.Message != "spec.rulez: no such field" {
				t.Errorf("%+v", c)
			}
		}
		if c.ObservedGeneration != want {
			t.Errorf("%s is of generation %d, want %d", c.Type, c.ObservedGeneration, want)
		}
	}
}

func TestWhatStaysIsTheSamePointer(t *testing.T) {
	in := cluster(nil, gatewayOf("evenkeel", listener("a", 80, "")), routeTo("r", gatewayv1.ParentReference{Name: "of-evenkeel"}))
	var k Kinds
	before := k.Stanzas(in, Conditions(in))
	in.Proxies = []xds.Proxy{proxy("envoy", "shop/of-evenkeel", xds.Synced)}
	after := k.Stanzas(in, Conditions(in))
	if class := (source.Ref{Kind: source.KindGatewayClass, Name: "evenkeel"}); before[class] != after[class] {
		t.Error("the class did not change")
	}
	r := source.Ref{Kind: source.KindHTTPRoute, Namespace: "shop", Name: "r"}
	if before[r] == after[r] || short(after[r].Stanza.Parents[0].Conditions) != "APR" {
		t.Errorf("the route is programmed now: %+v", after[r].Stanza)
	}
}

var reasonOfTheAPI = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`)

// TestReasonsAreOfTheAPI reads the reasons that there are: an API server refuses a status with another.
func TestReasonsAreOfTheAPI(t *testing.T) {
	found := 0
	for _, file := range []string{"status.go", "../catalog/verdicts.go", "../source/source.go"} {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) == 0 {
				return true
			}
			kind, _ := spec.Type.(*ast.Ident)
			if !strings.HasPrefix(spec.Names[0].Name, "Reason") && (kind == nil || kind.Name != "Degradation") {
				return true
			}
			found++
			reason, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil || !reasonOfTheAPI.MatchString(reason) {
				t.Errorf("%s in %s is %q", spec.Names[0].Name, file, reason)
			}
			return true
		})
	}
	if found < 25 {
		t.Errorf("only %d reasons were found", found)
	}
}
