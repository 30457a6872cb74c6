package guard

import (
	"fmt"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// slice is an EndpointSlice of a Service with endpoints named by one letter each, not ready those after a "-".
func slice(name, service, endpoints string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service},
	}}
	ready := true
	for _, c := range endpoints {
		if c == '-' {
			ready = false
			continue
		}
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{string(c)}, Conditions: discoveryv1.EndpointConditions{Ready: new(ready)},
		})
	}
	return s
}

func set(all ...*discoveryv1.EndpointSlice) Slices {
	m := Slices{}
	for _, s := range all {
		m[nameOf(s)] = s
	}
	return m
}

// inForce is what acts after a list.
func inForce(listed Slices, held Held) Slices {
	now := maps.Clone(listed)
	maps.Copy(now, held.Keep)
	return now
}

// usableOf are the addresses of each Service that may get traffic, as a set of "service/address".
func usableOf(all Slices) map[string]bool {
	found := map[string]bool{}
	for _, s := range all {
		for i := range s.Endpoints {
			if usable(&s.Endpoints[i]) {
				found[ServiceOf(s).Name+"/"+key(&s.Endpoints[i])] = true
			}
		}
	}
	return found
}

// TestEndpointSlices lists what is in force, what a list says, and the endpoints in force afterwards.
func TestEndpointSlices(t *testing.T) {
	for name, test := range map[string]struct {
		before, listed Slices
		want           string // usable endpoints of service "a" afterwards
		held           int
	}{
		"half may go":                       {set(slice("a1", "a", "12345678")), set(slice("a1", "a", "1234")), "1234", 0},
		"three may go":                      {set(slice("a1", "a", "1234")), set(slice("a1", "a", "1")), "1", 0},
		"more than half and three are held": {set(slice("a1", "a", "1234567")), set(slice("a1", "a", "123")), "1234567", 1},
		"a slice that is missing":           {set(slice("a1", "a", "12345"), slice("b1", "b", "x")), set(slice("b1", "b", "x")), "12345", 1},
		"not ready is evidence":             {set(slice("a1", "a", "12345")), set(slice("a1", "a", "1-2345")), "1", 0},
		"moved to another slice":            {set(slice("a1", "a", "12345")), set(slice("a2", "a", "12345")), "12345", 0},
		"what joins acts beside what is held": {
			set(slice("a1", "a", "12345")), set(slice("a1", "a", "6")), "123456", 1,
		},
		"not ready elsewhere is evidence too": {
			set(slice("a1", "a", "123456")), set(slice("a2", "a", "-1")), "23456", 1,
		},
		"a fifth of all": {
			set(slice("a1", "a", "12345678"), slice("b1", "b", "12345678"), slice("c1", "c", "1234")),
			set(slice("a1", "a", "123456"), slice("b1", "b", "123456"), slice("c1", "c", "1234")), "12345678", 2,
		},
		"less than a fifth of all": {
			set(slice("a1", "a", "12345678"), slice("b1", "b", "12345678"), slice("c1", "c", "1234")),
			set(slice("a1", "a", "1234567"), slice("b1", "b", "123456"), slice("c1", "c", "1234")), "1234567", 0,
		},
		"a fifth of few": {
			set(slice("a1", "a", "12345"), slice("b1", "b", "12345")), set(slice("a1", "a", "123"), slice("b1", "b", "12345")), "123", 0,
		},
		"an empty list":                        {set(slice("a1", "a", "1")), Slices{}, "1", 1},
		"what was out of use is nobody's loss": {set(slice("a1", "a", "1-2345678")), set(slice("a1", "a", "1")), "1", 0},
	} {
		t.Run(name, func(t *testing.T) {
			held := EndpointSlices(test.before, test.listed, 0)
			want := map[string]bool{}
			for _, c := range test.want {
				want["a/"+string(c)] = true
			}
			got := usableOf(inForce(test.listed, held))
			maps.DeleteFunc(got, func(k string, _ bool) bool { return k[0] != 'a' })
			if diff := cmp.Diff(want, got); diff != "" || len(held.Shrinks) != test.held {
				t.Errorf("%d held %+v\n%s", len(held.Shrinks), held.Shrinks, diff)
			}
		})
	}
}

func TestWhatIsBelieved(t *testing.T) {
	for name, test := range map[string]struct {
		inForce, lost, listed, reads int
		held                         bool
	}{
		"nothing is lost":               {4, 0, 4, 0, false},
		"half":                          {4, 2, 2, 0, false},
		"more than half":                {4, 3, 1, 0, true},
		"more than half, read again":    {4, 3, 1, 1, false},
		"the only one":                  {1, 1, 0, 0, true},
		"empty, read again":             {4, 4, 0, 1, true},
		"empty, read again and again":   {4, 4, 0, 2, true},
		"empty, read three times":       {4, 4, 0, 3, false},
		"all replaced by others":        {4, 4, 4, 0, true},
		"nothing was there, nothing is": {0, 0, 0, 0, false},
	} {
		if got := Objects(test.inForce, test.lost, test.listed, test.reads); got != test.held {
			t.Errorf("%s: held %v", name, got)
		}
	}
}

// drawSlices has up to four Services with up to three slices each.
func drawSlices(t *rapid.T, label string) Slices {
	all := Slices{}
	for _, service := range []string{"a", "b", "c", "d"} {
		for i := range rapid.IntRange(0, 3).Draw(t, label+" slices of "+service) {
			ready := rapid.StringMatching("[a-m]{0,8}(-[n-s]{0,3})?").Draw(t, label)
			s := slice(fmt.Sprint(service, i), service, ready)
			all[nameOf(s)] = s
		}
	}
	return all
}

func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, listed := drawSlices(t, "before"), drawSlices(t, "listed")
		held := EndpointSlices(before, listed, 0)
		after := inForce(listed, held)
		was, says, is := usableOf(before), usableOf(listed), usableOf(after)
		named := map[string]bool{}
		for service, group := range byService(listed) {
			for address := range addresses(group) {
				named[service.Name+"/"+address] = true
			}
		}
		shrunk := map[types.NamespacedName]Shrink{}
		for _, s := range held.Shrinks {
			shrunk[s.Service] = s
			if s.Lost < 1 || s.Lost > s.Of {
				t.Errorf("%+v", s)
			}
		}
		for e := range says {
			if !is[e] {
				t.Errorf("%s is listed and not in force", e)
			}
		}
		lost, all := 0, len(was)
		for e := range was {
			switch _, holds := shrunk[types.NamespacedName{Namespace: "shop", Name: e[:1]}]; {
			case named[e] && !says[e] && is[e]:
				t.Errorf("%s is listed as out of use and in force", e)
			case !named[e] && holds && !is[e]:
				t.Errorf("%s is missing in the list, its Service is held, and it is not in force", e)
			case !is[e] && !named[e]:
				lost++
			}
		}
		if all >= fleetFrom && everyNth*lost >= all {
			t.Errorf("%d of %d were lost to a list", lost, all)
		}
		// What is in force is what a second list of the same would leave in force.
		again := inForce(listed, EndpointSlices(after, listed, 0))
		for e := range again {
			if _, ok := after[e]; !ok {
				t.Errorf("%v appeared with the second list", e)
			}
		}
		if len(listed) > 0 && len(EndpointSlices(after, listed, 1).Keep) > 0 || len(EndpointSlices(after, listed, emptyReads).Keep) > 0 {
			t.Error("a list that was confirmed is held")
		}
	})
}
