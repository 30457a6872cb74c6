package main

import (
	"maps"
	"slices"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func mustPack(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	packed, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

func response(t testing.TB) []byte {
	t.Helper()
	s := Shape{Clusters: 3, Endpoints: 2}
	r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: endpointType, Nonce: "n7", SystemVersionInfo: "x", RemovedResources: []string{"gone"}}
	for i := range s.Clusters {
		r.Resources = append(r.Resources, &discoveryv3.Resource{Name: s.name(i), Version: "v", Resource: mustPack(t, s.assignment(i, 10*i))})
	}
	message, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return message
}

func TestResponsesAreReadWithoutDecoding(t *testing.T) {
	ticks := map[string]int{}
	typeURL, nonce, err := readResponse(response(t), func(of string, resource []byte) error {
		name, err := field(resource, bodyName)
		if err != nil || of != endpointType {
			t.Errorf("a resource of type %q: %v", of, err)
		}
		ticks[string(name)], err = tickOf(resource)
		return err
	})
	if err != nil || typeURL != endpointType || nonce != "n7" {
		t.Fatalf("type %q, nonce %q: %v", typeURL, nonce, err)
	}
	if want := (map[string]int{"shop/service-0000:80": 0, "shop/service-0001:80": 10, "shop/service-0002:80": 20}); !maps.Equal(ticks, want) {
		t.Errorf("ticks %v, want %v", ticks, want)
	}
}

func FuzzReadResponse(f *testing.F) {
	f.Add(response(f))
	f.Add([]byte{0x12, 0x02, 0x12})
	f.Fuzz(func(t *testing.T, message []byte) {
		_, _, _ = readResponse(message, func(_ string, resource []byte) error {
			_, err := tickOf(resource)
			return err
		})
	})
}

func TestRequestsAreWhatAnEnvoySends(t *testing.T) {
	versions := map[string]map[string]string{clusterType: {"a": "1"}, endpointType: {"a": "2"}}
	r, err := newRequests([]string{"a", "b"}, versions, 61_000)
	if err != nil {
		t.Fatal(err)
	}
	decode := func(message encoded) *discoveryv3.DeltaDiscoveryRequest {
		out := &discoveryv3.DeltaDiscoveryRequest{}
		if err := proto.Unmarshal(message, out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	first, second := decode(r.first("x")), decode(r.first("y"))
	if first.GetTypeUrl() != clusterType || first.GetNode().GetId() != "x" || second.GetNode().GetId() != "y" || first.GetNode().GetCluster() != fleet ||
		first.GetInitialResourceVersions()["a"] != "1" || len(first.GetResourceNamesSubscribe()) != 0 {
		t.Errorf("the first request: %.300v", first)
	}
	if size := proto.Size(first.GetNode()); size < 60_000 || size > 63_000 {
		t.Errorf("a node of %d bytes, want about 61,000", size)
	}
	eds := decode(r.subscribe())
	if eds.GetTypeUrl() != endpointType || !slices.Equal(eds.GetResourceNamesSubscribe(), []string{"a", "b"}) || eds.GetInitialResourceVersions()["a"] != "2" || eds.GetNode() != nil {
		t.Errorf("the subscription: %v", eds)
	}
	if ack := decode(r.ack("t", "n")); ack.GetTypeUrl() != "t" || ack.GetResponseNonce() != "n" || ack.GetErrorDetail() != nil {
		t.Errorf("the acknowledgement: %v", ack)
	}
	if nack := decode(r.nack("t", "n")); nack.GetResponseNonce() != "n" || nack.GetErrorDetail().GetMessage() == "" {
		t.Errorf("the refusal: %v", nack)
	}
}

func TestResourcesDependOnClusterAndTickAlone(t *testing.T) {
	s := Shape{Clusters: 500, Endpoints: 20}
	if !proto.Equal(s.assignment(7, 3), s.assignment(7, 3)) {
		t.Error("the same load assignment differs")
	}
	a, b := s.assignment(7, 3).GetEndpoints()[0].GetLbEndpoints(), s.assignment(7, 4).GetEndpoints()[0].GetLbEndpoints()
	if a[0].GetEndpoint().String() != b[0].GetEndpoint().String() || a[0].GetLoadBalancingWeight().GetValue() == b[0].GetLoadBalancingWeight().GetValue() {
		t.Error("another tick is to change weights, and nothing else")
	}
	spread := s.spread(25)
	if slices.Max(spread) >= s.Clusters || len(slices.Compact(slices.Clone(spread))) != 25 {
		t.Errorf("25 of 500: %v", spread)
	}
	if _, err := encodeAssignments(s.assignments(spread, 1)); err != nil {
		t.Errorf("the product refuses them: %v", err)
	}
}

// TestTheFloorSendsTheSameBytesToAll: what is prepared once is what every stream is to get.
func TestTheFloorSendsTheSameBytesToAll(t *testing.T) {
	s, f := Shape{Clusters: 4, Endpoints: 2}, newFloor()
	if err := f.set(s.clusters(), s.assignments(s.spread(4), 0)); err != nil {
		t.Fatal(err)
	}
	one, other := make(chan encoded, 1), make(chan encoded, 1)
	f.streams[one], f.streams[other] = true, true
	deliver, err := f.prepare(s.assignments([]int{2}, 5))
	if err != nil {
		t.Fatal(err)
	}
	if err := deliver(); err != nil {
		t.Fatal(err)
	}
	a, b := <-one, <-other
	if &a[0] != &b[0] {
		t.Error("two streams got bytes of their own")
	}
	count := func(message encoded) (names []string, sum int) {
		_, _, err := readResponse(message, func(_ string, resource []byte) error {
			name, _ := field(resource, bodyName)
			tick, err := tickOf(resource)
			names, sum = append(names, string(name)), sum+tick
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return names, sum
	}
	if names, sum := count(a); len(names) != 1 || names[0] != s.name(2) || sum != 5 {
		t.Errorf("the change was sent as %v, ticks %d", names, sum)
	}
	all, err := f.everything(endpointType)
	if err != nil {
		t.Fatal(err)
	}
	if names, sum := count(all); len(names) != 4 || sum != 5 {
		t.Errorf("who comes later gets %v, ticks %d; want all 4, one of tick 5", names, sum)
	}
}
