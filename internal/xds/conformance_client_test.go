package xds_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// message is a response of either protocol.
type message struct {
	url, nonce, version string
	identifier          string
	names               []string              // as the message has them, repeated ones too
	bodies              map[string]*anypb.Any // by name
	versions            map[string]string     // delta: by name
	ttls                map[string]*durationpb.Duration
	removed             []string // delta
}

// carries reports whether the message has anything to say of a name.
func (m *message) carries(name string) bool {
	return m.bodies[name] != nil || slices.Contains(m.removed, name)
}

func (m *message) String() string {
	return fmt.Sprintf("%s nonce %s %v removed %v", m.url, m.nonce, m.names, m.removed)
}

// request is a request of either protocol. On SotW subscribe is the whole list of names.
type request struct {
	node                   *corev3.Node
	url, nonce, version    string
	subscribe, unsubscribe []string
	initial                map[string]string
	refusal                *statuspb.Status
}

// peer is a raw client on one stream. It sends what it is told, keeps what it received until a test
// asks for it, and applies a message to its store when told to accept it. One goroutine, the reader
// of the stream, is its own; everything else runs on the rule's.
type peer struct {
	*trial
	id, fleet  string
	introduced bool
	write      func(request) error
	in         chan *message // closed when the stream has ended
	ended      error         // valid once in is closed
	cancel     context.CancelFunc

	unread   []*message          // oldest first
	names    map[string][]string // SotW: what is asked for now, by type
	nonce    map[string]string   // of the last message of a type that was answered
	accepted map[string]string   // version_info last accepted, by type
	store    map[string]map[string]string
	versions map[string]map[string]string // delta: versions of what is in the store
	barriers int
}

func (r *trial) peer(id, fleet string) *peer {
	ctx, cancel := context.WithCancel(context.Background())
	p := &peer{
		trial: r, id: id, fleet: fleet, cancel: cancel, in: make(chan *message, 1024),
		names: map[string][]string{}, nonce: map[string]string{}, accepted: map[string]string{},
		store: map[string]map[string]string{}, versions: map[string]map[string]string{},
	}
	ads := discoveryv3.NewAggregatedDiscoveryServiceClient(r.conn)
	var read func() (*message, error)
	if r.protocol == delta {
		str, err := ads.DeltaAggregatedResources(ctx)
		if err != nil {
			r.Fatalf("open: %v", err)
		}
		p.write = func(q request) error { return str.Send(q.delta()) }
		read = func() (*message, error) {
			resp, err := str.Recv()
			return deltaMessage(resp), err
		}
	} else {
		str, err := ads.StreamAggregatedResources(ctx)
		if err != nil {
			r.Fatalf("open: %v", err)
		}
		p.write = func(q request) error { return str.Send(q.sotw()) }
		read = func() (*message, error) {
			resp, err := str.Recv()
			return sotwMessage(resp), err
		}
	}
	go func() {
		defer close(p.in)
		for {
			m, err := read()
			if err != nil {
				p.ended = err
				return
			}
			select {
			case p.in <- m:
			case <-ctx.Done():
				p.ended = ctx.Err()
				return
			}
		}
	}()
	r.t.Cleanup(p.close)
	return p
}

// close ends the stream, and returns when nothing more comes of it.
func (p *peer) close() {
	p.cancel()
	for range p.in {
	}
}

func (q request) delta() *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{
		Node: q.node, TypeUrl: q.url, ResponseNonce: q.nonce, ErrorDetail: q.refusal,
		ResourceNamesSubscribe: q.subscribe, ResourceNamesUnsubscribe: q.unsubscribe, InitialResourceVersions: q.initial,
	}
}

func (q request) sotw() *discoveryv3.DiscoveryRequest {
	return &discoveryv3.DiscoveryRequest{
		Node: q.node, TypeUrl: q.url, ResponseNonce: q.nonce, ErrorDetail: q.refusal, VersionInfo: q.version, ResourceNames: q.subscribe,
	}
}

func deltaMessage(resp *discoveryv3.DeltaDiscoveryResponse) *message {
	m := &message{
		url: resp.GetTypeUrl(), nonce: resp.GetNonce(), version: resp.GetSystemVersionInfo(), identifier: resp.GetControlPlane().GetIdentifier(),
		bodies: map[string]*anypb.Any{}, versions: map[string]string{}, ttls: map[string]*durationpb.Duration{}, removed: resp.GetRemovedResources(),
	}
	for _, r := range resp.GetResources() {
		m.names = append(m.names, r.GetName())
		m.bodies[r.GetName()], m.versions[r.GetName()], m.ttls[r.GetName()] = r.GetResource(), r.GetVersion(), r.GetTtl()
	}
	return m
}

func sotwMessage(resp *discoveryv3.DiscoveryResponse) *message {
	m := &message{
		url: resp.GetTypeUrl(), nonce: resp.GetNonce(), version: resp.GetVersionInfo(), identifier: resp.GetControlPlane().GetIdentifier(),
		bodies: map[string]*anypb.Any{}, ttls: map[string]*durationpb.Duration{},
	}
	for _, body := range resp.GetResources() {
		wrapped := &discoveryv3.Resource{}
		if body.MessageIs(wrapped) && body.UnmarshalTo(wrapped) == nil {
			m.ttls[wrapped.GetName()] = wrapped.GetTtl()
			body = wrapped.GetResource()
		}
		name := nameWithin(body)
		m.names = append(m.names, name)
		m.bodies[name] = body
	}
	return m
}

// nameWithin is the name that a resource has in its own message.
func nameWithin(body *anypb.Any) string {
	m, err := body.UnmarshalNew()
	if err != nil {
		return ""
	}
	switch named := m.(type) {
	case interface{ GetClusterName() string }:
		return named.GetClusterName()
	case interface{ GetName() string }:
		return named.GetName()
	}
	return ""
}

// send introduces the node on the first request. A stream that the server has closed tells why when
// it is read.
func (p *peer) send(q request) {
	if !p.introduced {
		p.introduced = true
		if q.node == nil {
			q.node = &corev3.Node{Id: p.id, Cluster: p.fleet}
		}
	}
	if err := p.write(q); err != nil && !errors.Is(err, io.EOF) {
		p.Fatalf("send: %v", err)
	}
}

// subscribe asks for names; the first time without any, for everything.
func (p *peer) subscribe(url string, names ...string) {
	if p.protocol == delta {
		p.send(request{url: url, subscribe: names})
		return
	}
	for _, name := range names {
		if !slices.Contains(p.names[url], name) {
			p.names[url] = append(p.names[url], name)
		}
	}
	p.ask(url)
}

func (p *peer) unsubscribe(url string, names ...string) {
	if p.protocol == delta {
		p.send(request{url: url, unsubscribe: names})
		return
	}
	p.names[url] = slices.DeleteFunc(slices.Clone(p.names[url]), func(n string) bool { return slices.Contains(names, n) })
	p.ask(url)
}

// ask repeats, on SotW, what the peer wants and has.
func (p *peer) ask(url string) {
	p.send(request{url: url, nonce: p.nonce[url], version: p.accepted[url], subscribe: p.names[url]})
}

// accept applies a message as a correct client does, and acknowledges it.
func (p *peer) accept(m *message) {
	p.apply(m)
	p.ack(m)
}

func (p *peer) apply(m *message) {
	if p.store[m.url] == nil || p.protocol == sotw && (m.url == resource.ClusterType || m.url == resource.ListenerType) {
		p.store[m.url] = map[string]string{}
	}
	if p.versions[m.url] == nil {
		p.versions[m.url] = map[string]string{}
	}
	for name, body := range m.bodies {
		p.store[m.url][name] = string(body.GetValue())
		p.versions[m.url][name] = m.versions[name]
	}
	for _, name := range m.removed {
		delete(p.store[m.url], name)
		delete(p.versions[m.url], name)
	}
}

func (p *peer) ack(m *message) {
	p.nonce[m.url] = m.nonce
	p.accepted[m.url] = m.version
	if p.protocol == delta {
		p.send(request{url: m.url, nonce: m.nonce})
	} else {
		p.send(request{url: m.url, nonce: m.nonce, version: m.version, subscribe: p.names[m.url]})
	}
}

// nack refuses a message: nothing of it is applied.
func (p *peer) nack(m *message, why string) {
	p.nonce[m.url] = m.nonce
	q := request{url: m.url, nonce: m.nonce, refusal: &statuspb.Status{Code: 13, Message: why}}
	if p.protocol == sotw {
		q.version, q.subscribe = p.accepted[m.url], p.names[m.url]
	}
	p.send(q)
}

// receive waits for a message and puts it with the unread ones; false when none came in time or the
// stream has ended.
func (p *peer) receive(within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case m, open := <-p.in:
		if !open {
			return false
		}
		p.unread = append(p.unread, m)
		return true
	case <-timer.C:
		return false
	}
}

// take is the oldest unread message that fits, nil if there is none.
func (p *peer) take(fits func(*message) bool) *message {
	i := slices.IndexFunc(p.unread, fits)
	if i < 0 {
		return nil
	}
	m := p.unread[i]
	p.unread = slices.Delete(p.unread, i, i+1)
	return m
}

// any is the next message of any type; nil when none came in time.
func (p *peer) any(within time.Duration) *message {
	if len(p.unread) == 0 && !p.receive(within) {
		return nil
	}
	return p.take(func(*message) bool { return true })
}

// next is the next message of a type. Those of others wait.
func (p *peer) next(url string) *message {
	of := func(m *message) bool { return m.url == url }
	for deadline := time.Now().Add(p.patience); ; {
		if m := p.take(of); m != nil {
			return m
		}
		if !p.receive(time.Until(deadline)) {
			p.Fatalf("no message of %s came; unread: %v, ended: %v", url, p.unread, p.end())
		}
	}
}

// status is the error that the server ends the stream with.
func (p *peer) status() error {
	for deadline := time.Now().Add(p.patience); p.receive(time.Until(deadline)); {
	}
	if p.end() == nil {
		p.Fatalf("the stream is still open")
	}
	return p.ended
}

// end is why the stream has ended, nil if it has not, or its messages are not read yet.
func (p *peer) end() error {
	select {
	case m, open := <-p.in:
		if open {
			p.unread = append(p.unread, m)
			return nil
		}
		return p.ended
	default:
		return nil
	}
}

// barrier returns when the server has handled everything that was sent before: it asks for a resource
// that the peer has not asked for yet, and waits for it.
func (p *peer) barrier() {
	if p.barriers == barriers {
		p.Fatalf("more than %d barriers", barriers)
	}
	name := barrierName(p.barriers)
	p.barriers++
	p.subscribe(resource.RuntimeType, name)
	for {
		m := p.next(resource.RuntimeType)
		p.accept(m)
		if m.bodies[name] != nil {
			return
		}
	}
}

// silent asserts that no message of the types came for what was sent before. A barrier says when the
// requests are handled; the moment after it is for what a server sends out of turn.
func (p *peer) silent(after string, urls ...string) {
	p.barrier()
	for p.receive(quietTime) {
	}
	if m := p.take(func(m *message) bool { return slices.Contains(urls, m.url) }); m != nil {
		p.Fatalf("%s: expected silence, got %v", after, m)
	}
}

// accepts takes messages, whatever they are, until its store satisfies a condition. refuse says what
// to refuse a message with; "" or a nil refuse accepts it.
func (p *peer) accepts(what string, refuse func(*message) string, done func() bool) {
	for deadline := time.Now().Add(p.patience); !done(); {
		m := p.any(time.Until(deadline))
		if m == nil {
			p.Fatalf("never: %s; store %v, ended: %v", what, p.has(), p.end())
		}
		if refuse != nil {
			if why := refuse(m); why != "" {
				p.nack(m, why)
				continue
			}
		}
		p.accept(m)
	}
}

// has is what the store holds, by type, for messages of failures.
func (p *peer) has() map[string][]string {
	out := map[string][]string{}
	for url, named := range p.store {
		out[url] = slices.Sorted(maps.Keys(named))
	}
	return out
}

// holds reports whether the store has the bytes of resources.
func (p *peer) holds(want ...served) bool {
	for _, r := range want {
		if p.store[r.Type.URL()][r.Name] != string(r.Bytes) {
			return false
		}
	}
	return true
}
