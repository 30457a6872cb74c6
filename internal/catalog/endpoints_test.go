package catalog

import (
	"fmt"
	"maps"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"evenkeel.io/controlplane/internal/source"
)

// FuzzEndpointSlices applies a sequence of versions of three slices: whatever they hold, what is built
// is sound, a second Service is untouched, and no endpoint is one that no accepted slice has named.
func FuzzEndpointSlices(f *testing.F) {
	f.Add("10.0.0.1", "::1", []byte{0, 1, 2, 3, 4, 5, 6, 7})
	f.Add("169.254.1.1", "2001:db8::1", []byte{9, 200, 17, 33, 80, 255})
	f.Add("fe80::1%eth0", "10.0.0.256", []byte{1, 1, 1, 64, 128, 192})
	f.Fuzz(func(t *testing.T, one, two string, script []byte) {
		if len(script) > 64 {
			return
		}
		name := func(n string) types.NamespacedName { return types.NamespacedName{Namespace: "shop", Name: n} }
		service := func(n string) *corev1.Service {
			return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: n}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
		}
		slice := func(n, service string) *discoveryv1.EndpointSlice {
			return &discoveryv1.EndpointSlice{
				ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: n, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
				AddressType: discoveryv1.AddressTypeIPv4,
				Ports:       []discoveryv1.EndpointPort{{Port: new(int32(8080))}},
			}
		}
		other := slice("other", "other")
		other.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"10.9.9.9"}}}
		store := &source.Store{
			Services:       map[types.NamespacedName]*corev1.Service{name("cart"): service("cart"), name("other"): service("other")},
			EndpointSlices: map[types.NamespacedName]*discoveryv1.EndpointSlice{name("other"): other},
		}
		c := Build(nil, store, Options{})
		untouched := c.Services["shop/other:80"]
		for i, b := range script {
			n := fmt.Sprint("cart-", b%3)
			s := slice(n, "cart")
			if b&4 != 0 {
				s.AddressType = discoveryv1.AddressTypeIPv6
			}
			if b&8 != 0 {
				s.Ports[0].Port = new(int32(b) * 1000)
			}
			if b == 255 {
				s.AddressType = discoveryv1.AddressTypeFQDN
			}
			s.Endpoints = []discoveryv1.Endpoint{
				{Addresses: []string{one, two}, Conditions: discoveryv1.EndpointConditions{Ready: new(b&16 != 0), Serving: new(b&32 != 0), Terminating: new(b&64 != 0)}},
				{Addresses: []string{fmt.Sprint("10.0.0.", i)}, Zone: new(one)},
				{},
			}
			next := *store
			next.EndpointSlices = maps.Clone(store.EndpointSlices)
			next.EndpointSlices[name(n)] = s
			if b&128 != 0 {
				delete(next.EndpointSlices, name(n))
			}
			store = &next
			c = Build(c, store, Options{})
			if problem := unsound(c); problem != "" {
				t.Fatal(problem)
			}
			if c.Services["shop/other:80"] != untouched {
				t.Fatal("another Service changed")
			}
		}
	})
}

func TestBasesAreRelativeToTheLowerMedian(t *testing.T) {
	for _, test := range []struct{ requests, want []float64 }{
		{[]float64{0.5, 0.5, 0.5}, []float64{1, 1, 1}},
		{[]float64{1, 2, 4, 8}, []float64{0.5, 1, 2, 4}},
		{[]float64{1, 0, 4}, []float64{1, 1, 1}},
		{[]float64{1e-300, 1, 1, 1e300}, []float64{1e-9, 1, 1, 1e9}},
		{nil, nil},
	} {
		var endpoints []Endpoint
		requests := map[string]float64{}
		for i, cores := range test.requests {
			address := fmt.Sprint("10.0.0.1:", i+1)
			endpoints = append(endpoints, Endpoint{Address: address, Base: 1})
			requests[address] = cores
		}
		setBases(endpoints, requests)
		var got []float64
		for _, e := range endpoints {
			got = append(got, e.Base)
		}
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("requests %v: bases %v, want %v", test.requests, got, test.want)
		}
	}
}
