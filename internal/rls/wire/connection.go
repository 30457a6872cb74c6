package wire

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// bufferSize is for reads and for writes, and the longest frame.
	bufferSize = 16 << 10
	// streamWindow is what a client may send of a stream before it is taken: the default of HTTP/2.
	streamWindow = 64<<10 - 1
	// connectionWindow is what it may send of all of them; it is given back as it comes.
	connectionWindow = 1 << 20
	// maxPartial bounds what is kept of messages of a connection that are not complete.
	maxPartial = 4 << 20
	// maxHeld bounds the answers of a connection whose client does not take them; each counts for minAnswer more.
	maxHeld, minAnswer = 4 << 20, 256
	// maxHeaders bounds the headers of a call.
	maxHeaders = 32 << 10
	// prefix is what comes before a message: whether it is compressed, and its length.
	prefix = 5
)

// connection is that of one client. What is not under mu is its reader's.
type connection struct {
	server *Server
	raw    net.Conn // what was accepted; anybody may close it
	conn   net.Conn // what is read and written
	ctx    context.Context
	silent atomic.Int32 // seconds in which nothing came
	calls  sync.WaitGroup

	framer *http2.Framer // to read; to write it is under mu
	last   uint32        // the highest stream so far
	owed   uint32        // bytes of the connection's window that are not given back yet
	reply  []byte

	mu      sync.Mutex
	w       *bufio.Writer // nil before the handshake is over
	encoder *hpack.Encoder
	block   bytes.Buffer       // what the encoder made
	streams map[uint32]*stream // open ones; nil at the end
	running int                // calls in goroutines, which may outlive their streams
	partial int                // bytes kept of messages that are not complete
	held    int                // bytes kept of answers, which wait for a window
	waiting []*stream          // those that wait for the connection's, in turn; some may be over
	window  int64              // what the client takes of all streams
	initial int64              // what it takes of a new one
}

// stream is one call.
type stream struct {
	id     uint32
	unary  *Unary
	upload *upload
	cancel context.CancelFunc // of a call in a goroutine
	part   []byte             // of a message that is not complete

	// under connection.mu
	ended   bool   // the client has said all
	partial int    // its part of connection.partial
	granted int64  // what the client takes more, or less, than the initial window
	answer  []byte // what waits for a window
	held    int    // its part of connection.held
	waits   bool   // is in connection.waiting
}

// start makes a connection ready to run.
func (c *connection) start(ctx context.Context, conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ctx, c.conn = ctx, conn
	c.w = bufio.NewWriterSize(conn, bufferSize)
	c.framer = http2.NewFramer(c.w, bufio.NewReaderSize((*source)(c), bufferSize))
	c.framer.SetReuseFrames()
	c.framer.SetMaxReadFrameSize(bufferSize)
	c.framer.MaxHeaderListSize = maxHeaders
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.encoder = hpack.NewEncoder(&c.block)
	c.streams = map[uint32]*stream{}
	c.window, c.initial = streamWindow, streamWindow
}

// source reads from a connection when all that came has been taken. What there is to write is written before:
// nobody waits for an answer while we wait for him.
type source connection

func (s *source) Read(p []byte) (int, error) {
	c := (*connection)(s)
	c.mu.Lock()
	err := c.w.Flush()
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := c.conn.Read(p)
	c.silent.Store(0)
	return n, err
}

// run reads until the connection ends, and ends its calls.
func (c *connection) run() {
	defer c.end()
	defer func() {
		if p := recover(); p != nil {
			c.server.opts.Panicked(p)
		}
	}()
	hello := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.conn, hello); err != nil || string(hello) != http2.ClientPreface {
		return
	}
	c.mu.Lock()
	_ = c.framer.WriteSettings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(c.server.opts.MaxCalls)},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeaders},
	)
	_ = c.framer.WriteWindowUpdate(0, connectionWindow-streamWindow)
	c.mu.Unlock()
	frame, err := c.framer.ReadFrame()
	if _, ok := frame.(*http2.SettingsFrame); err == nil && !ok {
		err = http2.ConnectionError(http2.ErrCodeProtocol)
	}
	_ = c.conn.SetDeadline(time.Time{})
	for {
		if err == nil {
			err = c.take(frame)
		}
		if of := (http2.StreamError{}); errors.As(err, &of) {
			c.reset(of)
			err = nil
		}
		if err != nil {
			c.say(err)
			return
		}
		frame, err = c.framer.ReadFrame()
	}
}

// end ends the calls of a connection that has ended.
func (c *connection) end() {
	c.mu.Lock()
	open := c.streams
	c.streams = nil
	c.mu.Unlock()
	for _, st := range open {
		st.end(io.ErrUnexpectedEOF)
	}
}

// end has a call know that nobody waits for its answer.
func (st *stream) end(err error) {
	if st.cancel != nil {
		st.cancel()
	}
	if st.upload != nil {
		st.upload.close(err)
	}
}

// take does what a frame says. The errors are http2.StreamError and http2.ConnectionError.
func (c *connection) take(frame http2.Frame) error {
	switch f := frame.(type) {
	case *http2.MetaHeadersFrame:
		return c.headers(f)
	case *http2.DataFrame:
		return c.data(f)
	case *http2.RSTStreamFrame:
		if f.StreamID > c.last {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		if st := c.stream(f.StreamID); st != nil {
			c.drop(st, status.Error(codes.Canceled, "the client gave the call up"))
		}
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.framer.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame:
		return c.grant(f.StreamID, int64(f.Increment))
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}

func (c *connection) stream(id uint32) *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

// drop forgets a call that nobody waits for.
func (c *connection) drop(st *stream, why error) {
	st.part = nil
	c.mu.Lock()
	c.remove(st)
	c.mu.Unlock()
	st.end(why)
}

// remove forgets a stream, and what was kept of it. It is called with mu.
func (c *connection) remove(st *stream) {
	delete(c.streams, st.id)
	c.partial -= st.partial
	c.held -= st.held
	st.partial, st.held = 0, 0
}

// keep keeps the rest of a message, or nothing.
func (c *connection) keep(st *stream, rest []byte) {
	if len(st.part) == 0 {
		return
	}
	if st.part = append(st.part[:0], rest...); len(rest) == 0 {
		st.part = nil
	}
	c.kept(st)
}

// kept counts what is kept of a message, and says whether there is room for it.
func (c *connection) kept(st *stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[st.id] == st {
		c.partial += len(st.part) - st.partial
		st.partial = len(st.part)
	}
	return c.partial <= maxPartial
}

// headers begins a call, or ends what its client says.
func (c *connection) headers(f *http2.MetaHeadersFrame) error {
	if st := c.stream(f.StreamID); st != nil {
		if !f.StreamEnded() {
			return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol}
		}
		c.said(st, nil)
		return nil
	}
	if f.StreamID%2 == 0 || f.StreamID <= c.last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.last = f.StreamID
	st := &stream{id: f.StreamID}
	if !c.open(st) {
		c.server.opts.Refused()
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeRefusedStream}
	}
	if err := c.begin(st, f); err != nil {
		c.refuse(st, err)
		return nil
	}
	if f.StreamEnded() {
		c.said(st, nil)
	}
	return nil
}

// open makes room for a call.
func (c *connection) open(st *stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if max(len(c.streams), c.running) >= c.server.opts.MaxCalls {
		return false
	}
	c.streams[st.id] = st
	return true
}

// begin finds what is called.
func (c *connection) begin(st *stream, f *http2.MetaHeadersFrame) error {
	method, contentType := f.PseudoValue("path"), ""
	for _, h := range f.RegularFields() {
		if h.Name == "content-type" {
			contentType = h.Value
		}
	}
	switch {
	case f.Truncated:
		return status.Errorf(codes.ResourceExhausted, "headers: expected %d bytes at most", maxHeaders)
	case f.PseudoValue("method") != "POST" || !strings.HasPrefix(contentType, "application/grpc"):
		return status.Errorf(codes.Internal, "content-type is %.100q: expected a POST of application/grpc", contentType)
	}
	if c.server.opts.Admit != nil {
		if err := c.server.opts.Admit(c.ctx, method); err != nil {
			return err
		}
	}
	if st.unary = c.server.opts.Unary[method]; st.unary != nil {
		return nil
	}
	if run := c.server.opts.Upload[method]; run != nil {
		c.begins(st, run)
		return nil
	}
	return status.Errorf(codes.Unimplemented, "method is %.100q: expected one of this service", method)
}

// data takes a part of what a client says in a call.
func (c *connection) data(f *http2.DataFrame) error {
	if f.StreamID > c.last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if c.owed += f.Length; c.owed >= connectionWindow/4 {
		c.giveBack(0, c.owed)
		c.owed = 0
	}
	st := c.stream(f.StreamID)
	switch {
	case st == nil: // it was answered or given up
	case f.StreamEnded():
		c.said(st, f.Data())
	case st.upload != nil:
		if err := c.uploaded(st, f.Data()); err != nil {
			c.refuse(st, err)
			return nil
		}
		return st.upload.taken(c, st, f.Length)
	default:
		if err := c.keepMore(st, f.Data()); err != nil {
			c.refuse(st, err)
			return nil
		}
		c.giveBack(st.id, f.Length)
	}
	return nil
}

// keepMore keeps a part of a message behind those that are kept.
func (c *connection) keepMore(st *stream, data []byte) error {
	st.part = append(st.part, data...)
	switch room := c.kept(st); {
	case len(st.part) > prefix+c.server.opts.MaxMessage+bufferSize: // what follows a message may be the next one
		return tooLong(c.server.opts.MaxMessage)
	case !room:
		return status.Errorf(codes.ResourceExhausted, "messages that are not complete: expected %d bytes in a connection at most", maxPartial)
	}
	return nil
}

func tooLong(most int) error {
	return status.Errorf(codes.ResourceExhausted, "message: expected %d bytes at most", most)
}

// said is called when a client has said all of a call.
func (c *connection) said(st *stream, data []byte) {
	c.mu.Lock()
	again := st.ended
	st.ended = true
	c.mu.Unlock()
	if again {
		c.reset(http2.StreamError{StreamID: st.id, Code: http2.ErrCodeStreamClosed})
		return
	}
	if st.upload != nil {
		if err := c.uploaded(st, data); err != nil {
			c.refuse(st, err)
			return
		}
		st.upload.close(io.EOF)
		return
	}
	if len(st.part) > 0 {
		if err := c.keepMore(st, data); err != nil {
			c.refuse(st, err)
			return
		}
		data = st.part
	}
	message, rest, err := c.cut(data)
	if err == nil && (message == nil || len(rest) > 0) {
		err = status.Error(codes.Internal, "expected one whole message")
	}
	if err != nil {
		c.refuse(st, err)
		return
	}
	c.call(st, message)
	c.keep(st, nil)
}

// cut takes a message off what came: nil if it is not complete.
func (c *connection) cut(data []byte) (message, rest []byte, err error) {
	if len(data) < prefix {
		return nil, data, nil
	}
	n := int(binary.BigEndian.Uint32(data[1:prefix]))
	switch {
	case data[0] != 0:
		return nil, nil, status.Error(codes.Unimplemented, "message is compressed: expected none that is")
	case n > c.server.opts.MaxMessage:
		return nil, nil, tooLong(c.server.opts.MaxMessage)
	case len(data)-prefix < n:
		return nil, data, nil
	}
	return data[prefix : prefix+n : prefix+n], data[prefix+n:], nil
}

// call has a method answer.
func (c *connection) call(st *stream, message []byte) {
	if !st.unary.Waits {
		answer, err := st.unary.Answer(c.ctx, message, append(c.reply[:0], make([]byte, prefix)...))
		c.finish(st, answer, err, false)
		if cap(answer) <= bufferSize {
			c.reply = answer
		}
		return
	}
	ctx, cancel := context.WithCancel(c.ctx)
	st.cancel = cancel
	message = bytes.Clone(message)
	c.goes(func() {
		defer cancel()
		answer, err := st.unary.Answer(ctx, message, make([]byte, prefix))
		c.finish(st, answer, err, true)
	})
}

// goes runs a call in a goroutine.
func (c *connection) goes(run func()) {
	c.mu.Lock()
	c.running++
	c.mu.Unlock()
	c.calls.Go(func() {
		defer func() {
			c.mu.Lock()
			c.running--
			c.mu.Unlock()
		}()
		run()
	})
}
