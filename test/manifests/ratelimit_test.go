package manifests

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"evenkeel.io/controlplane/internal/auth"
	"evenkeel.io/controlplane/internal/auth/authority"
	"evenkeel.io/controlplane/internal/auth/authtest"
	"evenkeel.io/controlplane/internal/auth/identity"
	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/kubetest"
	"evenkeel.io/controlplane/internal/limittest"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// TestRateLimitComponent runs the reference service and Redis as the component has them, but for addresses: with
// the service's own certificate it gets the limits from an xDS port that asks for one, and answers an Envoy that shows
// its fleet's, and nobody without.
func TestRateLimitComponent(t *testing.T) {
	i := &installation{T: t, server: kubetest.Shared(t), dir: t.TempDir()}
	i.objects = render(t, i.server, filepath.Join(root, "overlays/ratelimit"))
	redisProgram, err := demo.FindTool("redis-server")
	if err != nil {
		t.Skip(limittest.ErrNotInstalled)
	}
	program, err := demo.FindTool("ratelimit")
	if err != nil {
		t.Skip(limittest.ErrNotInstalled)
	}
	ca, caPair, err := authority.New("ours", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(uri string, server bool) authority.Pair {
		parsed, _ := url.Parse(uri)
		pair, err := ca.Issue(authority.Request{URI: parsed, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: server, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	plane := filepath.Join(i.dir, "server")
	files := filepath.Join(i.dir, "rls")
	for folder, pair := range map[string]authority.Pair{plane: issue("spiffe://cluster.local/replica", true), files: issue("spiffe://cluster.local/rls", true)} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		authtest.Mount(t, folder, pair, caPair.Certificate)
	}
	ports := i.freePorts(5)
	local := func(port uint16) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	redisAt, grpcAt, httpAt, metricsAt := local(ports[0]), local(ports[1]), local(ports[2]), local(ports[3])

	args := i.pod("evenkeel-redis").Spec.Template.Spec.Containers[0].Args
	i.start("redis", redisProgram, append(args, "--bind", "127.0.0.1", "--port", fmt.Sprint(ports[0]), "--dir", i.dir)...)

	env := os.Environ()
	replace := strings.NewReplacer("evenkeel.evenkeel-system.svc:18000", i.planeWith(plane), "/etc/ratelimit/tls", files,
		"evenkeel-redis:6379", redisAt, "$(POD_NAME)", "evenkeel-ratelimit-1", ":9090", metricsAt)
	for _, v := range i.pod("evenkeel-ratelimit").Spec.Template.Spec.Containers[0].Env {
		if v.ValueFrom == nil {
			env = append(env, v.Name+"="+replace.Replace(v.Value))
		}
	}
	env = append(env, "HOST=127.0.0.1", "GRPC_HOST=127.0.0.1", fmt.Sprintf("GRPC_PORT=%d", ports[1]), fmt.Sprintf("PORT=%d", ports[2]), fmt.Sprintf("DEBUG_PORT=%d", ports[4]))
	service, err := demo.StartProcess("ratelimit", i.dir, env, program)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(service.Kill)
	i.eventually("http://"+httpAt+"/healthcheck", http.StatusOK)
	i.eventually("http://"+metricsAt+"/metrics", http.StatusOK)

	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate())
	ask := func(certificates ...tls.Certificate) (rlsv3.RateLimitResponse_Code, error) {
		conn, err := grpc.NewClient(grpcAt, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, Certificates: certificates, MinVersion: tls.VersionTLS13})))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		answer, err := rlsv3.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{Domain: "shop/edge", Descriptors: []*commonv3.RateLimitDescriptor{
			{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "rule", Value: "shop/api/a"}}},
		}})
		return answer.GetOverallCode(), err
	}
	pair := issue("spiffe://cluster.local/fleet/shop/edge", false)
	envoy, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []rlsv3.RateLimitResponse_Code{rlsv3.RateLimitResponse_OK, rlsv3.RateLimitResponse_OVER_LIMIT} {
		if got, err := ask(envoy); got != want {
			t.Errorf("an Envoy is answered %s, %v, want %s", got, err, want)
		}
	}
	if got, err := ask(); err == nil {
		t.Errorf("a stranger is answered %s", got)
	}
}

// planeWith is the address of an xDS port with certificates of a folder, which serves a limit of one request a day.
func (i *installation) planeWith(folder string) string {
	i.Helper()
	rules, err := identity.ParseRules("cluster.local")
	if err != nil {
		i.Fatal(err)
	}
	gate, err := auth.Open(auth.Options{Dir: folder, Rules: rules, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		i.Fatal(err)
	}
	config, err := snapshot.Encode(translate.Resource{Type: translate.RLS, Name: "shop/edge", Source: "Gateway shop/edge", Message: &ratelimitv3.RateLimitConfig{
		Name: "shop/edge", Domain: "shop/edge", Descriptors: []*ratelimitv3.RateLimitDescriptor{{
			Key: "rule", Value: "shop/api/a", RateLimit: &ratelimitv3.RateLimitPolicy{Unit: ratelimitv3.RateLimitUnit_DAY, RequestsPerUnit: 1},
		}},
	}})
	if err != nil {
		i.Fatal(err)
	}
	cache := snapshot.NewCache(xds.FleetHash{})
	if err := cache.SetSnapshot(i.Context(), translate.RLSFleet, snapshot.New(config)); err != nil {
		i.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		i.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- xds.NewServer(cache, xds.Options{Auth: gate, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, lis)
	}()
	i.Cleanup(func() {
		cancel()
		<-done
	})
	return lis.Addr().String()
}

// TestRateLimitImage: the image is of the commit that the tests run.
func TestRateLimitImage(t *testing.T) {
	tools, err := os.ReadFile("../../hack/tools.sh")
	if err != nil {
		t.Fatal(err)
	}
	commit := regexp.MustCompile(`RATELIMIT_VERSION=\S+-([0-9a-f]{8})[0-9a-f]{4}\n`).FindSubmatch(tools)
	if commit == nil {
		t.Fatal("hack/tools.sh names no commit")
	}
	i := &installation{T: t, server: kubetest.Shared(t)}
	i.objects = render(t, i.server, filepath.Join(root, "overlays/ratelimit"))
	containers := i.pod("evenkeel-ratelimit").Spec.Template.Spec.Containers
	if want := "envoyproxy/ratelimit:" + string(commit[1]); containers[0].Image != want {
		t.Errorf("image %s, expected %s", containers[0].Image, want)
	}
}
