package xds

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"evenkeel.io/controlplane/internal/translate"
)

// mesh is a real Envoy with a listener, and what it is to be served beside that.
type mesh struct {
	*envoy
	plane *plane
	base  map[resource.Type][]types.Resource
	sets  int
}

func startMesh(t *testing.T) *mesh {
	t.Helper()
	p := startPlane(t, Options{})
	e := startEnvoy(t, p.address, translate.BootstrapOptions{Fleet: fleet}, nil)
	base := e.configuration("http://127.0.0.1:1", 1)
	delete(base, resource.ClusterType)
	delete(base, resource.EndpointType)
	delete(base, resource.RouteType)
	return &mesh{envoy: e, plane: p, base: base}
}

// named is a cluster with the URL of its backend. A weight of 0 makes an assignment that Envoy refuses.
type named struct {
	name, backend string
	timeout       time.Duration
	weight        uint32
}

// serve has the Envoy served these clusters, and routes that send /<path> to each.
func (m *mesh) serve(routes map[string]string, clusters ...named) {
	m.t.Helper()
	resources := map[resource.Type][]types.Resource{}
	for kind, all := range m.base {
		resources[kind] = all
	}
	for _, c := range clusters {
		resources[resource.ClusterType] = append(resources[resource.ClusterType], &clusterv3.Cluster{
			Name: c.name, ConnectTimeout: durationpb.New(c.timeout),
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource(), ServiceName: c.name},
		})
		resources[resource.EndpointType] = append(resources[resource.EndpointType], m.endpoint(c.name, c.backend, c.weight))
	}
	rc := &routev3.RouteConfiguration{Name: "web", VirtualHosts: []*routev3.VirtualHost{{Name: "all", Domains: []string{"*"}}}}
	for path, cluster := range routes {
		rc.VirtualHosts[0].Routes = append(rc.VirtualHosts[0].Routes, &routev3.Route{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: "/" + path}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}},
		})
	}
	slices.SortFunc(rc.VirtualHosts[0].Routes, func(a, b *routev3.Route) int {
		return len(a.GetMatch().GetPath()) - len(b.GetMatch().GetPath())
	})
	resources[resource.RouteType] = []types.Resource{rc}
	m.sets++
	m.plane.set(fleet, fmt.Sprint(m.sets), resources)
}

// load asks for a path 200 times a second until stop, which returns how many requests there were and
// what was wrong with those that failed.
func (m *mesh) load(path string) (stop func() (requests int, failures []string)) {
	ctx, cancel := context.WithCancel(context.Background())
	var (
		mu       sync.Mutex
		requests int
		failures []string
		all      sync.WaitGroup
	)
	all.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			all.Go(func() {
				resp, err := http.Get(m.http + "/" + path)
				mu.Lock()
				defer mu.Unlock()
				requests++
				if err != nil {
					failures = append(failures, err.Error())
					return
				}
				defer resp.Body.Close()
				if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
					failures = append(failures, fmt.Sprintf("%d %s", resp.StatusCode, body))
				}
			})
		}
	})
	return func() (int, []string) {
		cancel()
		all.Wait()
		return requests, failures
	}
}

func backendOf(t *testing.T, says string) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, says) }))
	t.Cleanup(s.Close)
	return s.URL
}

// TestARouteMovesAHundredTimes between two clusters, each of which exists only while it is routed to:
// no request fails.
func TestARouteMovesAHundredTimes(t *testing.T) {
	m := startMesh(t)
	clusters := []named{{"shop/x:80", backendOf(t, "x"), time.Second, 1}, {"shop/y:80", backendOf(t, "y"), time.Second, 1}}
	m.serve(map[string]string{"a": clusters[0].name}, clusters[0])
	m.until("it serves", func() bool { return get(m.http+"/a") == "x" })
	stop := m.load("a")
	for i := range 100 {
		now := clusters[(i+1)%2]
		m.serve(map[string]string{"a": now.name}, now)
		m.plane.until("the other cluster alone", func() bool {
			return m.plane.state("envoy-1", translate.CDS).State == Synced && m.plane.state("envoy-1", translate.RDS).State == Synced
		})
	}
	requests, failures := stop()
	if len(failures) > 0 || requests < 10 {
		t.Errorf("%d of %d requests failed: %q", len(failures), requests, failures[:min(3, len(failures))])
	}
	if n := m.plane.Registry().Nacks(); len(n) > 0 {
		t.Errorf("refused: %+v", n[0])
	}
}

// TestALiveClusterIsEdited while it serves, again and again: no request fails, and it is warm at once,
// since its endpoints follow it.
func TestALiveClusterIsEdited(t *testing.T) {
	m := startMesh(t)
	x := named{"shop/x:80", backendOf(t, "x"), time.Second, 1}
	m.serve(map[string]string{"a": x.name}, x)
	m.until("it serves", func() bool { return get(m.http+"/a") == "x" })
	stop := m.load("a")
	var took []time.Duration // until it is acknowledged, which Envoy does when the cluster is warm and in use
	for i := range 100 {
		x.timeout = time.Duration(i+2) * time.Second
		began := time.Now()
		m.serve(map[string]string{"a": x.name}, x)
		want := fmt.Sprintf("%ds", i+2)
		m.plane.until("acknowledged", func() bool { return m.plane.state("envoy-1", translate.CDS).State == Synced })
		took = append(took, time.Since(began))
		if warming := m.stat("cluster_manager.warming_clusters"); warming > 0 {
			t.Errorf("edit %d: %d clusters are warming though the edit is acknowledged (%s)", i, warming, want)
		}
	}
	requests, failures := stop()
	slices.Sort(took)
	t.Logf("an edit is in effect after %v (median of %d), %v (longest); %d requests", took[len(took)/2], len(took), took[len(took)-1], requests)
	if len(failures) > 0 || requests < 10 {
		t.Errorf("%d of %d requests failed: %q", len(failures), requests, failures[:min(3, len(failures))])
	}
}

// TestEndpointsThatAreRefusedHurtNobodyElse: in the moment in which one cluster's endpoints are refused
// another is edited and a third gets new endpoints. No request to the others fails, the refusal names
// its resource, and what was sound in the refused response takes effect.
func TestEndpointsThatAreRefusedHurtNobodyElse(t *testing.T) {
	m := startMesh(t)
	good := named{"shop/good:80", backendOf(t, "good"), time.Second, 1}
	edited := named{"shop/edited:80", backendOf(t, "edited"), time.Second, 1}
	bad := named{"shop/bad:80", backendOf(t, "bad"), time.Second, 1}
	routes := map[string]string{"good": good.name, "edited": edited.name, "bad": bad.name}
	m.serve(routes, good, edited, bad)
	for _, path := range []string{"good", "edited", "bad"} {
		m.until(path+" serves", func() bool { return get(m.http+"/"+path) == path })
	}
	stopGood, stopEdited := m.load("good"), m.load("edited")
	good.weight, edited.timeout, bad.weight = 7, 2*time.Second, 0
	began := time.Now()
	m.serve(routes, good, edited, bad)
	m.plane.until("the refusal", func() bool {
		n := m.plane.Registry().Nacks()
		return len(n) > 0 && n[0].Resource == bad.name
	})
	t.Logf("the refused resource is named after %v", time.Since(began))
	m.until("the sound endpoints take effect", func() bool {
		return slices.Contains(m.weights(), "shop/good:80 7")
	})
	if get(m.http+"/bad") != "bad" {
		t.Error("the refused endpoints took the accepted ones with them")
	}
	for name, stop := range map[string]func() (int, []string){"good": stopGood, "edited": stopEdited} {
		if requests, failures := stop(); len(failures) > 0 {
			t.Errorf("%s: %d of %d requests failed: %q", name, len(failures), requests, failures[:min(3, len(failures))])
		}
	}
}

// weights are the clusters of the Envoy with the weight of their endpoint, "<cluster> <weight>".
func (m *mesh) weights() []string {
	var out []string
	for line := range strings.Lines(get(m.admin + "/clusters")) {
		if cluster, rest, ok := strings.Cut(line, "::"); ok {
			if _, weight, ok := strings.Cut(rest, "::weight::"); ok {
				out = append(out, cluster+" "+strings.TrimSpace(weight))
			}
		}
	}
	return out
}
