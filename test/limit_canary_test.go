package test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/demo"
)

// canaryPair is what a route configuration says of the canary, 0 where it says nothing.
type canaryPair struct{ weight, quota int64 }

// TestACanarysWeightAndQuotaChangeTogether edits both in one file, back and forth under load: every route
// configuration that the Envoy ever has is one of the two pairs, and so is what /status shows; and what the canary
// gets is what the last one says.
func TestACanarysWeightAndQuotaChangeTogether(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	pairs := [2]canaryPair{{20, 10}, {50, 30}}
	write := func(p canaryPair) {
		r.writeLimitExample("canary",
			"weight: 95}", fmt.Sprintf("weight: %d}", 100-p.weight), "weight: 5}", fmt.Sprintf("weight: %d}", p.weight),
			"requests: 300, per: 1m", fmt.Sprintf("requests: %d, per: 1s", p.quota))
	}
	r.limitExample("canary") // for its backends
	write(pairs[0])
	r.start("--rls-timeout", "2s")
	r.startEnvoy("shop/edge")
	r.eventually("the first pair is in Envoy", func() error { return r.hasPair(pairs[0]) })

	stop := r.load(100)
	seen := map[string]canaryPair{}
	for i := range 7 {
		next := pairs[(i+1)%2]
		write(next)
		r.eventually("the pair is in Envoy, acknowledged", func() error {
			version, got := r.canaryInEnvoy()
			if got != pairs[0] && got != pairs[1] {
				t.Fatalf("Envoy has the weight %d with the quota %d in version %s, want one of %v", got.weight, got.quota, version, pairs)
			}
			seen[version] = got
			shown, err := r.canaryShown()
			if err != nil {
				return err
			}
			if now := (canaryPair{int64(shown.Weight), shown.Requests}); now != pairs[0] && now != pairs[1] || !shown.Together {
				t.Fatalf("/status shows %+v, want one of %v together", shown, pairs)
			}
			if got != next || shown.Requests != next.quota || shown.Acknowledged != 1 {
				return fmt.Errorf("Envoy has %v, and /status shows %+v", got, shown)
			}
			return nil
		})
	}
	if len(seen) != 2 {
		t.Errorf("Envoy had the versions %v, want two, one for each pair", seen)
	}
	if report := stop(); report.Requests != report.ByStatus[200]+report.ByStatus[429] {
		t.Errorf("answers %v, want 200 and 429 only", report.ByStatus)
	}

	for _, p := range []canaryPair{pairs[1], pairs[0]} {
		write(p)
		r.eventually("the pair is in Envoy", func() error { return r.hasPair(p) })
		// The bucket is full again, and the workers have what the main thread had: a second is what the burst takes.
		time.Sleep(1500 * time.Millisecond)
		r.judge(row{name: fmt.Sprintf("to the canary under %v", p), answeredBy: 2, admits: rate(float64(p.quota), time.Second, float64(p.quota))})
	}
}

func (r *rig) hasPair(want canaryPair) error {
	r.t.Helper()
	if version, got := r.canaryInEnvoy(); got != want {
		return fmt.Errorf("version %q has %v, want %v", version, got, want)
	}
	return nil
}

// canaryInEnvoy is the pair in the route configuration that Envoy has, and its version.
func (r *rig) canaryInEnvoy() (version string, pair canaryPair) {
	r.t.Helper()
	var dump struct {
		Configs []struct {
			VersionInfo string `json:"version_info"`
			RouteConfig struct {
				VirtualHosts []struct {
					Routes []struct {
						Route struct {
							WeightedClusters struct {
								Clusters []struct {
									Name    string
									Weight  int64
									Filters map[string]struct {
										RateLimits []struct {
											Limit struct {
												RateLimit struct {
													RequestsPerUnit int64 `json:"requests_per_unit"`
												} `json:"rate_limit"`
											}
										} `json:"rate_limits"`
									} `json:"typed_per_filter_config"`
								}
							} `json:"weighted_clusters"`
						}
					}
				} `json:"virtual_hosts"`
			} `json:"route_config"`
		}
	}
	if err := demo.GetJSON(r.t.Context(), "http://"+loopback(r.ports.envoyAdmin)+"/config_dump?resource=dynamic_route_configs", &dump); err != nil {
		r.t.Fatal(err)
	}
	for _, config := range dump.Configs {
		for _, host := range config.RouteConfig.VirtualHosts {
			for _, route := range host.Routes {
				for _, c := range route.Route.WeightedClusters.Clusters {
					if c.Name != "shop/api-canary:80" {
						continue
					}
					version, pair.weight = config.VersionInfo, c.Weight
					for _, filter := range c.Filters {
						for _, limit := range filter.RateLimits {
							pair.quota += limit.Limit.RateLimit.RequestsPerUnit
						}
					}
				}
			}
		}
	}
	return version, pair
}

// canaryShown is the only canary that /status shows.
func (r *rig) canaryShown() (admin.CanaryView, error) {
	r.t.Helper()
	var view admin.StatusView
	if err := demo.GetJSON(r.t.Context(), r.adminURL("/status"), &view); err != nil {
		r.t.Fatal(err)
	}
	if len(view.Canaries) != 1 {
		return admin.CanaryView{}, errors.New("no canary is shown")
	}
	return view.Canaries[0], nil
}

// TestAnOldEnvoyOverARestart: one that takes no quotas in routes is sent none by a program that was killed and comes
// back while it is there. That it is there is known from before: the routes are served before it has connected.
func TestAnOldEnvoyOverARestart(t *testing.T) {
	t.Parallel()
	path, err := demo.FindTool("envoy-old")
	if err != nil {
		t.Skip("no old Envoy: hack/tools.sh envoy-old installs one")
	}
	r := newRig(t, 0)
	weight := func(canary int64) {
		r.writeLimitExample("canary", "weight: 95}", fmt.Sprintf("weight: %d}", 100-canary), "weight: 5}", fmt.Sprintf("weight: %d}", canary), "per: 1m", "per: 1s")
	}
	r.limitExample("canary")
	weight(20)
	r.start()
	between := r.freePort(netip.MustParseAddr("127.0.0.1"))
	link := r.listenBetween(between, r.ports.xds)
	r.startEnvoyWith(path, r.bootstrap("shop/edge", "envoy-1", between))
	r.eventually("the old Envoy has routes without quotas", func() error { return r.hasPair(canaryPair{20, 0}) })
	r.eventually("that it is there is saved", func() error {
		saved, err := os.ReadFile(filepath.Join(r.state, "state.json"))
		if err == nil && !strings.Contains(string(saved), "noQuotas") {
			err = errors.New("not yet")
		}
		return err
	})
	r.plane.Kill()
	link.close()
	r.start()
	r.listenBetween(between, r.ports.xds)
	r.eventually("it has come back", func() error {
		var view admin.ProxiesView
		if err := demo.GetJSON(t.Context(), r.adminURL("/proxies"), &view); err != nil {
			return err
		}
		if len(view.Proxies) == 0 {
			return errors.New("not connected")
		}
		return nil
	})
	weight(50)
	r.eventually("it has what came since", func() error { return r.hasPair(canaryPair{50, 0}) })
	if refused := r.metric("evenkeel_xds_nacks_total"); refused > 0 {
		t.Errorf("it was sent what it refuses, %v times:\n%s", refused, r.body("/nacks"))
	}
}
