package xds

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/weights"
)

// TestRealEnvoySheds: the part of the requests that the decisions shed is refused, no other, also where it is
// all that changed; and none once it ends. With metadata and without.
func TestRealEnvoySheds(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
	t.Cleanup(backend.Close)
	u, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := startPlane(t, Options{})
	e := startEnvoy(t, p.address, translate.BootstrapOptions{Fleet: fleet}, nil)
	service := &catalog.Service{Name: "shop/cart:80", Endpoints: []catalog.Endpoint{{Address: u.Host, Base: 1, Multiplier: 1}}}
	version := 0
	shed := func(part, published float64) {
		t.Helper()
		version++
		resources := e.configuration(backend.URL, 1)
		resources[resource.EndpointType] = []types.Resource{translate.Assignment(service, &weights.Decisions{
			Shed: part,
			Endpoints: []weights.Decision{{
				Key:    signals.Key{Service: service.Name, Address: u.Host},
				Weight: 1000, PublishedHealthScore: published, PublishedQPSDecayFactor: published,
			}},
		}).Message}
		p.set(fleet, fmt.Sprint(version), resources)
	}
	// refused is how many of 1000 requests are.
	refused := func() (n int) {
		t.Helper()
		for range 1000 {
			switch get(e.http) {
			case "hello":
			case "":
				n++
			default:
				t.Fatal("another answer")
			}
		}
		return n
	}
	shed(0, 1)
	e.until("a request flows", func() bool { return get(e.http) == "hello" })
	for _, published := range []float64{1, 0} {
		// 1000 requests of which a part p is dropped: 6 standard deviations are under 95.
		for _, part := range []float64{0.3, 0.6, 0.05, 0} {
			shed(part, published)
			p.until("it is acknowledged", func() bool {
				s := p.state("envoy-1", translate.EDS)
				return s.State == Synced && s.Version == p.at(fmt.Sprint(version), translate.EDS)
			})
			n := refused()
			if want := 1000 * part; float64(n) < want-95 || float64(n) > want+95 || part == 0 && n != 0 {
				t.Errorf("%v of the requests are shed, metadata %v: %d of 1000 were refused", part, published, n)
			}
		}
	}
}
