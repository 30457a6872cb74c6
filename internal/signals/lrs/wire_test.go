package lrs

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// envoysNode is as large as that of an Envoy 1.40: its 516 extensions, mostly.
func envoysNode() *corev3.Node {
	n := &corev3.Node{Id: "envoy-1", Cluster: edge, UserAgentName: "envoy", ClientFeatures: []string{"envoy.lb.does_not_support_overprovisioning", sendsAllClusters}}
	for i := range 516 {
		n.Extensions = append(n.Extensions, &corev3.Extension{
			Name: fmt.Sprintf("envoy.extensions.category.an_extension_%d", i), Category: "envoy.category",
			TypeUrls: []string{fmt.Sprintf("envoy.extensions.filters.category.v3.Extension%d", i)},
		})
	}
	return n
}

func reportOf(n *corev3.Node, endpoints int) *loadv3.LoadStatsRequest {
	var stats []*endpointv3.UpstreamEndpointStats
	for i := range endpoints {
		stats = append(stats, endpointOf(fmt.Sprintf("10.0.%d.%d", i/256, i%256), 8080, 10, 1, 11, 2))
	}
	return &loadv3.LoadStatsRequest{Node: n, ClusterStats: []*endpointv3.ClusterStats{statsOf(shop, 5*time.Second, stats...)}}
}

// byTheBook is what a message should hold, by the full decoding of it.
func byTheBook(full *loadv3.LoadStatsRequest) message {
	m := message{node: &node{
		id: full.GetNode().GetId(), fleet: full.GetNode().GetCluster(),
		sendsAll: slices.Contains(full.GetNode().GetClientFeatures(), sendsAllClusters),
	}}
	for _, c := range full.GetClusterStats() {
		d := c.GetLoadReportInterval()
		read := cluster{
			name: c.GetClusterName(), service: c.GetClusterServiceName(),
			interval: duration(d.GetSeconds(), int64(d.GetNanos())), first: len(m.endpoints),
		}
		for _, l := range c.GetUpstreamLocalityStats() {
			for _, e := range l.GetUpstreamEndpointStats() {
				socket := e.GetAddress().GetSocketAddress()
				var address netip.AddrPort
				if ip, err := netip.ParseAddr(socket.GetAddress()); err == nil && socket.GetPortValue() > 0 && socket.GetPortValue() <= math.MaxUint16 {
					address = netip.AddrPortFrom(ip, uint16(socket.GetPortValue()))
				}
				m.endpoints = append(m.endpoints, endpointStats{
					address, e.GetTotalSuccessfulRequests(), e.GetTotalErrorRequests(), e.GetTotalIssuedRequests(), e.GetTotalRequestsInProgress(),
				})
			}
		}
		read.end = len(m.endpoints)
		m.clusters = append(m.clusters, read)
	}
	return m
}

// FuzzMessage: what a full decoding accepts has the same outcome, unless it is past the bounds; nothing
// past them is accepted.
func FuzzMessage(f *testing.F) {
	for _, m := range []*loadv3.LoadStatsRequest{
		{Node: &corev3.Node{Id: "envoy-1", Cluster: edge, ClientFeatures: []string{sendsAllClusters}}},
		reportOf(&corev3.Node{Id: "envoy-1"}, 2),
		{ClusterStats: []*endpointv3.ClusterStats{{ClusterName: "cart", ClusterServiceName: shop, TotalDroppedRequests: 3}, statsOf("a", -time.Second)}},
		{ClusterStats: []*endpointv3.ClusterStats{statsOf("a", time.Second, endpointOf("::1", 1<<16, 1<<63, 0, 0, 0), &endpointv3.UpstreamEndpointStats{
			Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/p"}}},
		})}},
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(append(data, data...)) // fields twice: scalars are the last's, messages are merged, lists go on
	}
	// A port twice, by number and by name; an address twice, of two kinds.
	port := protowire.AppendBytes(protowire.AppendTag(protowire.AppendVarint(protowire.AppendTag(nil, 3, protowire.VarintType), 80), 4, protowire.BytesType), []byte("http"))
	socket := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), port)
	wrapped := protowire.AppendBytes(protowire.AppendTag(socket, 2, protowire.BytesType), nil)
	for _, number := range []protowire.Number{1, 7, 2, 2} { // address, endpoint, locality, cluster
		wrapped = protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), wrapped)
	}
	f.Add(wrapped)

	f.Fuzz(func(t *testing.T, data []byte) {
		m := message{node: &node{}}
		if err := m.UnmarshalWire(data); err != nil {
			t.Fatal(err)
		}
		if len(m.clusters) > maxClusters || len(m.endpoints) > maxEndpoints {
			t.Fatalf("%d clusters, %d endpoints", len(m.clusters), len(m.endpoints))
		}
		for _, c := range m.clusters {
			if len(c.name) > maxName || len(c.service) > maxName || c.first > c.end || c.end > len(m.endpoints) {
				t.Fatalf("%+v", c)
			}
		}
		var full loadv3.LoadStatsRequest
		if err := proto.Unmarshal(data, &full); err != nil {
			return // in what is stepped over
		}
		switch want := byTheBook(&full); {
		case m.refused == errTooLarge:
		case m.refused != nil:
			t.Fatalf("refused: %v", m.refused)
		case *m.node != *want.node || !slices.Equal(m.clusters, want.clusters) || !slices.Equal(m.endpoints, want.endpoints):
			t.Fatalf("%+v\n%+v\nwant %+v\n%+v", m, m.node, want, want.node)
		}
	})
}

func TestMessageIsBounded(t *testing.T) {
	many := &loadv3.LoadStatsRequest{}
	for range maxClusters + 1 {
		many.ClusterStats = append(many.ClusterStats, &endpointv3.ClusterStats{})
	}
	for what, m := range map[string]*loadv3.LoadStatsRequest{
		"clusters":  many,
		"endpoints": reportOf(nil, maxEndpoints+1),
		"name":      {ClusterStats: []*endpointv3.ClusterStats{{ClusterName: strings.Repeat("x", maxName+1)}}},
		"service":   {ClusterStats: []*endpointv3.ClusterStats{{ClusterServiceName: strings.Repeat("x", maxName+1)}}},
		"address":   {ClusterStats: []*endpointv3.ClusterStats{statsOf("a", time.Second, endpointOf(strings.Repeat("1", maxAddress+1), 1, 1, 1, 1, 1))}},
		"node":      {Node: &corev3.Node{Id: strings.Repeat("x", maxName+1)}},
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		read := message{node: &node{}}
		if _ = read.UnmarshalWire(data); read.refused != errTooLarge || len(read.clusters)+len(read.endpoints) > 0 {
			t.Errorf("%s: %v, %d clusters", what, read.refused, len(read.clusters))
		}
	}
	broken := message{}
	if _ = broken.UnmarshalWire([]byte{0x12, 0x05, 0x0a}); broken.refused != errMalformed {
		t.Errorf("cut short: %v", broken.refused)
	}
}

func BenchmarkMessage(b *testing.B) {
	data, err := proto.Marshal(reportOf(envoysNode(), 10))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("needed", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		var m message
		for b.Loop() {
			if _ = m.UnmarshalWire(data); len(m.endpoints) != 10 {
				b.Fatal(m.refused)
			}
		}
	})
	b.Run("full", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			var m loadv3.LoadStatsRequest
			if err := proto.Unmarshal(data, &m); err != nil {
				b.Fatal(err)
			}
		}
	})
}
