package pipeline

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/xds"
)

// BenchmarkOneEndpoint is the work, from the changed objects to what the cache serves, when one endpoint
// of 1000 Services of ten, behind 1000 routes, gets another address.
func BenchmarkOneEndpoint(b *testing.B) {
	c := big(b, 1000, 10)
	cache := snapshot.NewCache(xds.FleetHash{})
	hand := func() {
		for _, out := range c.takeOutgoing() {
			if err := cache.SetSnapshot(b.Context(), out.key, out.snapshot); err != nil {
				b.Fatal(err)
			}
		}
		c.view(&View{})
	}
	hand()
	name := types.NamespacedName{Namespace: "shop", Name: "s7"}
	now := start
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		before := c.store
		next := *before
		next.EndpointSlices = maps.Clone(before.EndpointSlices)
		slice := next.EndpointSlices[name].DeepCopy()
		slice.Endpoints[0].Addresses[0] = fmt.Sprintf("10.200.%d.%d", i/200%200, 1+i%200)
		next.EndpointSlices[name] = slice
		now = now.Add(time.Second)
		c.rebuild(now, source.Update{Store: &next, Changes: []source.Change{
			{Object: source.Ref{Kind: source.KindEndpointSlice, Namespace: "shop", Name: "s7"}, Op: source.Changed, Evidence: source.EvidenceWatch},
		}})
		hand()
	}
}
