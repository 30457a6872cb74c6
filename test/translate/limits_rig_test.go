package translate

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/rls"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// rulesOf are the rules of the routes, each once.
func rulesOf(hosts []catalog.VirtualHost) []*rlsconfig.Rule {
	var rules []*rlsconfig.Rule
	for _, h := range hosts {
		for _, r := range h.Routes {
			for _, l := range r.Limits {
				if !slices.Contains(rules, l.Rule) {
					rules = append(rules, l.Rule)
				}
			}
		}
	}
	slices.SortFunc(rules, func(a, b *rlsconfig.Rule) int { return cmp.Compare(a.ID, b.ID) })
	return rules
}

// rule compiles a limit of ten an hour, changed.
func rule(t *testing.T, id string, onError v1alpha1.OnError, change func(*v1alpha1.Limit)) *rlsconfig.Rule {
	t.Helper()
	l := v1alpha1.Limit{Name: "limit", Rate: &v1alpha1.Rate{Requests: 10, Per: metav1.Duration{Duration: time.Hour}}}
	if change != nil {
		change(&l)
	}
	r, err := rlsconfig.Compile(id, onError, l.WithDefaults())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func limits(rules ...*rlsconfig.Rule) []catalog.RouteLimit {
	var out []catalog.RouteLimit
	for _, r := range rules {
		out = append(out, catalog.RouteLimit{Rule: r})
	}
	return out
}

// recorder is a rate limit service that allows everything and keeps what it is asked.
type recorder struct {
	rlsv3.UnimplementedRateLimitServiceServer
	mu    sync.Mutex
	asked []*rlsv3.RateLimitRequest
}

func (r *recorder) ShouldRateLimit(_ context.Context, q *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, q)
	return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}, nil
}

// take is what it was asked since the last time.
func (r *recorder) take() []*commonv3.RateLimitDescriptor {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*commonv3.RateLimitDescriptor
	for _, q := range r.asked {
		if q.GetDomain() != fleetName {
			panic("asked for the domain " + q.GetDomain())
		}
		out = append(out, q.GetDescriptors()...)
	}
	r.asked = nil
	return out
}

// record starts a recorder and says where it is.
func record(t *testing.T) (*recorder, string) {
	r := &recorder{}
	return r, serveGRPC(t, func(s *grpc.Server) { rlsv3.RegisterRateLimitServiceServer(s, r) })
}

// realService is our own rate limit service with these rules.
func realService(t *testing.T, hosts []catalog.VirtualHost) string {
	t.Helper()
	s, err := rls.New(rls.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Configure(fleetName, rulesOf(hosts), nil)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, lis) }()
	t.Cleanup(func() { stop(); <-done })
	return lis.Addr().String()
}

func serveGRPC(t *testing.T, register func(*grpc.Server)) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	register(s)
	done := make(chan error, 1)
	go func() { done <- s.Serve(lis) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return lis.Addr().String()
}

// asks waits until the Envoy asks the rate limit service where it is served, which it does without being told
// when its endpoints have come.
func (r *rig) asks() {
	r.t.Helper()
	r.until("the rate limit service has an endpoint", func() bool {
		return r.stat(`^cluster\.rls\.membership_total$`) == uint64(len(r.service))
	})
	r.until("all slots are filled", func() bool { return r.stat(`extension_config_discovery.*config_reload$`) >= 11 })
}

func host(i int) string { return fmt.Sprintf("c%d.test", i) }
