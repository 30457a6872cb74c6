package xds

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

func TestANodeIsReadWithoutItsExtensions(t *testing.T) {
	n := node("envoy-1", fleet)
	n.Extensions, n.ClientFeatures = []*corev3.Extension{{Name: "envoy.filters.http.router"}}, []string{"x"}
	data, err := proto.Marshal(&discoveryv3.DiscoveryRequest{Node: n, VersionInfo: "1", TypeUrl: "type"})
	if err != nil {
		t.Fatal(err)
	}
	var req sotwRequest
	if err := req.UnmarshalWire(data); err != nil {
		t.Fatal(err)
	}
	n.Extensions, n.ClientFeatures = nil, nil
	if !proto.Equal(req.GetNode(), n) || req.GetVersionInfo() != "1" || req.GetTypeUrl() != "type" {
		t.Errorf("%v", &req.DiscoveryRequest)
	}
}

// FuzzRequestsWithoutExtensions: what is read of a request is what the library reads, but for what is left
// out of the node; and what the library does not take is not taken.
func FuzzRequestsWithoutExtensions(f *testing.F) {
	n := node("envoy-1", fleet)
	n.Extensions = []*corev3.Extension{{Name: "envoy.filters.http.router", TypeUrls: []string{"a", "b"}}, {Name: "x"}}
	n.ClientFeatures = []string{"envoy.lb.does_not_support_overprovisioning"}
	n.Locality = &corev3.Locality{Zone: "a"}
	for _, m := range []proto.Message{
		&discoveryv3.DeltaDiscoveryRequest{Node: n, TypeUrl: "type", ResourceNamesSubscribe: []string{"a", "b"}, InitialResourceVersions: map[string]string{"c": "1"}},
		&discoveryv3.DiscoveryRequest{Node: n, VersionInfo: "1", ResourceNames: []string{"a"}},
		&discoveryv3.DeltaDiscoveryRequest{},
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(append(data, data...))
		f.Add(data[:len(data)/2])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		given := string(data)
		var delta deltaRequest
		var sotw sotwRequest
		for _, of := range []struct {
			lean interface {
				proto.Message
				selfDecoding
				GetNode() *corev3.Node
			}
			whole interface {
				proto.Message
				GetNode() *corev3.Node
			}
		}{
			{&delta, &discoveryv3.DeltaDiscoveryRequest{}},
			{&sotw, &discoveryv3.DiscoveryRequest{}},
		} {
			err := proto.Unmarshal(data, of.whole)
			if lean := of.lean.UnmarshalWire(data); err == nil && lean != nil {
				t.Fatalf("%v, want it taken", lean)
			}
			if string(data) != given {
				t.Fatal("the message was changed")
			}
			if err != nil {
				continue // the library may refuse what is left out
			}
			if whole := of.whole.GetNode(); whole != nil {
				whole.Extensions, whole.ClientFeatures = nil, nil
			}
			if n := of.lean.GetNode(); n != nil { // of a second node, which gRPC's clients do not send, all is read
				n.Extensions, n.ClientFeatures = nil, nil
			}
			if !proto.Equal(of.lean, of.whole) {
				t.Fatalf("%v, want %v", of.lean, of.whole)
			}
		}
	})
}
