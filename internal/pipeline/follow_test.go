package pipeline

import (
	"maps"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/source"
)

// TestWhatFollowsIsWhatABuildMakes: after each kind of change, among them those that only patch what is served,
// everything is served that is made of the same objects anew.
func TestWhatFollowsIsWhatABuildMakes(t *testing.T) {
	c := big(t, 4, 3)
	name := types.NamespacedName{Namespace: "shop", Name: "s1"}
	h2c := "kubernetes.io/h2c"
	for i, change := range []struct {
		what string
		do   func(*source.Store)
	}{
		{"an endpoint", func(s *source.Store) {
			s.EndpointSlices = maps.Clone(s.EndpointSlices)
			slice := s.EndpointSlices[name].DeepCopy()
			slice.Endpoints[0].Addresses[0] = "10.200.0.1"
			s.EndpointSlices[name] = slice
		}},
		{"the protocol of a Service", func(s *source.Store) {
			s.Services = maps.Clone(s.Services)
			service := s.Services[name].DeepCopy()
			service.Spec.Ports[0].AppProtocol = &h2c
			s.Services[name] = service
		}},
		{"who may read", func(s *source.Store) {
			s.ReferenceGrants = maps.Clone(s.ReferenceGrants)
			s.ReferenceGrants[types.NamespacedName{Namespace: "shop", Name: "bank"}] = &gatewayv1.ReferenceGrant{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "bank"},
				Spec: gatewayv1.ReferenceGrantSpec{
					From: []gatewayv1.ReferenceGrantFrom{{Group: "evenkeel.io", Kind: "Proxy", Namespace: "bank"}},
					To:   []gatewayv1.ReferenceGrantTo{{Kind: "Service"}},
				},
			}
		}},
		{"a Service that is gone", func(s *source.Store) {
			s.Services = maps.Clone(s.Services)
			delete(s.Services, name)
		}},
	} {
		next := *c.store
		change.do(&next)
		before := c.store
		c.rebuild(start.Add(time.Duration(i+1)*time.Second), source.Update{Store: &next, Changes: source.Diff(before, &next, source.EvidenceWatch)})
		fresh := testCore(lastgood.State{})
		fresh.rebuild(start, source.Update{Store: &next, Changes: source.Diff(nil, &next, source.EvidenceFirst)})
		if !c.fleets[edge].served.Equal(fresh.fleets[edge].served) {
			t.Errorf("%s: the fleet is served something else than a build makes", change.what)
		}
		if got, want := slices.Sorted(maps.Keys(c.edsOnly)), slices.Sorted(maps.Keys(fresh.edsOnly)); !slices.Equal(got, want) {
			t.Errorf("%s: served to %v, a build serves %v", change.what, got, want)
		}
		for key, want := range fresh.edsOnly {
			if !c.edsOnly[key].Equal(want) {
				t.Errorf("%s: %s is served something else than a build makes", change.what, key)
			}
		}
	}
}
