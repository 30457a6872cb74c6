package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// podsEach is how many Pods a Service has in the scenario pods, podsPort where they answer, and podsScraped for how
// long they are scraped before the memory is read: until what is kept of each has all that it ever has.
const (
	podsEach, podsPort = 10, 8080
	podsScraped        = 2 * time.Minute
)

var podResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// measurePods has Pods beside everything else, first such that no policy asks of, then scraped ones, and compares the
// memory. They all are one server of metrics, on addresses that only a network namespace of our own has.
func measurePods(ctx context.Context, c *cluster, program, dir string) error {
	lis, err := net.Listen("tcp", fmt.Sprintf("%s:%d", podAddress(0, 0), podsPort))
	if err != nil {
		return fmt.Errorf("the scenario pods takes addresses of Pods; run it as hack/kube/netns.sh go run ./bench/kube -scenario pods: %w", err)
	}
	lis.Close()
	if lis, err = net.Listen("tcp", fmt.Sprintf(":%d", podsPort)); err != nil {
		return err
	}
	began := time.Now()
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeMetrics(w, time.Since(began)) })}
	go func() { _ = server.Serve(lis) }()
	defer server.Close()

	progress("creating %d Pods", c.pods)
	if err := c.createPods(ctx); err != nil {
		return err
	}
	p, err := startPlane(ctx, program, dir, c.server.Kubeconfig(), fmt.Sprint("GODEBUG=memprofilerate=", profileEvery))
	if err != nil {
		return err
	}
	defer p.stop()
	if _, _, err := p.settle(ctx); err != nil {
		return err
	}
	if err := sleep(ctx, c.idle); err != nil {
		return err
	}
	before, unscraped, err := p.memory(ctx)
	if err != nil {
		return err
	}
	if err := c.scrapePods(ctx); err != nil {
		return err
	}
	if _, _, err := p.settle(ctx); err != nil {
		return err
	}
	progress("scraping them for %v", podsScraped)
	if err := sleep(ctx, podsScraped); err != nil {
		return err
	}
	after, scraped, err := p.memory(ctx)
	if err != nil {
		return err
	}
	m, err := p.metrics(ctx)
	if err != nil {
		return err
	}
	if up := m[`evenkeel_scrape_targets{health="up"}`]; up != float64(c.pods) {
		return fmt.Errorf("%v of %d Pods are scraped", up, c.pods)
	}
	each := func(mb float64) float64 { return mb * 1e3 / float64(c.pods) }
	fmt.Print("\n## Scraped Pods\n\n| | measured | target |\n|---|---|---|\n")
	fmt.Printf("| RSS with %d Pods that nobody scrapes, and with all of them scraped | %.0f MB, %.0f MB | |\n", c.pods, before.now, after.now)
	fmt.Printf("| ... more of it for each | %.1f KB | 4 KB |\n", each(after.now-before.now))
	used := func(rooms map[string]room) (mb float64) {
		for _, r := range rooms {
			mb += r.bytes / 1e6
		}
		return mb
	}
	fmt.Printf("| objects in use | %.1f MB, %.1f MB | |\n", used(unscraped), used(scraped))
	fmt.Printf("| ... more for each | %.1f KB | |\n", each(used(scraped)-used(unscraped)))
	for name, r := range scraped {
		r.bytes -= unscraped[name].bytes
		scraped[name] = r
	}
	for _, name := range slices.SortedFunc(maps.Keys(scraped), func(a, b string) int { return cmp.Compare(scraped[b].bytes, scraped[a].bytes) }) {
		if more := each(scraped[name].bytes / 1e6); more > 0.2 {
			fmt.Printf("| ... of it %s | %.1f KB | |\n", name, more)
		}
	}
	return nil
}

// memory is what the program has, and of it the objects that are in use.
func (p *plane) memory(ctx context.Context) (m rss, rooms map[string]room, err error) {
	if m, err = p.rss(); err != nil {
		return m, nil, err
	}
	rooms, err = p.heapByRoom(ctx)
	return m, rooms, err
}

func podAddress(service, pod int) string { return fmt.Sprintf("10.250.%d.%d", service, pod+1) }

func podService(i int) string { return fmt.Sprintf("pods-%03d", i) }

// createPods makes Services of Pods that offer their metrics.
func (c *cluster) createPods(ctx context.Context) error {
	return c.eachPodService(ctx, func(ctx context.Context, i int) error {
		name := podService(i)
		var endpoints []any
		for j := range podsEach {
			pod := fmt.Sprintf("%s-%d", name, j)
			endpoints = append(endpoints, map[string]any{
				"addresses": []any{podAddress(i, j)}, "nodeName": fmt.Sprintf("node-%d", j), "zone": "a",
				"conditions": map[string]any{"ready": true}, "targetRef": map[string]any{"kind": "Pod", "namespace": namespace, "name": pod},
			})
			if err := c.make(ctx, podResource, map[string]any{
				"apiVersion": "v1", "kind": "Pod",
				"metadata": map[string]any{"name": pod, "labels": map[string]any{"app": name}, "annotations": map[string]any{"prometheus.io/scrape": "true"}},
				"spec": map[string]any{"nodeName": fmt.Sprintf("node-%d", j), "containers": []any{map[string]any{
					"name": "app", "image": "app", "resources": map[string]any{"limits": map[string]any{"cpu": "2"}},
					"ports": []any{map[string]any{"containerPort": podsPort}},
				}}},
			}); err != nil {
				return err
			}
			status := fmt.Sprintf(`{"status": {"podIP": %[1]q, "podIPs": [{"ip": %[1]q}]}}`, podAddress(i, j))
			if _, err := c.objects.Resource(podResource).Namespace(namespace).Patch(ctx, pod, types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status"); err != nil {
				return fmt.Errorf("the status of Pod %s: %w", pod, err)
			}
		}
		if err := c.make(ctx, schema.GroupVersionResource{Version: "v1", Resource: "services"}, map[string]any{
			"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": name},
			"spec": map[string]any{"ports": []any{map[string]any{"name": "http", "port": 80}}},
		}); err != nil {
			return err
		}
		if err := c.make(ctx, sliceResource, map[string]any{
			"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
			"metadata":  map[string]any{"name": name, "labels": map[string]any{"kubernetes.io/service-name": name}},
			"ports":     []any{map[string]any{"name": "http", "port": podsPort, "protocol": "TCP"}},
			"endpoints": endpoints,
		}); err != nil {
			return err
		}
		return c.make(ctx, schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"}, map[string]any{
			"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": map[string]any{"name": name},
			"spec": map[string]any{
				"parentRefs": []any{map[string]any{"name": "edge"}}, "hostnames": []any{name + ".example.com"},
				"rules": []any{map[string]any{"backendRefs": []any{map[string]any{"name": name, "port": 80}}}},
			},
		})
	})
}

// scrapePods has a policy for each of the Services.
func (c *cluster) scrapePods(ctx context.Context) error {
	return c.eachPodService(ctx, func(ctx context.Context, i int) error {
		return c.make(ctx, schema.GroupVersionResource{Group: "evenkeel.io", Version: "v1alpha1", Resource: "balancepolicies"}, map[string]any{
			"apiVersion": "evenkeel.io/v1alpha1", "kind": "BalancePolicy", "metadata": map[string]any{"name": podService(i)},
			"spec": map[string]any{"targetRefs": []any{map[string]any{"group": "", "kind": "Service", "name": podService(i)}}},
		})
	})
}

func (c *cluster) eachPodService(ctx context.Context, do func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range c.pods / podsEach {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// writeMetrics is the page of a server with ten requests a second, after a time.
func writeMetrics(w http.ResponseWriter, since time.Duration) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	requests := since.Seconds() * 10
	fmt.Fprintf(w, "# TYPE http_requests_total counter\nhttp_requests_total{code=\"200\"} %.0f\n", requests)
	fmt.Fprintf(w, "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total %.3f\n", since.Seconds()*0.6)
	fmt.Fprintf(w, "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1700000000\n")
	fmt.Fprintf(w, "# TYPE http_requests_in_flight gauge\nhttp_requests_in_flight 2\n# TYPE http_request_duration_seconds histogram\n")
	for i, bound := range []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10} {
		fmt.Fprintf(w, "http_request_duration_seconds_bucket{le=\"%v\"} %.0f\n", bound, requests*min(1, float64(i)/5))
	}
	fmt.Fprintf(w, "http_request_duration_seconds_bucket{le=\"+Inf\"} %.0f\nhttp_request_duration_seconds_sum %.3f\nhttp_request_duration_seconds_count %.0f\n", requests, requests/20, requests)
}
