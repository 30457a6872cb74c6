package rls

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// listener gives each connection an address that knows its holder: of a call, gRPC tells no more of its
// connection than the address.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return connection{c, &remote{c.RemoteAddr(), &holder{}}}, nil
}

type connection struct {
	net.Conn
	remote *remote
}

func (c connection) RemoteAddr() net.Addr { return c.remote }

type remote struct {
	net.Addr
	holder *holder
}

// holderOf is who called, nil of a server that is not Serve's.
func holderOf(ctx context.Context) *holder {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	r, ok := p.Addr.(*remote)
	if !ok {
		return nil
	}
	return r.holder
}

// proxies are the Envoys that have a stream of access logs, or lost their last one a short time ago. An Envoy
// has a stream for each worker, usually in the connection in which the worker asks: so a connection's
// leases become its proxy's.
type proxies struct {
	mu    sync.Mutex
	known map[proxyName]*connected
}

type proxyName struct{ fleet, node string }

type connected struct {
	proxy
	streams int
	here    bool // the store knows that it has streams
}

// opened is called with the first message of a stream.
func (p *proxies) opened(name proxyName) *connected {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = map[proxyName]*connected{}
	}
	c := p.known[name]
	if c == nil {
		c = &connected{proxy: proxy{name: name}}
		p.known[name] = c
	}
	c.streams++
	c.lost.Store(0)
	return c
}

func (p *proxies) closed(name proxyName, c *connected, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.streams--; c.streams == 0 {
		c.lost.Store(now.Add(grace).UnixNano())
	}
}

// whereabouts are the proxies of which there is something to say.
type whereabouts struct {
	here []proxyName // have streams: all of them, or those that are new
	left []proxyName // have none any more
	lost []proxyName // had none for the time of grace
}

// sweep forgets who is gone, and says what is new, or all.
func (p *proxies) sweep(now int64, all bool) (w whereabouts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, c := range p.known {
		lost := c.lost.Load()
		switch {
		case lost == 0 && (all || !c.here):
			w.here = append(w.here, name)
		case lost != 0 && lost <= now:
			w.lost = append(w.lost, name)
			delete(p.known, name)
		case lost != 0 && c.here:
			w.left = append(w.left, name)
		}
		c.here = lost == 0
	}
	return w
}

// streamAccessLogs takes the access logs of one worker of an Envoy. An entry of a request that goes on renews its
// leases, one of its end ends them. Nothing is answered before the end.
func (s *Server) streamAccessLogs(ctx context.Context, receive func() (*alsv3.StreamAccessLogsMessage, error)) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked("StreamAccessLogs", p)
		}
	}()
	defer s.streams.Add(-1)
	if s.streams.Add(1) > int64(s.opts.MaxStreams) {
		s.metrics.errors.WithLabelValues("streams").Inc()
		return status.Errorf(codes.ResourceExhausted, "there are %d streams of access logs: expected no more", s.opts.MaxStreams)
	}
	message, err := receive()
	if err != nil {
		return ended(err)
	}
	node := message.GetIdentifier().GetNode()
	if who := s.client(ctx); !who.MaySee(node.GetCluster()) {
		s.metrics.errors.WithLabelValues("identity").Inc()
		return status.Errorf(codes.PermissionDenied, "node.cluster is %q: expected a fleet of this client, who is %s", short(node.GetCluster()), who)
	}
	name := proxyName{node.GetCluster(), short(node.GetId())}
	proxy := s.proxies.opened(name)
	defer func() { s.proxies.closed(name, proxy, time.Now()) }()
	by := holderOf(ctx)
	if by == nil {
		by = &holder{}
	}
	by.proxy.Store(&proxy.proxy)
	for {
		if entries := s.entries(name.fleet, message.GetHttpLogs().GetLogEntry()); len(entries) > 0 {
			s.store.logs(ctx, name.fleet, entries, by, time.Now().UnixNano())
		}
		if message, err = receive(); err != nil {
			return ended(err)
		}
	}
}

// ended is how a stream ends that its client ended.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// entries are those of an access log that say something of leases. A request that nothing is told of may have
// some all the same: Envoy does not know of those of a call that it gave up.
func (s *Server) entries(fleet string, log []*accesslogv3.HTTPAccessLogEntry) []logEntry {
	d := s.domain(fleet)
	if d == nil || !d.leases {
		return nil
	}
	entries := make([]logEntry, 0, len(log))
	for _, e := range log {
		request, common := e.GetRequest().GetRequestId(), e.GetCommonProperties()
		if request == "" {
			continue
		}
		switch common.GetAccessLogType() {
		case accesslogv3.AccessLogType_DownstreamEnd:
			entries = append(entries, logEntry{request: request, over: true})
		case accesslogv3.AccessLogType_DownstreamPeriodic:
			entries = append(entries, logEntry{request: request, told: d.told(common)})
		}
	}
	return entries
}

// told is of which leases an entry tells.
func (d *domain) told(common *accesslogv3.AccessLogCommon) []toldLease {
	var leases []toldLease
	for id, parts := range common.GetMetadata().GetFilterMetadata()[MetadataNamespace].GetFields() {
		r := d.rules[id]
		if r == nil {
			continue
		}
		if entries := told(parts.GetListValue()); r.lease(entries) != nil {
			leases = append(leases, toldLease{r.counters, entries})
		}
	}
	return leases
}

// lease is the variant of a limit of concurrency with these parts of the key.
func (r *rule) lease(entries []*ratelimitv3.RateLimitDescriptor_Entry) *variant {
	for _, v := range r.variants {
		if v.fits(entries, true) {
			return v
		}
	}
	return nil
}
