package rls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"evenkeel.io/controlplane/internal/auth"
	"evenkeel.io/controlplane/internal/auth/authority"
	"evenkeel.io/controlplane/internal/auth/authtest"
	"evenkeel.io/controlplane/internal/auth/identity"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// serve serves until the test ends, and says where.
func serve(t testing.TB, s *Server) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, lis) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return lis.Addr().String()
}

func dial(t testing.TB, address string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestServe(t *testing.T) {
	r := newRig(t, rate("all", 1, "", per(time.Hour)))
	client := rlsv3.NewRateLimitServiceClient(dial(t, serve(t, r.Server), insecure.NewCredentials()))
	for i, want := range []rlsv3.RateLimitResponse_Code{rlsv3.RateLimitResponse_OK, rlsv3.RateLimitResponse_OVER_LIMIT} {
		answer, err := client.ShouldRateLimit(t.Context(), request(desc("rule=shop/api/all"), desc()))
		if err != nil || answer.OverallCode != want || len(answer.Statuses) != 2 {
			t.Errorf("call %d: %v, %v", i, answer, err)
		}
	}
}

// TestAPanicFailsOneCall breaks a rule from within.
func TestAPanicFailsOneCall(t *testing.T) {
	r := newRig(t, rate("all", 1, ""), rate("broken", 1, ""))
	r.domain(edge).rules["shop/api/broken"].variants[0].counters = nil
	client := rlsv3.NewRateLimitServiceClient(dial(t, serve(t, r.Server), insecure.NewCredentials()))
	if _, err := client.ShouldRateLimit(t.Context(), request(desc("rule=shop/api/broken"))); status.Code(err) != codes.Internal {
		t.Errorf("the call that panics: %v", err)
	}
	if _, err := client.ShouldRateLimit(t.Context(), request(desc("rule=shop/api/all"))); err != nil {
		t.Errorf("the next call: %v", err)
	}
	r.expect("panics", r.metric("evenkeel_rls_panics_total"), 1.0)
}

// TestWhoMayAsk has the Envoy of one fleet ask for its own and for another.
func TestWhoMayAsk(t *testing.T) {
	ca, root, err := authority.New("test", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name string, server bool) authority.Pair {
		r := authority.Request{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), Server: server}
		if name != "" {
			r.URI, _ = url.Parse(name)
		}
		pair, err := ca.Issue(r)
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	dir := t.TempDir()
	authtest.Mount(t, dir, issue("", true), root.Certificate)
	rules, err := identity.ParseRules("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	gate, err := auth.Open(auth.Options{Dir: dir, Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	r := newRigWith(t, Options{Auth: gate}, rate("all", 1, ""))
	address := serve(t, r.Server)
	as := func(pair *authority.Pair) rlsv3.RateLimitServiceClient {
		config := &tls.Config{RootCAs: x509.NewCertPool()}
		config.RootCAs.AppendCertsFromPEM(root.Certificate)
		if pair != nil {
			certificate, err := tls.X509KeyPair(pair.Certificate, pair.Key)
			if err != nil {
				t.Fatal(err)
			}
			config.Certificates = []tls.Certificate{certificate}
		}
		return rlsv3.NewRateLimitServiceClient(dial(t, address, credentials.NewTLS(config)))
	}
	ours, theirs := issue("spiffe://cluster.local/fleet/shop/edge", false), issue("spiffe://cluster.local/fleet/shop/other", false)
	for _, c := range []struct {
		name string
		pair *authority.Pair
		want codes.Code
	}{{"its own fleet", &ours, codes.OK}, {"another fleet", &theirs, codes.PermissionDenied}, {"nobody", nil, codes.Unavailable}} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := as(c.pair).ShouldRateLimit(ctx, request(desc("rule=shop/api/all")))
		cancel()
		if status.Code(err) != c.want {
			t.Errorf("%s: %v, expected %v", c.name, err, c.want)
		}
	}
	r.expect("refused", r.metric("evenkeel_rls_errors_total", "reason=identity"), 1.0)
}

// cpu is what this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkShouldRateLimit asks through gRPC on loopback, as two workers of an Envoy do with many requests at a
// time. cpu-us/op is that of both sides: client and server are in this process.
func BenchmarkShouldRateLimit(b *testing.B) {
	for _, c := range []struct {
		name  string
		rules []*rlsconfig.Rule
	}{
		{"one", []*rlsconfig.Rule{rate("a", 1_000_000, "header:X-Tenant")}},
		{"three", []*rlsconfig.Rule{rate("a", 1_000_000, "header:X-Tenant"), rate("b", 1_000_000, "header:X-Tenant"), rate("c", 1_000_000, "header:X-Tenant")}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, err := New(Options{})
			if err != nil {
				b.Fatal(err)
			}
			s.Configure(edge, c.rules, nil)
			address := serve(b, s)
			var requests []*rlsv3.RateLimitRequest
			for i := range 1000 {
				var all []*ratelimitv3.RateLimitDescriptor
				for _, r := range c.rules {
					all = append(all, tenant(r.Limit.Name, fmt.Sprint("tenant-", i)))
				}
				requests = append(requests, request(all...))
			}
			clients := []rlsv3.RateLimitServiceClient{
				rlsv3.NewRateLimitServiceClient(dial(b, address, insecure.NewCredentials())),
				rlsv3.NewRateLimitServiceClient(dial(b, address, insecure.NewCredentials())),
			}
			b.ReportAllocs()
			b.ResetTimer()
			used := cpu()
			var next atomic.Int64
			var wait sync.WaitGroup
			for worker := range 32 {
				wait.Go(func() {
					for {
						i := int(next.Add(1))
						if i > b.N {
							return
						}
						if _, err := clients[worker%2].ShouldRateLimit(context.Background(), requests[i%len(requests)]); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wait.Wait()
			b.ReportMetric(float64((cpu()-used).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}

// BenchmarkAnswer is what a call costs without gRPC.
func BenchmarkAnswer(b *testing.B) {
	s, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	s.Configure(edge, []*rlsconfig.Rule{rate("a", 1_000_000, "header:X-Tenant")}, nil)
	req := request(tenant("a", "x"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.ShouldRateLimit(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzShouldRateLimit sends anything at all.
func FuzzShouldRateLimit(f *testing.F) {
	s, err := New(Options{MaxKeys: 64, MaxLeases: 64})
	if err != nil {
		f.Fatal(err)
	}
	s.Configure(edge, []*rlsconfig.Rule{rate("all", 3, ""), rate("tenant", 3, "header:X-Tenant,method", global), rate("streams", 0, "", concurrent(2))}, nil)
	for _, req := range []*rlsv3.RateLimitRequest{
		request(desc("rule=shop/api/all")), request(desc("rule=shop/api/tenant", "when=true", "header:X-Tenant=a", "method=GET"), desc()),
		request(desc("rule=shop/api/tenant", "missing=global"), desc("rule=shop/api/streams", "lease=1")), {},
	} {
		wire, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var req rlsv3.RateLimitRequest
		if proto.Unmarshal(wire, &req) != nil {
			return
		}
		answer, err := s.ShouldRateLimit(t.Context(), &req)
		if err != nil {
			t.Fatal(err)
		}
		if len(answer.Statuses) != len(req.Descriptors) {
			t.Fatalf("%d statuses of %d descriptors", len(answer.Statuses), len(req.Descriptors))
		}
		if _, err := proto.Marshal(answer); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzAccessLogs sends access logs of anything at all.
func FuzzAccessLogs(f *testing.F) {
	s, err := New(Options{MaxLeases: 64})
	if err != nil {
		f.Fatal(err)
	}
	s.Configure(edge, []*rlsconfig.Rule{streams(2), rate("all", 3, "")}, nil)
	answer, err := s.ShouldRateLimit(f.Context(), request(leaseOf("a", "1")))
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range []*accesslogv3.HTTPAccessLogEntry{entry(goesOn, "1", answer.DynamicMetadata), entry(isOver, "1", nil), {}} {
		wire, err := proto.Marshal(&alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: []*accesslogv3.HTTPAccessLogEntry{e}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var log alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries
		if proto.Unmarshal(wire, &log) != nil {
			return
		}
		now := time.Now().UnixNano()
		s.store.logs(t.Context(), edge, s.entries(edge, log.GetLogEntry()), nil, now)
		if known := s.leases.known.Load(); known > 64 {
			t.Fatalf("%d ids are known, expected 64 at most", known)
		}
		for i := range shards { // a day later
			s.leases.sweep(i, now+int64(24*time.Hour))
		}
		if known := s.leases.known.Load(); known != 0 {
			t.Fatalf("%d ids are left", known)
		}
		for i := range s.leases.places {
			if len(s.leases.places[i].counts) > 0 {
				t.Fatal("a place is left without leases")
			}
		}
	})
}
