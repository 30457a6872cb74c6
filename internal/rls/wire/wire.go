// Package wire serves gRPC to Envoys, which ask about every request: a call is read, answered and written by the
// goroutine of its connection, so that one wakes up for it and no other. grpc-go has four take part (the reader, one
// for the call, the writer, the scheduler's own), which on an idle machine is most of what a call costs.
//
//	socket -> frames -> connection.go  which call, its message          one goroutine for each connection
//	                 -> Unary          what is answered: in place, or in a goroutine if it waits for others
//	                 -> answer.go      headers, message and trailers    as far as the client's windows let it
//	                 -> socket         when there is nothing more to read
//
// Frames and header compression are those of golang.org/x/net/http2, as in grpc-go.
//
// # What it promises
//
// A client that sends anything at all, or does not read, harms its own connection only: what is kept of a
// connection is bounded, whatever it sends. A client that is gone without a word is noticed in 15 s. Messages are
// not compressed, deadlines are the methods' own, and metadata is not handed on.
//
// What methods do is not known here.
package wire

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Unary is a method that answers one message with one.
type Unary struct {
	// Answer appends an answer to a message. Neither may be kept. An error is told to the client as gRPC's
	// status says; it is not called again for it.
	Answer func(ctx context.Context, message, answer []byte) ([]byte, error)
	// Waits says that Answer waits for others: it is then called in a goroutine, with a context that ends with
	// the call. If not, the context is that of the connection, and calls of a connection follow each other.
	Waits bool
}

// Upload is a method that takes a stream of messages, and answers when that has ended. receive gives one message
// after the other, and io.EOF when the client has no more.
type Upload func(ctx context.Context, receive func() ([]byte, error)) ([]byte, error)

// Options of a Server.
type Options struct {
	// Unary and Upload are the methods by path, as in "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit".
	Unary  map[string]*Unary
	Upload map[string]Upload
	// Credentials make a connection of what was accepted; nil: it is plaintext.
	Credentials credentials.TransportCredentials
	// Admit is asked with the context of a connection, which has its peer, before a method is called; nil: all are.
	Admit func(ctx context.Context, method string) error
	// MaxCalls is how many calls may be under way in a connection.
	MaxCalls int
	// MaxMessage is the longest message in bytes.
	MaxMessage int
	// Refused is called for each call over MaxCalls.
	Refused func()
	// Panicked is called with a panic that ended a connection. One in a goroutine of a call is its method's affair.
	Panicked func(any)
}

const (
	// handshakeTime is how long a connection may take to begin.
	handshakeTime = 10 * time.Second
	// pingAfter and closeAfter are how many seconds a client may say nothing.
	pingAfter, closeAfter = 10, 15
)

// Server serves connections. It is used once.
type Server struct {
	opts Options

	mu          sync.Mutex
	connections map[*connection]struct{}
	draining    bool
	all         sync.WaitGroup
}

// New makes a Server.
func New(opts Options) *Server {
	return &Server{opts: opts, connections: map[*connection]struct{}{}}
}

// Serve serves on a listener until that is closed or fails, and gives its error.
func (s *Server) Serve(lis net.Listener) error {
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { s.watch(stop) })
	defer func() { close(stop); watching.Wait() }()
	for {
		raw, err := lis.Accept()
		if err != nil {
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) {
				time.Sleep(5 * time.Millisecond) // the connections that are there go on
				continue
			}
			return err
		}
		s.all.Go(func() { s.serve(raw) })
	}
}

// serve has one connection from its handshake to its end.
func (s *Server) serve(raw net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer raw.Close()
	c := &connection{server: s, raw: raw}
	if !s.know(c) {
		return
	}
	defer s.forget(c)
	_ = raw.SetDeadline(time.Now().Add(handshakeTime))
	from := &peer.Peer{Addr: raw.RemoteAddr(), LocalAddr: raw.LocalAddr()}
	if s.opts.Credentials != nil {
		conn, info, err := s.opts.Credentials.ServerHandshake(raw)
		if err != nil {
			return
		}
		defer conn.Close()
		raw, from.AuthInfo = conn, info
	}
	c.start(peer.NewContext(ctx, from), raw)
	c.run()
	cancel()
	c.calls.Wait()
}

func (s *Server) know(c *connection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.draining {
		s.connections[c] = struct{}{}
	}
	return !s.draining
}

func (s *Server) forget(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.connections, c)
}

func (s *Server) known() []*connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*connection, 0, len(s.connections))
	for c := range s.connections {
		all = append(all, c)
	}
	return all
}

// watch asks clients that say nothing whether they are there, and closes those that do not answer.
func (s *Server) watch(stop <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		for _, c := range s.known() {
			switch silent := c.silent.Add(1); {
			case silent >= closeAfter:
				c.raw.Close()
			case silent == pingAfter:
				s.all.Go(c.ping)
			}
		}
	}
}

// Stop is called when Serve has returned. It tells clients to call no more, goes on for a time for those that do, and
// closes all connections.
func (s *Server) Stop(within time.Duration) {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	for _, c := range s.known() {
		s.all.Go(c.goAway)
	}
	ended := make(chan struct{})
	go func() {
		s.all.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return
	case <-time.After(within):
	}
	for _, c := range s.known() {
		c.raw.Close()
	}
	<-ended
}
