package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// client asks servers for one page each, over and over, on connections that it keeps. It does what a
// http.Transport does for such a load at a fraction of the CPU time, which the machine shares with what
// is measured: a request is one write, one read on the same goroutine, and a deadline.
type client struct {
	targets []target
	dialer  net.Dialer

	mu     sync.Mutex // guards what follows
	idle   [][]*clientConn
	open   map[*clientConn]struct{}
	closed bool
}

// target is a server and the request it gets.
type target struct {
	address netip.AddrPort
	request []byte
}

type clientConn struct {
	net.Conn
	reader *bufio.Reader
}

func newClient(targets []target) *client {
	return &client{targets: targets, idle: make([][]*clientConn, len(targets)), open: map[*clientConn]struct{}{}}
}

var errClientClosed = errors.New("client is closed")

// get sends the request of a target and returns the status code once the whole answer is there.
func (c *client) get(ctx context.Context, to int, deadline time.Time) (int, error) {
	for {
		conn, used, err := c.connection(ctx, to, deadline)
		if err != nil {
			return 0, err
		}
		_ = conn.SetDeadline(deadline)
		status, answered, err := conn.exchange(c.targets[to].request)
		if err == nil {
			c.keep(to, conn)
			return status, nil
		}
		c.drop(conn)
		if errors.Is(err, errLastAnswer) {
			return status, nil
		}
		// The server may have closed a connection while it was idle; a request that met that is new to it.
		if stale := used && !answered && !isTimeout(err); !stale {
			return 0, err
		}
	}
}

// errLastAnswer says that the answer is there and the server closes the connection after it.
var errLastAnswer = errors.New("the server closes the connection")

// exchange returns the status of the answer, or whether any of it came.
func (c *clientConn) exchange(request []byte) (status int, answered bool, err error) {
	if _, err := c.Write(request); err != nil {
		return 0, false, err
	}
	if _, err := c.reader.Peek(1); err != nil {
		return 0, false, err
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0, true, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return 0, true, err
	}
	if response.Close {
		return response.StatusCode, true, errLastAnswer
	}
	return response.StatusCode, true, nil
}

// connection returns the idle connection that was used last, or a new one.
func (c *client) connection(ctx context.Context, to int, deadline time.Time) (_ *clientConn, used bool, _ error) {
	c.mu.Lock()
	if n := len(c.idle[to]); n > 0 {
		conn := c.idle[to][n-1]
		c.idle[to] = c.idle[to][:n-1]
		c.mu.Unlock()
		return conn, true, nil
	}
	c.mu.Unlock()
	dialer := c.dialer
	dialer.Deadline = deadline
	dialed, err := dialer.DialContext(ctx, "tcp", c.targets[to].address.String())
	if err != nil {
		return nil, false, err
	}
	conn := &clientConn{Conn: dialed, reader: bufio.NewReaderSize(dialed, 1<<10)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = dialed.Close()
		return nil, false, errClientClosed
	}
	c.open[conn] = struct{}{}
	return conn, false, nil
}

func (c *client) keep(to int, conn *clientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle[to] = append(c.idle[to], conn)
}

func (c *client) drop(conn *clientConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
	_ = conn.Close()
}

// close cuts off what is under way; there is nothing after it.
func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.open {
		_ = conn.Close()
	}
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// requestText is a GET of a path as it goes over the wire.
func requestText(path, host string, header http.Header) []byte {
	var text bytes.Buffer
	text.WriteString("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n")
	_ = header.Write(&text) // to memory
	text.WriteString("\r\n")
	return text.Bytes()
}
