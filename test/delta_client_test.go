package test

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// deltaClient is a raw delta ADS client that acknowledges everything and remembers versions, as Envoy
// does; it counts what arrives on the wire.
type deltaClient struct {
	t        *testing.T
	id       string
	address  string
	fleet    string
	names    map[string][]string          // subscriptions by type; empty for wildcard
	versions map[string]map[string]string // by type and name
	stream   discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	received chan *discoveryv3.DeltaDiscoveryResponse

	disconnect func() // ends the stream
}

func newDeltaClient(t *testing.T, address, fleet string) *deltaClient {
	return &deltaClient{t: t, id: "raw", address: address, fleet: fleet, names: map[string][]string{}, versions: map[string]map[string]string{}}
}

// connect opens a stream and subscribes to what is in names, with the versions that are known.
func (c *deltaClient) connect() {
	c.t.Helper()
	conn, err := grpc.NewClient(c.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	c.stream, err = discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx, grpc.WaitForReady(true))
	if err != nil {
		c.t.Fatal(err)
	}
	received := make(chan *discoveryv3.DeltaDiscoveryResponse, 100)
	c.received = received
	done := make(chan struct{})
	stream := c.stream
	go func() {
		defer close(done)
		for {
			resp, err := stream.Recv()
			if err != nil {
				return
			}
			received <- resp
		}
	}()
	c.disconnect = sync.OnceFunc(func() { cancel(); conn.Close(); <-done })
	c.t.Cleanup(c.disconnect)
	node := &corev3.Node{Id: c.id, Cluster: c.fleet}
	for _, url := range slices.Sorted(maps.Keys(c.names)) {
		c.send(&discoveryv3.DeltaDiscoveryRequest{
			Node: node, TypeUrl: url, ResourceNamesSubscribe: c.names[url], InitialResourceVersions: c.versions[url],
		})
		node = nil
	}
}

func (c *deltaClient) send(r *discoveryv3.DeltaDiscoveryRequest) {
	if err := c.stream.Send(r); err != nil {
		c.t.Fatal(err)
	}
}

// subscribeAll subscribes to all clusters and listeners, and to one load assignment and route
// configuration, and waits for the first answer of each.
func (c *deltaClient) subscribeAll(cluster, routes string) {
	c.t.Helper()
	c.names[resource.ClusterType] = nil
	c.names[resource.ListenerType] = nil
	c.names[resource.EndpointType] = []string{cluster}
	c.names[resource.RouteType] = []string{routes}
	c.connect()
	for range c.names {
		select {
		case resp := <-c.received:
			c.take(resp)
		case <-time.After(30 * time.Second):
			c.t.Fatal("a subscription was not answered")
		}
	}
}

func (c *deltaClient) take(resp *discoveryv3.DeltaDiscoveryResponse) {
	c.know(resp)
	c.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce()})
}

// know remembers what a response brought.
func (c *deltaClient) know(resp *discoveryv3.DeltaDiscoveryResponse) {
	known := c.versions[resp.GetTypeUrl()]
	if known == nil {
		known = map[string]string{}
		c.versions[resp.GetTypeUrl()] = known
	}
	for _, r := range resp.GetResources() {
		known[r.GetName()] = r.GetVersion()
	}
	for _, name := range resp.GetRemovedResources() {
		delete(known, name)
	}
}

// next is the next response of a type; others are acknowledged meanwhile.
func (c *deltaClient) next(url string) *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	for {
		select {
		case resp := <-c.received:
			if resp.GetTypeUrl() == url {
				return resp
			}
			c.take(resp)
		case <-time.After(30 * time.Second):
			c.t.Fatalf("%s of %s is not sent", c.id, url)
		}
	}
}

// until takes what comes until it has a resource in a version.
func (c *deltaClient) until(url, name, version string) {
	c.t.Helper()
	for c.versions[url][name] != version {
		c.take(c.next(url))
	}
}

// refuse refuses a response.
func (c *deltaClient) refuse(resp *discoveryv3.DeltaDiscoveryResponse) {
	c.send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: resp.GetTypeUrl(), ResponseNonce: resp.GetNonce(), ErrorDetail: &statuspb.Status{Code: 3, Message: "not this one"},
	})
}

// reconnect opens a new stream, telling the versions that it has.
func (c *deltaClient) reconnect() {
	c.t.Helper()
	c.disconnect()
	for len(c.received) > 0 { // what came before the connection broke
		c.know(<-c.received)
	}
	c.connect()
}

type arrived struct {
	messages, bodies int
	names            []string
}

// drain takes what arrives in a time.
func (c *deltaClient) drain(during time.Duration) arrived {
	var a arrived
	end := time.After(during)
	for {
		select {
		case resp := <-c.received:
			a.messages++
			a.bodies += len(resp.GetResources())
			for _, r := range resp.GetResources() {
				a.names = append(a.names, r.GetName())
			}
			c.take(resp)
		case <-end:
			return a
		}
	}
}
