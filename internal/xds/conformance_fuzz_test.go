package xds_test

import (
	"fmt"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// FuzzStream has a client say anything, in any order, on a stream of either protocol: the server does
// not panic, sends no more than it was asked for, and answers a healthy client afterwards.
func FuzzStream(f *testing.F) {
	f.Add(false, []byte{0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3})
	f.Add(true, []byte{0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3})
	f.Add(false, []byte("subscribe, refuse, accept what never came, unsubscribe, forget the type, be another"))
	f.Add(true, []byte{1, 0x31, 1, 1, 0x41, 1, 1, 0x51, 1, 2, 0x61, 9, 2, 0x71, 3})
	host := startOurs(f)
	host.set(fleet, snapshotOf(append(shop("a", "b"), service("c", 1)...)...))
	urls := []string{resource.ClusterType, resource.EndpointType, resource.RouteType, resource.ListenerType, resource.RuntimeType, "unknown", ""}
	f.Fuzz(func(t *testing.T, isDelta bool, script []byte) {
		r := &trial{t: t, running: host, protocol: sotw, patience: patience}
		if isDelta {
			r.protocol = delta
		}
		script = script[:min(len(script), 3*200)]
		requests, responses := 0, 0
		r.run(func(r *trial) {
			p := r.peer("envoy-1", fleet)
			for ; len(script) >= 3; script = script[3:] {
				what, how, who := int(script[0]), script[1], int(script[2])
				name := string(rune('a' + who%8))
				names := [][]string{nil, {name}, {"*"}, {name, "*", name}, {name + "/*"}, {"web"}}[who/8%6]
				q := request{url: urls[what%len(urls)], nonce: fmt.Sprint(who % 9)}
				if how&1 != 0 {
					q.subscribe = names
				}
				if how&2 != 0 {
					q.unsubscribe = names
				}
				if how&4 != 0 {
					q.refusal = &statuspb.Status{Code: int32(who), Message: `cluster_name: "` + name + `"`}
				}
				if how&8 != 0 {
					q.initial, q.version = map[string]string{name: "1"}, fmt.Sprint(who)
				}
				if how&16 != 0 && who%32 == 0 {
					q.node = &corev3.Node{Id: fmt.Sprint("envoy-", who/32), Cluster: fleet}
				}
				if how&32 != 0 {
					if m := p.any(time.Millisecond); m != nil {
						responses++
						q.nonce, q.version = m.nonce, m.version
					}
				}
				p.send(q)
				requests++
				if p.end() != nil {
					break
				}
			}
			for p.any(time.Millisecond) != nil {
				responses++
			}
			if err := p.end(); status.Code(err) == codes.Internal {
				r.Errorf("ended with %v", err)
			}
			p.close()
			if responses > 2*requests {
				r.Errorf("%d responses to %d requests", responses, requests)
			}
			healthy := r.peer("envoy-2", fleet)
			healthy.subscribe(resource.EndpointType, "a")
			healthy.accepts("a healthy client's endpoints", nil, func() bool { return healthy.holds(assignment("a", 1)) })
			healthy.close()
		})
		for _, failure := range r.failures {
			t.Error(failure)
		}
	})
}
