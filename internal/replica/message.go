package replica

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/internal/adapt"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// protocol is the version of the messages. A message names the least one that its reader must know: fields
// that an older replica may overlook are added without raising it.
const protocol = 1

const (
	// batchBytes is from what size on a message is sent; maxDown is the most that a follower takes, which is
	// one Service of some 50,000 endpoints. Upwards the bound is that of the xDS port, 4 MB.
	batchBytes = 1 << 20
	maxDown    = 64 << 20
	// maxProxies and maxNacks bound what is kept of one follower; more is not counted.
	maxProxies, maxNacks = 20_000, 256
	maxFollowers         = 16
	// maxAccepts bounds what an operator has accepted and a follower was not told yet; more is refused.
	maxAccepts = 64
)

// down is a message to a follower.
type down struct {
	Version int `json:"version"`
	// Services are each a Service. They are decoded one by one, so that one that is not understood is alone.
	Services map[string]json.RawMessage `json:"services,omitempty"`
	Gone     []string                   `json:"gone,omitempty"`
	Frozen   *bool                      `json:"frozen,omitempty"`

	Generations map[string]Generation              `json:"generations,omitempty"`
	Pins        map[string][]byte                  `json:"pins,omitempty"`
	RateLimits  []string                           `json:"rateLimits,omitzero"`
	Factors     map[string]map[string]adapt.Factor `json:"factors,omitzero"`
	// Nodes are how many proxies there are by fleet, over all replicas; nil: as before.
	Nodes map[string]int `json:"nodes,omitempty"`
	// Cases are those about which the leader is to know the votes, Verdicts those that it decided; nil: as before.
	Cases    []xds.Case    `json:"cases,omitzero"`
	Verdicts []xds.Verdict `json:"verdicts,omitzero"`
	// Accepts are Services of which what is held is to be taken ("": of all), and who says so.
	Accepts map[string]string `json:"accepts,omitempty"`
	// Complete: everything there is was told; All are the names of the services.
	Complete bool     `json:"complete,omitempty"`
	All      []string `json:"all,omitempty"`
}

// up is a message to the leader.
type up struct {
	Version int  `json:"version"`
	Self    Peer `json:"self"`
	// Proxies are new or have changed, Gone are no more; by a key of the follower's.
	Proxies map[string]xds.Proxy `json:"proxies,omitempty"`
	Gone    []string             `json:"gone,omitempty"`
	// Nacks replace those told before; nil: they are the same.
	Nacks []xds.Nack `json:"nacks,omitempty"`
	// Votes replace those told before; nil: they are the same.
	Votes []xds.Vote `json:"votes,omitzero"`
	// Loads are the newest summaries of load reports, each of one Service.
	Loads []signals.Summary `json:"loads,omitempty"`
}

// stream is either end of the stream: frames of bytes, each a message in JSON.
type stream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

// put sends a message.
func (r *Replica) put(s stream, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encoding a message: %w", err)
	}
	r.metrics.bytes.WithLabelValues("sent").Add(float64(len(body)))
	return s.SendMsg(wrapperspb.Bytes(body))
}

// take receives a message, of which version is a part. unread is why it cannot be understood; err ends the
// stream.
func (r *Replica) take(s stream, message any, version *int) (unread, err error) {
	var frame wrapperspb.BytesValue
	if err := s.RecvMsg(&frame); err != nil {
		return nil, err
	}
	r.metrics.bytes.WithLabelValues("received").Add(float64(len(frame.GetValue())))
	unread = json.Unmarshal(frame.GetValue(), message)
	if unread == nil && (*version < 1 || *version > protocol) {
		unread = fmt.Errorf("it is of version %d, and this replica knows %d", *version, protocol)
	}
	if unread != nil {
		r.metrics.unread.Inc()
	}
	return unread, nil
}

// encoded is the Service in JSON, encoded once for all followers.
func (s *Service) encoded() (json.RawMessage, error) {
	s.once.Do(func() { s.raw, s.err = json.Marshal(s) })
	return s.raw, s.err
}

// encoding is what Service.encoded made.
type encoding struct {
	once sync.Once
	raw  json.RawMessage
	err  error
}

// pending is what a follower is still to be told. What is newer replaces what is older, so that a follower
// that does not read holds no more than one state of each Service.
type pending struct {
	services map[string]*Service
	gone     map[string]struct{}
	fleets   Told // no more of it
	frozen   *bool
	accepts  map[string]string
	complete bool
	all      []string
}

func (p *pending) add(t *Told) {
	if p.services == nil {
		p.services, p.gone = map[string]*Service{}, map[string]struct{}{}
	}
	for name, s := range t.Services {
		p.services[name] = s
		delete(p.gone, name)
	}
	for _, name := range t.Gone {
		p.gone[name] = struct{}{}
		delete(p.services, name)
	}
	p.fleets.TakeFleets(t)
	if t.Frozen != nil {
		p.frozen = t.Frozen
	}
	if t.All != nil {
		p.complete, p.all = true, t.All
	}
}

// accept has what is held of a Service taken. It says whether there is room for it.
func (p *pending) accept(service, by string) bool {
	if _, again := p.accepts[service]; !again && len(p.accepts) >= maxAccepts {
		return false
	}
	if p.accepts == nil {
		p.accepts = map[string]string{}
	}
	p.accepts[service] = by
	return true
}

// next is the next batch of services to be sent, with the last of them the rest. more is false if there is
// nothing.
func (p *pending) next() (services map[string]*Service, rest down, more bool) {
	services = map[string]*Service{}
	endpoints := 0
	for name, s := range p.services {
		if endpoints > 0 && endpoints+len(s.State.Endpoints) > batchBytes/endpointBytes {
			return services, down{}, true
		}
		endpoints += len(s.State.Endpoints) + 1
		services[name] = s
		delete(p.services, name)
	}
	rest = down{Gone: slices.Collect(maps.Keys(p.gone)), Frozen: p.frozen, Generations: p.fleets.Generations, Pins: p.fleets.Pins, RateLimits: p.fleets.RateLimits, Factors: p.fleets.Factors, Accepts: p.accepts, Complete: p.complete, All: p.all}
	more = len(services) > 0 || len(rest.Gone) > 0 || len(rest.Generations) > 0 || len(rest.Pins) > 0 || rest.RateLimits != nil || rest.Factors != nil || rest.Frozen != nil || len(rest.Accepts) > 0 || rest.Complete
	clear(p.gone)
	p.fleets = Told{}
	p.frozen, p.accepts, p.complete, p.all = nil, nil, false, nil
	return services, rest, more
}

// endpointBytes is about how many bytes the state of an endpoint takes.
const endpointBytes = 1024

// The service has one method, in frames of google.protobuf.BytesValue.
const (
	serviceName = "evenkeel.replica.v1.Replicas"
	methodName  = "Follow"
)

var description = grpc.ServiceDesc{
	ServiceName: serviceName,
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName: methodName, ServerStreams: true, ClientStreams: true,
		Handler: func(srv any, s grpc.ServerStream) error { return srv.(*Replica).lead(s) },
	}},
	Metadata: "evenkeel/replica/v1",
}

// Register adds the service to a server.
func (r *Replica) Register(server grpc.ServiceRegistrar) { server.RegisterService(&description, r) }

// load is how much of a fleet is connected somewhere.
type load struct{ proxies, workers, subscribers int } // subscribers take load assignments

// assumedWorkers stands in for a proxy that does not say how many workers it has.
const assumedWorkers = 4

// loads adds up proxies by fleet.
func loads(proxies map[string]xds.Proxy) map[string]load {
	by := map[string]load{}
	for _, p := range proxies {
		of := by[p.Fleet]
		of.proxies++
		if p.Workers > 0 {
			of.workers += p.Workers
		} else {
			of.workers += assumedWorkers
		}
		if p.Types[translate.EDS].State != xds.NotSubscribed {
			of.subscribers++
		}
		by[p.Fleet] = of
	}
	return by
}

// newest are at most maxNacks.
func newest(nacks []xds.Nack) []xds.Nack { return slices.Clip(nacks[:min(len(nacks), maxNacks)]) }
