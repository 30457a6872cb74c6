package xds

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds/session"
)

const (
	delta = string(session.Delta)
	sotw  = string(session.SotW)
	lrs   = "lrs"
)

// maxTypes bounds the types of one stream; an Envoy asks for seven.
const maxTypes = 16

// adsStream is one ADS stream: a session.Session between a client and a cache.
//
// One goroutine receives. Whatever may make a response due (a request, a change of the cache, a timer)
// wakes the sender, a goroutine that exists only while there is something to send: a client that does not
// read keeps that one, with one response, and nobody else waiting.
type adsStream struct {
	registry    *Registry
	protocol    string
	connectedAt time.Time
	wire        grpc.ServerStream
	end         func(error)

	mu         sync.Mutex // guards what follows
	facts      facts
	identified bool
	session    *session.Session
	lastNack   *Nack
	sending    bool
	timer      *time.Timer
	unwatch    func()
	closed     bool
}

// refuse makes the error that closes a stream, and counts it. The stream is locked.
func (s *adsStream) refuse(code codes.Code, reason, format string, args ...any) error {
	s.registry.metrics.refused.WithLabelValues(reason).Inc()
	err := status.Error(code, plain(fmt.Sprintf(format, args...), maxNackMessage))
	s.registry.opts.Log.Warn("xDS stream refused", "node", s.facts.id, "fleet", s.facts.fleet, "reason", reason, "error", err)
	return err
}

// identify takes the node from the first request and holds later ones to it.
func (s *adsStream) identify(n *corev3.Node) error {
	if s.identified {
		if n.GetId() != "" && (n.GetId() != s.facts.id || FleetHash{}.ID(n) != s.facts.fleet) {
			return s.refuse(codes.InvalidArgument, "node_changed", "node %q of cluster %q on the stream of node %q of cluster %q: a stream belongs to one node",
				n.GetId(), n.GetCluster(), s.facts.id, s.facts.fleet)
		}
		return nil
	}
	f, err := factsOf(n)
	if err != nil {
		return s.refuse(codes.InvalidArgument, "bad_node", "%v", err)
	}
	s.facts = f
	if err := s.registry.authorize(s.wire.Context(), s.protocol, f.fleet); err != nil {
		return err
	}
	if err := s.registry.identified(f); err != nil {
		return s.refuse(codes.ResourceExhausted, "node_streams", "%v", err)
	}
	s.identified = true
	s.unwatch = s.registry.cacheOf(f).Watch(f.fleet, s.wake)
	s.registry.opts.Log.Info("proxy connected", "node", f.id, "fleet", f.fleet, "agent", f.agent, "build", f.build, "protocol", s.protocol)
	s.registry.changed()
	return nil
}

// served is what the client is to be served of its fleet, nil for a fleet that does not exist.
func (s *adsStream) served() *snapshot.Snapshot {
	return s.registry.cacheOf(s.facts).Current(s.facts.fleet)
}

// receive takes a request.
func (s *adsStream) receive(n *corev3.Node, req session.Request) error {
	answer, err := s.take(n, req)
	if err != nil {
		return err
	}
	switch {
	case answer == nil:
	case answer.Refusal != nil:
		s.nacked(answer)
	default:
		s.registry.metrics.acks.WithLabelValues(typeLabel(answer.Type), s.protocol).Inc()
		s.registry.changed()
	}
	return nil
}

// take is the part of receive that the stream is locked for.
func (s *adsStream) take(n *corev3.Node, req session.Request) (*session.Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if err := s.identify(n); err != nil {
		return nil, err
	}
	answer, err := s.session.Receive(time.Now(), req, s.served())
	if v, ok := errors.AsType[*session.Violation](err); ok {
		code := codes.InvalidArgument
		if v.TooMuch {
			code = codes.ResourceExhausted
		}
		return nil, s.refuse(code, v.Reason, "%s", v.Message)
	}
	return answer, nil
}

// errClosed ends what receives for a stream that has ended.
var errClosed = status.Error(codes.Canceled, "the stream has ended")

// wake has what is due sent.
func (s *adsStream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sending || s.closed || !s.identified {
		return // the sender looks again before it ends
	}
	s.sending = true
	go s.guard(s.send)
}

// send sends until nothing is due.
func (s *adsStream) send() {
	for {
		r := s.next()
		if r == nil {
			return
		}
		if err := s.wire.SendMsg(&frame{r.Wire}); err != nil {
			s.end(err)
			return // sending stays set: nothing is sent after this
		}
		s.registry.metrics.responses.WithLabelValues(typeLabel(r.Type), s.protocol).Inc()
		s.registry.metrics.resources.WithLabelValues(typeLabel(r.Type), s.protocol).Add(float64(r.Resources))
	}
}

// next is the response that is due. If there is none the sender has ended, and the timer is set for when
// there may be one.
func (s *adsStream) next() *session.Response {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	now := time.Now()
	r, wait := s.session.Next(now, s.served())
	if r != nil {
		return r
	}
	s.sending = false
	if since := s.session.Waiting(); !since.IsZero() {
		left := since.Add(s.registry.opts.AnswerTime).Sub(now)
		if left <= 0 {
			s.end(s.refuse(codes.DeadlineExceeded, "unanswered", "a response had no answer for %s", s.registry.opts.AnswerTime))
			return nil
		}
		if wait == 0 || left < wait {
			wait = left
		}
	}
	switch {
	case wait == 0 && s.timer != nil:
		s.timer.Stop()
	case wait > 0 && s.timer == nil:
		s.timer = time.AfterFunc(wait, s.wake)
	case wait > 0:
		s.timer.Reset(wait)
	}
	return nil
}

// guard runs a part of the stream; a panic in it ends the stream.
func (s *adsStream) guard(run func()) {
	defer func() {
		if p := recover(); p != nil {
			s.end(s.registry.panicked(s.protocol+" stream", p))
		}
	}()
	run()
}

// close ends what the stream has running.
func (s *adsStream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.unwatch != nil {
		s.unwatch()
	}
}

// nacked records a refusal, and finds out whose fault it is.
func (s *adsStream) nacked(answer *session.Answer) {
	reg := s.registry
	f, _ := s.identity()
	n := Nack{
		At: time.Now(), Node: f.id, Fleet: f.fleet, Type: answer.Type, Nonce: answer.Nonce, Version: answer.Version,
		Message: plain(answer.Refusal.Message, maxNackMessage),
		Instead: instead(typeLabel(answer.Type), answer.Refusal),
	}
	if suspect := answer.Refusal.Suspect; suspect != nil {
		n.Resource, n.Source = suspect.Name, suspect.Source
		n.of = Case{f.fleet, f.grpc(), answer.Type, suspect.Name, suspect.Version}
		if source, ok := reg.opts.Lookup(n.Fleet, n.Type, n.Resource); ok {
			n.Source = source
		}
		if answer.Type == translate.RLS {
			n.Source = cmp.Or(s.policiesBehind(n.Message, suspect), n.Source)
		}
		reg.judge(n.of, s.voice(f.id))
	}
	n = reg.nacks.add(n)
	s.mu.Lock()
	s.lastNack = &n
	s.mu.Unlock()

	fleet := n.Fleet
	if !reg.opts.HasFleet(fleet) {
		fleet = "unknown"
	}
	reg.metrics.nacks.WithLabelValues(fleet, typeLabel(n.Type)).Inc()
	if n.Count == 1 {
		reg.opts.Log.Warn("proxy refused a response", "node", n.Node, "fleet", n.Fleet, "type", typeLabel(n.Type),
			"version", n.Version, "resource", n.Resource, "source", n.Source, "message", n.Message)
	}
	reg.changed()
}

// policiesBehind names the policies behind a RateLimitConfig that was refused, a few of them.
func (s *adsStream) policiesBehind(words string, suspect *session.Suspect) string {
	const most = 4
	refused := s.served().Get(translate.RLS, suspect.Name)
	if refused == nil || refused.Version != suspect.Version {
		return "" // it changed meanwhile
	}
	var keeps *ratelimitv3.RateLimitConfig
	if _, _, held := s.held(translate.RLS, suspect.Name); held != nil {
		keeps = held.Message().(*ratelimitv3.RateLimitConfig)
	}
	policies := translate.PoliciesBehind(words, refused.Message().(*ratelimitv3.RateLimitConfig), keeps)
	if more := len(policies) - most; more > 0 {
		policies = append(policies[:most], fmt.Sprintf("%d more", more))
	}
	return strings.Join(policies, ", ")
}

// progress says whether the stream's client has acknowledged all that it is to be served.
func (s *adsStream) progress() (fleet string, settled, identified bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.facts.fleet, s.identified && s.session.Settled(s.served()), s.identified
}

// proxy is the stream as Registry shows it.
func (s *adsStream) proxy(exists bool) (Proxy, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.identified {
		return Proxy{}, false
	}
	p := Proxy{
		Node: s.facts.id, Fleet: s.facts.fleet, Identity: s.registry.client(s.wire.Context()).Name(), Build: s.facts.build, Agent: s.facts.agent, Zone: s.facts.zone, Workers: s.facts.workers,
		Protocol: s.protocol, ConnectedAt: s.connectedAt, Types: make(map[translate.Type]TypeState, len(translate.Types)),
	}
	if s.lastNack != nil {
		n := s.registry.now(*s.lastNack)
		p.LastNack = &n
	}
	served, quarantined := s.served(), s.registry.cacheOf(s.facts).Quarantined(s.facts.fleet)
	for _, t := range translate.Types {
		st := s.session.Status(t, served)
		state := TypeState{
			State: states[st.State], Version: st.Accepted, SentVersion: st.Sent, SentAt: st.SentAt, AckedAt: st.AcceptedAt,
			Sent: st.Counts.Sent, Acked: st.Counts.Acked, Nacked: st.Counts.Nacked,
		}
		switch {
		case !exists:
			state.State = NoFleet
		case state.State == Synced && slices.ContainsFunc(quarantined[t], func(name string) bool { return s.session.Wants(t, name) }):
			state.State = Nacked // what it has is not what was meant
		}
		p.Types[t] = state
	}
	return p, true
}

var states = map[session.State]SyncState{
	session.Unasked: NotSubscribed, session.Pending: Pending, session.Refused: Nacked, session.Synced: Synced,
}
