package test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcpeer "google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"
	grpcxds "google.golang.org/grpc/xds"
	"google.golang.org/protobuf/types/known/emptypb"

	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/demo"
)

// grpcBackends are n servers, at the addresses that backends have otherwise, of both HTTP and gRPC. They know
// no gRPC method: the answer "unimplemented" says who was asked.
func (r *rig) grpcBackends(n int) {
	r.t.Helper()
	var all []netip.Addr
	for i := range n {
		all = append(all, r.address(i))
	}
	r.ports.backend = r.freePort(all...)
	for _, address := range all {
		lis, err := net.Listen("tcp", netip.AddrPortFrom(address, r.ports.backend).String())
		if err != nil {
			r.t.Fatal(err)
		}
		calls := grpc.NewServer()
		var protocols http.Protocols
		protocols.SetHTTP1(true)
		protocols.SetUnencryptedHTTP2(true)
		server := &http.Server{Protocols: &protocols, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.HasPrefix(req.Header.Get("Content-Type"), "application/grpc") {
				calls.ServeHTTP(w, req)
			}
		})}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = server.Serve(lis)
		}()
		r.t.Cleanup(func() {
			calls.Stop()
			server.Close()
			<-ended
		})
	}
}

// grpcClient is a channel of grpc-go, which is its own proxy.
type grpcClient struct {
	*rig
	conn *grpc.ClientConn
}

func (r *rig) dialGRPC(name string) grpcClient {
	r.t.Helper()
	bootstrap, err := json.Marshal(map[string]any{
		"xds_servers": []any{map[string]any{"server_uri": loopback(r.ports.xds), "channel_creds": []any{map[string]any{"type": "insecure"}}}},
		"node":        map[string]any{"id": "checkout-1", "cluster": "shop/edge"},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	resolver, err := grpcxds.NewXDSResolverWithConfigForTesting(bootstrap)
	if err != nil {
		r.t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///"+name, grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return grpcClient{r, conn}
}

// shares counts where n requests went, by backend; -1 stands for those that were not sent.
func (c grpcClient) shares(n int, method string) map[int]int {
	c.t.Helper()
	counts := map[int]int{}
	for range n {
		ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
		var by grpcpeer.Peer
		err := c.conn.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{}, grpc.Peer(&by))
		cancel()
		switch grpcstatus.Code(err) {
		case codes.Unimplemented:
			counts[c.backendOf(by.Addr.String())]++
		case codes.Unavailable:
			counts[-1]++
		default:
			c.t.Fatalf("%s: %v", method, err)
		}
	}
	return counts
}

// untilShares waits until requests go to backends 0, 1, ... in these shares, within six standard deviations.
func (c grpcClient) untilShares(what, method string, shares ...float64) {
	c.t.Helper()
	const n = 600
	c.eventually(what, func() error {
		got := c.shares(n, method)
		for i, share := range shares {
			if math.Abs(float64(got[i])-share*n) > 6*math.Sqrt(n*share*(1-share)) {
				return fmt.Errorf("of %d requests backends got %v, expected shares of %v", n, got, shares)
			}
		}
		return nil
	})
}

// TestGRPCClients: grpc-go is served the same objects as an Envoy of the same fleet. Weights, an endpoint
// that leaves and a route act on it, and the Envoy notices nothing of it.
func TestGRPCClients(t *testing.T) {
	const get, pay = "/shop.Cart/Get", "/shop.Pay/Pay"
	r := newRig(t, 0)
	r.grpcBackends(3)
	weighted := func(name string, weight int, backend int) string {
		return strings.NewReplacer("cart-1", name, "annotations: {}", fmt.Sprintf("annotations: {evenkeel.io/weight: %q}", fmt.Sprint(weight))).
			Replace(r.slice("", backend))
	}
	paySlice := strings.NewReplacer("cart-1", "pay-1", "service-name: cart", "service-name: pay").Replace(r.slice("", 2))
	calls := func(rules string) string {
		return strings.Replace(strings.Replace(route(rules), "name: cart,", "name: calls,", 1), "  rules:\n", "  hostnames: [shop.example.com]\n  rules:\n", 1)
	}
	r.write("base.yaml", r.base()+"---\n"+strings.Replace(r.base()[strings.LastIndex(r.base(), "apiVersion"):], "name: cart", "name: pay", 1))
	r.write("route.yaml", route(toCart))
	r.write("calls.yaml", calls(toCart))
	r.write("policy.yaml", policy("  strategy: Static\n"))
	r.write("slice-0.yaml", weighted("cart-0", 3, 0))
	r.write("slice-1.yaml", weighted("cart-1", 1, 1))
	r.write("slice-pay.yaml", paySlice)
	r.start()
	r.startEnvoy("shop/edge")
	stop := r.load(60)
	settle(t, r.clusters)
	before := r.clusters()

	c := r.dialGRPC("shop.example.com")
	c.untilShares("weights of 3 and 1", get, 0.75, 0.25, 0)
	r.write("slice-0.yaml", weighted("cart-0", 1, 0))
	r.write("slice-1.yaml", weighted("cart-1", 3, 1))
	c.untilShares("weights of 1 and 3", get, 0.25, 0.75, 0)
	r.write("slice-0.yaml", weighted("cart-0", 1, 1))
	c.untilShares("the endpoint is gone", get, 0, 1, 0)
	if after := r.clusters(); after != before {
		t.Errorf("Envoy's clusters changed: %s, before %s", after, before)
	}
	if got := c.shares(50, pay); got[1] != 50 {
		t.Errorf("before there is a route to pay its requests went %v", got)
	}
	r.write("calls.yaml", calls("  - matches: [{path: {type: PathPrefix, value: /shop.Pay}}]\n    backendRefs: [{name: pay, port: 80}]\n"+toCart))
	c.untilShares("a route to another service", pay, 0, 0, 1)
	c.untilShares("the route of the others", get, 0, 1, 0)

	other := r.dialGRPC(fmt.Sprintf("shop/edge/%d", r.ports.listener)) // of any host
	other.untilShares("the listener by its own name", pay, 0, 1, 0)

	if report := stop(); report.Failed() > 0 {
		t.Errorf("through Envoy %d of %d requests failed: %v", report.Failed(), report.Requests, report.ByStatus)
	}
	r.eventually("both are in order", func() error {
		var view admin.ProxiesView
		if err := demo.GetJSON(t.Context(), r.adminURL("/proxies"), &view); err != nil {
			t.Fatal(err)
		}
		streams := map[string]int{}
		for _, p := range view.Proxies {
			streams[p.Agent]++
			if p.Fleet != "shop/edge" {
				t.Errorf("%+v", p)
			}
			for kind, of := range p.Types {
				if of.State != "SYNCED" && of.State != "NOT_SUBSCRIBED" {
					return fmt.Errorf("%s %s: %+v", p.Node, kind, of)
				}
			}
		}
		if streams["envoy"] != 1 || streams["gRPC Go"] != 2 {
			return fmt.Errorf("streams %v", streams)
		}
		return nil
	})
	if n := r.metric("evenkeel_xds_nacks_total"); n > 0 {
		t.Errorf("%v refusals", n)
	}
}
