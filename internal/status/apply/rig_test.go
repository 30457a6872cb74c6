package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"evenkeel.io/controlplane/internal/kubetest"
	"evenkeel.io/controlplane/internal/pipeline"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/source/kube"
	"evenkeel.io/controlplane/internal/status"
	"evenkeel.io/controlplane/internal/xds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(kubetest.Main(m)) }

// lasts is how long a test waits for what must come.
const lasts = 30 * time.Second

// brisk is a pace for tests, which wait for what they provoke.
var brisk = pace{
	apart: 200 * time.Millisecond, words: 200 * time.Millisecond, grace: 50 * time.Millisecond, patience: 20 * time.Second,
	retry: 100 * time.Millisecond, maxRetry: time.Second,
}

// plane is a control plane of a cluster, with all rooms that have to do with status.
type plane struct {
	t       *testing.T
	server  *kubetest.APIServer
	client  dynamic.Interface
	ns      string
	xds     *xds.Server
	address string
	metrics *prometheus.Registry
	log     *words
	updates *recorder
	stop    func()
}

// recorder passes Updates on and remembers them.
type recorder struct {
	source.Source
	mu  sync.Mutex
	all []source.Update
}

func (r *recorder) Run(ctx context.Context, up chan<- source.Update) error {
	own := make(chan source.Update)
	done := make(chan error, 1)
	go func() { done <- r.Source.Run(ctx, own) }()
	for {
		select {
		case u := <-own:
			r.mu.Lock()
			r.all = append(r.all, u)
			r.mu.Unlock()
			select {
			case up <- u:
			case <-ctx.Done():
			}
		case err := <-done:
			return err
		}
	}
}

func (r *recorder) seen() []source.Update {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all
}

// words is a log.
type words struct {
	mu   sync.Mutex
	text strings.Builder
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *words) count(part string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(w.text.String(), part)
}

// start runs a control plane; config is how its Writer reaches the API server.
func start(t *testing.T, server *kubetest.APIServer, ns string, config *rest.Config) *plane {
	t.Helper()
	return startReplica(t, server, ns, config, nil)
}

// startReplica runs one that leads when it is told to.
func startReplica(t *testing.T, server *kubetest.APIServer, ns string, config *rest.Config, leads func() bool) *plane {
	t.Helper()
	p := &plane{t: t, server: server, ns: ns, metrics: prometheus.NewRegistry(), log: &words{}}
	var err error
	if p.client, err = dynamic.NewForConfig(server.Config()); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	cluster, err := kube.New(server.Config(), kube.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	p.updates = &recorder{Source: cluster}
	cache := snapshot.NewCache(xds.FleetHash{})
	line := pipeline.New(pipeline.Options{Source: p.updates, Cache: cache, Log: quiet})
	p.xds = xds.NewServer(cache, xds.Options{
		Lookup: line.View().ResourceSource, Log: quiet, Metrics: prometheus.NewRegistry(),
	})
	writer, err := New(Options{
		Config: config, Leads: leads, Instance: "test", Metrics: p.metrics, Log: slog.New(slog.NewTextHandler(p.log, nil)),
		Input: func() (status.Input, bool) {
			view := line.View()
			return status.Input{Store: view.Store(), Catalog: view.Catalog(), Proxies: p.xds.Registry().Proxies()}, view.Store() != nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	writer.pace, writer.every = brisk, 20*time.Millisecond
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var rooms sync.WaitGroup
	run := func(room func(context.Context) error) {
		rooms.Go(func() {
			if err := room(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
	}
	run(line.Run)
	run(func(ctx context.Context) error { return p.xds.Serve(ctx, listener) })
	run(func(ctx context.Context) error { writer.Run(ctx); return nil })
	p.stop = sync.OnceFunc(func() { cancel(); rooms.Wait() })
	t.Cleanup(p.stop)
	return p
}

func (p *plane) apply(documents string) {
	p.t.Helper()
	if err := p.server.Apply(p.t.Context(), p.ns, documents); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plane) get(kind, name string) *unstructured.Unstructured {
	p.t.Helper()
	r := p.client.Resource(resources[kind])
	var o *unstructured.Unstructured
	var err error
	if source.Namespaced(kind) {
		o, err = r.Namespace(p.ns).Get(p.t.Context(), name, metav1.GetOptions{})
	} else {
		o, err = r.Get(p.t.Context(), name, metav1.GetOptions{})
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return o
}

// update writes a status as another controller does, that knows nothing of server-side apply.
func (p *plane) update(kind, name string, edit func(status map[string]any)) {
	p.t.Helper()
	p.eventually("a write without a conflict", func() error {
		o := p.get(kind, name)
		edit(o.Object["status"].(map[string]any))
		_, err := p.client.Resource(resources[kind]).Namespace(p.ns).UpdateStatus(p.t.Context(), o, metav1.UpdateOptions{FieldManager: "other"})
		return err
	})
}

func (p *plane) remove(kind, name string) {
	p.t.Helper()
	if err := p.client.Resource(resources[kind]).Namespace(p.ns).Delete(p.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		p.t.Fatal(err)
	}
}

// hasOnly checks that the route has this entry, unchanged, and as many of ours.
func (p *plane) hasOnly(theirs map[string]any, ours int) {
	p.t.Helper()
	parents, _, err := unstructured.NestedSlice(p.get(source.KindHTTPRoute, "cart").Object, "status", "parents")
	if err != nil {
		p.t.Fatal(err)
	}
	if len(parents) != ours+1 || !slices.ContainsFunc(parents, func(e any) bool { return equality.Semantic.DeepEqual(e, any(theirs)) }) {
		p.t.Errorf("parents are %v", parents)
	}
}

// writes is how many ended so.
func (p *plane) writes(kind string, how outcome) (n float64) {
	p.t.Helper()
	families, err := p.metrics.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if f.GetName() == "evenkeel_status_writes_total" && labels["kind"] == kind && labels["result"] == string(how) {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// said is what the status of an object says.
func (p *plane) said(kind, name string) status.Stanza {
	p.t.Helper()
	s, err := stanzaOf(p.get(kind, name))
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// eventually waits until holds gives no error.
func (p *plane) eventually(what string, holds func() error) {
	p.t.Helper()
	deadline := time.After(lasts)
	for {
		err := holds()
		if err == nil {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			p.t.Fatalf("never: %s: %v\nproxies %+v\nlog %s", what, err, p.xds.Registry().Proxies(), p.log.text.String())
		}
	}
}

// brief is conditions in short: type, status, reason.
func brief(conditions []metav1.Condition) string {
	var all []string
	for _, c := range conditions {
		all = append(all, fmt.Sprintf("%s=%s(%s)", c.Type, c.Status, c.Reason))
	}
	return strings.Join(all, " ")
}

// conditions are those of our only entry in a status, or of the object itself.
func conditions(s status.Stanza) []metav1.Condition {
	switch ours := s.Ours(); {
	case len(ours.Parents) == 1:
		return ours.Parents[0].Conditions
	case len(ours.Ancestors) == 1:
		return ours.Ancestors[0].Conditions
	default:
		return ours.Conditions
	}
}

// says waits until the conditions of an object are these, of its present generation, and returns one.
func (p *plane) says(kind, name, want, of string) (found metav1.Condition) {
	p.t.Helper()
	p.eventually(kind+" says "+want, func() error {
		o := p.get(kind, name)
		s, err := stanzaOf(o)
		if err != nil {
			return err
		}
		for _, c := range conditions(s) {
			if c.ObservedGeneration != o.GetGeneration() {
				return fmt.Errorf("%+v is not of generation %d", c, o.GetGeneration())
			}
			if c.Type == of {
				found = c
			}
		}
		if got := brief(conditions(s)); got != want {
			return fmt.Errorf("it says %s", got)
		}
		return nil
	})
	return found
}

// event waits for an Event about an object.
func (p *plane) event(kind, name, class, reason, note string) {
	p.t.Helper()
	p.eventually("an Event "+reason+" about "+name, func() error {
		list, err := p.client.Resource(eventsv1.SchemeGroupVersion.WithResource("events")).Namespace(p.ns).List(p.t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var others []string
		for _, item := range list.Items {
			var e eventsv1.Event
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(item.Object, &e); err != nil {
				return err
			}
			if e.Regarding.Kind == kind && e.Regarding.Name == name && e.Type == class && e.Reason == reason && strings.Contains(e.Note, note) {
				if e.Regarding.UID != p.get(kind, name).GetUID() || e.ReportingController != "evenkeel.io/controlplane" {
					return fmt.Errorf("%+v", e)
				}
				return nil
			}
			others = append(others, fmt.Sprintf("%s %s %s: %s", e.Type, e.Regarding.Name, e.Reason, e.Note))
		}
		return errors.New(strings.Join(others, "\n"))
	})
}

// proxy is a delta client that acknowledges everything but what refuse gives a word on.
type proxy struct {
	mu     sync.Mutex
	refuse func(*discoveryv3.DeltaDiscoveryResponse) string
}

func (x *proxy) refuses(what func(*discoveryv3.DeltaDiscoveryResponse) string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.refuse = what
}

// connect connects one to the fleet of a Gateway, which it asks for its clusters and listeners and for what
// is named.
func (p *plane) connect(node, gateway string, names map[string][]string) *proxy {
	p.t.Helper()
	x := &proxy{}
	conn, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx, grpc.WaitForReady(true))
	if err != nil {
		p.t.Fatal(err)
	}
	identity := &corev3.Node{Id: node, Cluster: p.ns + "/" + gateway}
	for _, url := range []string{resource.ClusterType, resource.ListenerType, resource.EndpointType, resource.RouteType, resource.ExtensionConfigType} {
		if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: identity, TypeUrl: url, ResourceNamesSubscribe: names[url]}); err != nil {
			p.t.Fatal(err)
		}
		identity = nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			response, err := stream.Recv()
			if err != nil {
				return
			}
			answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: response.GetTypeUrl(), ResponseNonce: response.GetNonce()}
			x.mu.Lock()
			if x.refuse != nil {
				if why := x.refuse(response); why != "" {
					answer.ErrorDetail = &rpcstatus.Status{Code: 3, Message: why}
				}
			}
			x.mu.Unlock()
			if stream.Send(answer) != nil {
				return
			}
		}
	}()
	stop := p.stop
	p.stop = func() { cancel(); <-done; conn.Close(); stop() }
	p.t.Cleanup(func() { cancel(); <-done; conn.Close() })
	return x
}
