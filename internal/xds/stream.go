package xds

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	streamv3 "github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"evenkeel.io/controlplane/internal/translate"
)

const (
	delta = "delta"
	sotw  = "sotw"
	lrs   = "lrs"
)

const (
	// maxTypes is what the library's handler has room for: its channel of responses holds two for
	// each of so many types, and a cache that finds it full waits with its lock held, for all clients.
	maxTypes = int(types.UnknownType)

	maxTypeURL    = 256
	maxName       = 1024
	maxUnanswered = 256 // responses of a type; a client that asks on without answering is closed
)

// adsStream is one ADS stream. It implements the callbacks of the library's delta and SotW handlers,
// which call it in turn from the stream's own goroutine; Registry reads it from others, hence the
// mutex. What it changes in a request, the handler and the cache see.
type adsStream struct {
	registry    *Registry
	protocol    string
	connectedAt time.Time

	mu         sync.Mutex
	facts      facts
	identified bool
	types      map[string]*subscription // by type URL, at most maxTypes
	lastNack   *Nack
}

// refuse makes the error that closes a stream, and counts it.
func (s *adsStream) refuse(code codes.Code, reason, format string, args ...any) error {
	s.registry.metrics.refused.WithLabelValues(reason).Inc()
	err := status.Error(code, plain(fmt.Sprintf(format, args...), maxNackMessage))
	s.registry.opts.Log.Warn("xDS stream refused", "node", s.facts.id, "fleet", s.facts.fleet, "reason", reason, "error", err)
	return err
}

// identify takes the node from the first request and holds later ones to it.
func (s *adsStream) identify(n *corev3.Node) error {
	if s.identified {
		if n.GetId() != "" && (n.GetId() != s.facts.id || n.GetCluster() != s.facts.fleet) {
			return s.refuse(codes.InvalidArgument, "node_changed", "node %q of cluster %q on the stream of node %q of cluster %q: a stream belongs to one node",
				n.GetId(), n.GetCluster(), s.facts.id, s.facts.fleet)
		}
		return nil
	}
	f, err := factsOf(n)
	if err != nil {
		return s.refuse(codes.InvalidArgument, "bad_node", "%v", err)
	}
	if !s.registry.admits(f.fleet) {
		return s.refuse(codes.ResourceExhausted, "unknown_fleets", "node.cluster %q: no such Gateway or namespace, and too many unknown ones were asked for", f.fleet)
	}
	// The handler and the cache hold on to the Node for as long as the stream lives, once per watch.
	n.Extensions, n.Metadata = nil, nil
	s.facts, s.identified = f, true
	s.registry.identified(f)
	s.registry.opts.Log.Info("proxy connected", "node", f.id, "fleet", f.fleet, "agent", f.agent, "build", f.build, "protocol", s.protocol)
	s.registry.changed()
	return nil
}

// subscribe returns the state of a type, and whether this is the stream's first request of it.
func (s *adsStream) subscribe(url string) (sub *subscription, first bool, err error) {
	switch sub := s.types[url]; {
	case url == "":
		return nil, false, s.refuse(codes.InvalidArgument, "no_type", "type_url: expected the type of resource on an aggregated stream")
	case sub != nil:
		return sub, false, nil
	case len(url) > maxTypeURL:
		return nil, false, s.refuse(codes.InvalidArgument, "bad_type", "type_url: %d bytes, expected at most %d", len(url), maxTypeURL)
	case len(s.types) == maxTypes:
		return nil, false, s.refuse(codes.ResourceExhausted, "types", "type_url: %d types on one stream, expected no more", maxTypes)
	}
	sub = &subscription{kind: translate.TypeOf(url)}
	s.types[url] = sub
	return sub, true, nil
}

func (s *adsStream) checkNames(names []string) error {
	if len(names) > s.registry.opts.MaxNames {
		return s.refuse(codes.ResourceExhausted, "names", "resource names: %d in one request, expected at most %d", len(names), s.registry.opts.MaxNames)
	}
	for _, name := range names {
		if len(name) > maxName {
			return s.refuse(codes.InvalidArgument, "bad_name", "resource names: one of %d bytes, expected at most %d", len(name), maxName)
		}
	}
	return nil
}

func (s *adsStream) checkSize(sub *subscription) error {
	if n := sub.size(); n > s.registry.opts.MaxNames {
		return s.refuse(codes.ResourceExhausted, "names", "%s: %d names in one subscription, expected at most %d", typeLabel(sub.kind), n, s.registry.opts.MaxNames)
	}
	if n := len(sub.unanswered); n > maxUnanswered {
		return s.refuse(codes.ResourceExhausted, "unanswered", "%s: %d responses without an answer, expected at most %d", typeLabel(sub.kind), n, maxUnanswered)
	}
	return nil
}

// OnStreamDeltaRequest implements the library's delta callbacks.
//
// A refused version needs no parking here: the library's handler takes for known what it sent, and
// sends a resource again only when its version changes.
func (s *adsStream) OnStreamDeltaRequest(_ int64, req *discoveryv3.DeltaDiscoveryRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.identify(req.GetNode()); err != nil {
		return err
	}
	sub, first, err := s.subscribe(req.GetTypeUrl())
	if err != nil {
		return err
	}
	if err := s.checkNames(req.GetResourceNamesSubscribe()); err != nil {
		return err
	}
	if first {
		if err := s.checkNames(slices.Collect(maps.Keys(req.GetInitialResourceVersions()))); err != nil {
			return err
		}
		// The handler owns the map of the request and changes it.
		sub.names = streamv3.NewDeltaSubscription(req.GetResourceNamesSubscribe(), req.GetResourceNamesUnsubscribe(),
			maps.Clone(req.GetInitialResourceVersions()), true)
		return s.checkSize(sub)
	}
	if answered, ok := sub.take(req.GetResponseNonce()); ok {
		s.answered(sub, answered, req)
	} else if req.GetErrorDetail() != nil && req.GetResponseNonce() == sub.last.nonce {
		s.nacked(sub, sub.last, req)
	}
	if len(req.GetResourceNamesSubscribe())+len(req.GetResourceNamesUnsubscribe()) > 0 {
		sub.names.UpdateResourceSubscriptions(req.GetResourceNamesSubscribe(), req.GetResourceNamesUnsubscribe())
		sub.matched = ""
		maps.DeleteFunc(sub.refused, func(name, _ string) bool { return !sub.wants(name) })
	}
	return s.checkSize(sub)
}

// OnStreamDeltaResponse implements the library's delta callbacks.
func (s *adsStream) OnStreamDeltaResponse(_ int64, req *discoveryv3.DeltaDiscoveryRequest, resp *discoveryv3.DeltaDiscoveryResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp.ControlPlane = s.registry.controlPlane
	r := response{nonce: resp.GetNonce(), version: resp.GetSystemVersionInfo(), at: time.Now(),
		versions: make(map[string]string, len(resp.GetResources())), removed: resp.GetRemovedResources()}
	for _, res := range resp.GetResources() {
		r.versions[res.GetName()] = res.GetVersion()
	}
	s.sent(req.GetTypeUrl(), r, len(resp.GetResources()))
}

// OnStreamRequest implements the library's SotW callbacks.
//
// The library's handler would answer a refusal at once with the same bytes, for ever: it tells what
// the client has by version_info, which in a refusal is the old one. So the version that was refused
// is put there: the cache takes it for known, and answers when it changes or when a name is new. A
// request with a stale nonce is void by the protocol, which the handler observes only while a
// response is unanswered; it becomes a repetition of what the client last validly asked for.
func (s *adsStream) OnStreamRequest(_ int64, req *discoveryv3.DiscoveryRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.identify(req.GetNode()); err != nil {
		return err
	}
	sub, _, err := s.subscribe(req.GetTypeUrl())
	if err != nil {
		return err
	}
	if err := s.checkNames(req.GetResourceNames()); err != nil {
		return err
	}
	switch {
	case sub.last.nonce == "":
		// Nothing was sent yet: there is nothing to answer, only names to take.
	case req.GetResponseNonce() != sub.last.nonce:
		req.ResourceNames = sub.requested
		req.VersionInfo = sub.last.version
		return nil
	default:
		if answered, ok := sub.take(req.GetResponseNonce()); ok {
			s.answered(sub, answered, req)
		} else if req.GetErrorDetail() != nil {
			s.nacked(sub, sub.last, req)
		}
		req.VersionInfo = sub.last.version
	}
	sub.requested = req.GetResourceNames()
	sub.matched = ""
	return nil
}

// OnStreamResponse implements the library's SotW callbacks.
func (s *adsStream) OnStreamResponse(_ context.Context, _ int64, req *discoveryv3.DiscoveryRequest, resp *discoveryv3.DiscoveryResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp.ControlPlane = s.registry.controlPlane
	s.sent(req.GetTypeUrl(), response{nonce: resp.GetNonce(), version: resp.GetVersionInfo(), at: time.Now()}, len(resp.GetResources()))
}

func (s *adsStream) sent(url string, r response, resources int) {
	sub := s.types[url]
	if sub == nil {
		return
	}
	sub.send(r, s.protocol == sotw)
	s.registry.metrics.responses.WithLabelValues(typeLabel(sub.kind), s.protocol).Inc()
	s.registry.metrics.resources.WithLabelValues(typeLabel(sub.kind), s.protocol).Add(float64(resources))
}

// answered takes the first answer to a response. A refusal is known by error_detail alone: an
// answer that merely names an older version is none.
func (s *adsStream) answered(sub *subscription, r response, req answer) {
	if req.GetErrorDetail() != nil {
		sub.refuse(r, s.protocol == delta)
		s.nacked(sub, r, req)
		return
	}
	sub.accept(r, time.Now())
	s.registry.metrics.acks.WithLabelValues(typeLabel(sub.kind), s.protocol).Inc()
	s.registry.changed()
}

// OnDeltaStreamOpen and the other three are there for the library's interfaces: the server itself
// opens and closes streams.
func (s *adsStream) OnDeltaStreamOpen(context.Context, int64, string) error { return nil }

// OnDeltaStreamClosed implements the library's delta callbacks.
func (s *adsStream) OnDeltaStreamClosed(int64, *corev3.Node) {}

// OnStreamOpen implements the library's SotW callbacks.
func (s *adsStream) OnStreamOpen(context.Context, int64, string) error { return nil }

// OnStreamClosed implements the library's SotW callbacks.
func (s *adsStream) OnStreamClosed(int64, *corev3.Node) {}

// proxy is the stream as Registry shows it; served is what its fleet has now.
func (s *adsStream) proxy(exists bool, served snapshotVersions) (Proxy, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.identified {
		return Proxy{}, false
	}
	p := Proxy{
		Node: s.facts.id, Fleet: s.facts.fleet, Build: s.facts.build, Agent: s.facts.agent, Zone: s.facts.zone, Workers: s.facts.workers,
		Protocol: s.protocol, ConnectedAt: s.connectedAt, Types: make(map[translate.Type]TypeState, len(translate.Types)),
	}
	if s.lastNack != nil {
		n := *s.lastNack
		p.LastNack = &n
	}
	for _, t := range translate.Types {
		p.Types[t] = s.typeState(t.URL(), exists, served)
	}
	return p, true
}

func (s *adsStream) typeState(url string, exists bool, served snapshotVersions) TypeState {
	sub := s.types[url]
	if sub == nil {
		if !exists {
			return TypeState{State: NoFleet}
		}
		return TypeState{State: NotSubscribed}
	}
	t := TypeState{
		Version: sub.acked, AckedAt: sub.ackedAt, SentVersion: sub.last.version, SentAt: sub.last.at,
		Sent: sub.counts.sent, Acked: sub.counts.acked, Nacked: sub.counts.nacked,
	}
	switch {
	case !exists:
		t.State = NoFleet
	case served == nil:
		t.State = Pending
	default:
		version := served.GetVersion(url)
		t.State = sub.state(s.protocol == delta, version, served.GetVersionMap(url))
		if t.State == Synced {
			t.Version = version
		}
	}
	return t
}
