package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// Methods of the tests: what is answered is the message, or as many bytes as it says.
const (
	echo    = "/test.Test/Echo"
	waits   = "/test.Test/Waits"   // until it is released, or nobody waits for it
	refuses = "/test.Test/Refuses" // everything
	sum     = "/test.Test/Sum"     // an upload, answered with how long its messages were
)

// service is what the tests call.
type service struct {
	release chan struct{}
	came    atomic.Int64 // calls of waits
	gone    atomic.Int64 // those of them whose clients did not wait
	refused atomic.Int64
	taken   atomic.Int64  // messages of sum
	slow    chan struct{} // if not nil, sum takes a message for each
}

func (s *service) options() Options {
	return Options{
		Unary: map[string]*Unary{
			echo: {Answer: func(_ context.Context, message, answer []byte) ([]byte, error) {
				return append(answer, message...), nil
			}},
			waits: {Waits: true, Answer: func(ctx context.Context, message, answer []byte) ([]byte, error) {
				s.came.Add(1)
				select {
				case <-s.release:
					return append(answer, message...), nil
				case <-ctx.Done():
					s.gone.Add(1)
					return nil, status.FromContextError(ctx.Err()).Err()
				}
			}},
			refuses: {Answer: func(context.Context, []byte, []byte) ([]byte, error) {
				return nil, status.Error(codes.PermissionDenied, "no: 100 % \n \u00fc")
			}},
		},
		Upload: map[string]Upload{sum: func(ctx context.Context, receive func() ([]byte, error)) ([]byte, error) {
			all := 0
			for {
				if s.slow != nil {
					select {
					case <-s.slow:
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				}
				message, err := receive()
				if errors.Is(err, io.EOF) {
					return wire(wrapperspb.UInt64(uint64(all))), nil
				}
				if err != nil {
					return nil, err
				}
				all += len(message)
				s.taken.Add(1)
			}
		}},
		MaxCalls: 100, MaxMessage: 1 << 20,
		Refused:  func() { s.refused.Add(1) },
		Panicked: func(p any) { panic(p) },
	}
}

func serve(t testing.TB, s *service) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := New(s.options())
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	t.Cleanup(func() { lis.Close(); <-served; server.Stop(0) })
	return lis.Addr().String()
}

func dial(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// until waits for what must come.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

func call(ctx context.Context, conn *grpc.ClientConn, method string, message []byte) ([]byte, error) {
	answer := &wrapperspb.BytesValue{}
	err := conn.Invoke(ctx, method, wrapperspb.Bytes(message), answer)
	return answer.Value, err
}

// TestCalls has a gRPC client make calls of all lengths at once, small ones and such that fill every window.
func TestCalls(t *testing.T) {
	s := &service{release: make(chan struct{})}
	close(s.release)
	conn := dial(t, serve(t, s))
	var wait sync.WaitGroup
	for worker := range 8 {
		wait.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 25 {
				message := make([]byte, []int{0, 1, 100, 16 << 10, 100 << 10, 400 << 10}[random.IntN(6)])
				for i := range message {
					message[i] = byte(random.Uint32())
				}
				answer, err := call(t.Context(), conn, []string{echo, waits}[random.IntN(2)], message)
				if err != nil || !bytes.Equal(answer, message) {
					t.Errorf("of %d bytes: %d bytes, %v", len(message), len(answer), err)
				}
			}
		})
	}
	wait.Wait()
}

func TestErrors(t *testing.T) {
	conn := dial(t, serve(t, &service{}))
	for _, c := range []struct {
		method string
		length int
		want   codes.Code
	}{{refuses, 10, codes.PermissionDenied}, {"/test.Test/None", 10, codes.Unimplemented}, {"/test.Test/None", 3 << 20, codes.Unimplemented}, {echo, 2 << 20, codes.ResourceExhausted}} {
		_, err := call(t.Context(), conn, c.method, make([]byte, c.length))
		if status.Code(err) != c.want {
			t.Errorf("%s of %d bytes: %v, expected %v", c.method, c.length, err, c.want)
		}
		if c.want == codes.PermissionDenied && status.Convert(err).Message() != "no: 100 % \n \u00fc" {
			t.Errorf("the message is %q", status.Convert(err).Message())
		}
	}
	if _, err := call(t.Context(), conn, echo, []byte("x")); err != nil {
		t.Errorf("after errors: %v", err)
	}
}

// TestUploads has messages come faster than they are taken, and calls on the same connection meanwhile.
func TestUploads(t *testing.T) {
	s := &service{slow: make(chan struct{})}
	conn := dial(t, serve(t, s))
	stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, sum)
	if err != nil {
		t.Fatal(err)
	}
	const messages = 500
	message := wrapperspb.Bytes(make([]byte, 10_000))
	var sent atomic.Int64
	failed := make(chan error, 1)
	go func() {
		for range messages {
			if err := stream.SendMsg(message); err != nil {
				failed <- err
				return
			}
			sent.Add(1)
		}
		failed <- stream.CloseSend()
	}()
	until(t, "messages wait", func() bool { return sent.Load() > 3 })
	for range 100 {
		if _, err := call(t.Context(), conn, echo, make([]byte, 20_000)); err != nil {
			t.Fatal(err)
		}
	}
	if n := sent.Load(); n > 200 {
		t.Errorf("%d messages are under way that nobody took", n)
	}
	close(s.slow)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	answer := &wrapperspb.UInt64Value{}
	if err := stream.RecvMsg(answer); err != nil || answer.Value != messages*uint64(len(wire(message))) {
		t.Errorf("%d bytes, %v; expected %d", answer.Value, err, messages*len(wire(message)))
	}
}

// TestMessagesInAnyPieces has the longest message of an upload end in the frame that begins the next.
func TestMessagesInAnyPieces(t *testing.T) {
	s := &service{}
	p := newPuppet(t, s)
	longest := message(s.options().MaxMessage)
	p.headers(1, sum, false)
	p.beside(func(i uint32) error {
		if i > 0 {
			return io.EOF
		}
		for left := slices.Concat(longest, message(7)); len(left) > 0; left = left[min(len(left), 16_001):] {
			if err := p.framer.WriteData(1, len(left) <= 16_001, left[:min(len(left), 16_001)]); err != nil {
				return err
			}
		}
		return nil
	})
	var answer []byte
	p.until(func(f http2.Frame) bool {
		if d, ok := f.(*http2.DataFrame); ok {
			answer = slices.Clone(d.Data())
		}
		return answer != nil
	})
	if want := wire(wrapperspb.UInt64(uint64(len(longest) - prefix + 7))); !bytes.Equal(answer, append(message(len(want))[:prefix], want...)) {
		t.Errorf("the answer is %v, expected %v after its prefix", answer, want)
	}
}

// TestClientsThatDoNotWait has calls given up, one by one and with their connection.
func TestClientsThatDoNotWait(t *testing.T) {
	s := &service{release: make(chan struct{})}
	address := serve(t, s)
	conn, other := dial(t, address), dial(t, address)
	ctx, leave := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() { _, _ = call(ctx, conn, waits, nil) })
		wait.Go(func() { _, _ = call(t.Context(), other, waits, nil) })
	}
	stream, err := other.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, sum)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(wrapperspb.Bytes(nil)); err != nil {
		t.Fatal(err)
	}
	until(t, "all are there", func() bool { return s.taken.Load() == 1 && s.came.Load() == 40 })
	leave()
	until(t, "calls know that they are given up", func() bool { return s.gone.Load() == 20 })
	other.Close()
	until(t, "calls know that their connection is", func() bool { return s.gone.Load() == 40 })
	until(t, "all calls are over", func() bool {
		done := make(chan struct{})
		go func() { wait.Wait(); close(done) }()
		<-done
		return true
	})
	if _, err := call(t.Context(), conn, echo, nil); err != nil {
		t.Errorf("a call beside those that were given up: %v", err)
	}
}

// TestCallsAreBounded fills a connection.
func TestCallsAreBounded(t *testing.T) {
	s := &service{release: make(chan struct{})}
	p := newPuppet(t, s)
	for i := range 150 {
		p.headers(uint32(2*i+1), waits, false)
	}
	refused := 0
	for refused < 50 {
		if f, ok := p.read().(*http2.RSTStreamFrame); ok && f.ErrCode == http2.ErrCodeRefusedStream {
			refused++
		}
	}
	if n := s.refused.Load(); n != 50 {
		t.Errorf("%d calls were refused, expected 50", n)
	}
}

// puppet is a client that does what it is told.
type puppet struct {
	t      *testing.T
	conn   net.Conn
	framer *http2.Framer
	block  bytes.Buffer
	hpack  *hpack.Encoder
}

func newPuppet(t *testing.T, s *service) *puppet {
	t.Helper()
	conn, err := net.Dial("tcp", serve(t, s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	p := &puppet{t: t, conn: conn, framer: http2.NewFramer(conn, conn)}
	p.framer.AllowIllegalWrites = true
	p.hpack = hpack.NewEncoder(&p.block)
	_, _ = io.WriteString(conn, http2.ClientPreface)
	_ = p.framer.WriteSettings()
	return p
}

func (p *puppet) headers(id uint32, method string, last bool, more ...string) {
	p.block.Reset()
	for _, f := range slices.Collect(slices.Chunk(append([]string{":method", "POST", ":scheme", "http", ":path", method, ":authority", "a", "content-type", "application/grpc"}, more...), 2)) {
		_ = p.hpack.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	block := p.block.Bytes()
	first := min(len(block), 16<<10)
	_ = p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block[:first], EndStream: last, EndHeaders: first == len(block)})
	for block = block[first:]; len(block) > 0; block = block[first:] {
		first = min(len(block), 16<<10)
		_ = p.framer.WriteContinuation(id, first == len(block), block[:first])
	}
}

// beside does something again and again while the test reads, until it fails or the test ends.
func (p *puppet) beside(does func(i uint32) error) {
	var wait sync.WaitGroup
	wait.Go(func() {
		for i := uint32(0); does(i) == nil; i++ {
		}
	})
	p.t.Cleanup(func() { p.conn.Close(); wait.Wait() })
}

// read is the next frame, nil when the connection is over.
func (p *puppet) read() http2.Frame {
	f, err := p.framer.ReadFrame()
	if err != nil {
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
			p.t.Fatal("no frame came")
		}
		return nil
	}
	return f
}

// until reads until a frame is as it should be; false: the connection ended before.
func (p *puppet) until(is func(http2.Frame) bool) bool {
	for f := p.read(); f != nil; f = p.read() {
		if is(f) {
			return true
		}
	}
	return false
}

func message(n int) []byte {
	return append([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, make([]byte, n)...)
}

// TestMisuse has clients do what HTTP/2 or gRPC forbid. The connection ends with an error, or the call does and
// the connection goes on.
func TestMisuse(t *testing.T) {
	for name, c := range map[string]struct {
		does func(p *puppet)
		ends http2.ErrCode // 0: the connection goes on
	}{
		"data of no call":           {func(p *puppet) { _ = p.framer.WriteData(7, true, message(1)) }, http2.ErrCodeProtocol},
		"the end of no call":        {func(p *puppet) { _ = p.framer.WriteRSTStream(7, 0) }, http2.ErrCodeProtocol},
		"a window of no call":       {func(p *puppet) { _ = p.framer.WriteWindowUpdate(7, 1) }, http2.ErrCodeProtocol},
		"a call of the server's":    {func(p *puppet) { p.headers(2, echo, true) }, http2.ErrCodeProtocol},
		"a call of before":          {func(p *puppet) { p.headers(5, echo, true); p.headers(3, echo, true) }, http2.ErrCodeProtocol},
		"a frame that is too long":  {func(p *puppet) { p.headers(1, echo, false); _ = p.framer.WriteData(1, true, make([]byte, 20<<10)) }, http2.ErrCodeFrameSize},
		"a window that is too wide": {func(p *puppet) { _ = p.framer.WriteWindowUpdate(0, 1<<31-1) }, http2.ErrCodeFlowControl},
		"a setting that is too wide": {func(p *puppet) {
			_ = p.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		}, http2.ErrCodeFlowControl},
		"frames that are too short": {func(p *puppet) { _ = p.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1}) }, http2.ErrCodeProtocol},
		"no headers":                {func(p *puppet) { _ = p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true}) }, 0},
		"a header that is too long": {func(p *puppet) { p.headers(1, echo, false, "x", strings.Repeat("x", 40_000)) }, http2.ErrCodeCompression},
		"headers that are too long": {func(p *puppet) {
			p.headers(1, echo, false, "a", strings.Repeat("x", 20_000), "b", strings.Repeat("x", 20_000))
		}, 0},
		"a GET": {func(p *puppet) { p.headers(1, echo, true, ":method", "GET") }, 0},
		"another content": {func(p *puppet) {
			p.headers(1, echo, false, "content-type", "text/html")
			_ = p.framer.WriteData(1, true, message(1))
		}, 0},
		"no message":     {func(p *puppet) { p.headers(1, echo, true) }, 0},
		"half a message": {func(p *puppet) { p.headers(1, echo, false); _ = p.framer.WriteData(1, true, message(9)[:7]) }, 0},
		"two messages": {func(p *puppet) {
			p.headers(1, echo, false)
			_ = p.framer.WriteData(1, true, append(message(1), message(1)...))
		}, 0},
		"a compressed message": {func(p *puppet) { p.headers(1, echo, false); _ = p.framer.WriteData(1, true, []byte{1, 0, 0, 0, 0}) }, 0},
		"a message that never ends": {func(p *puppet) {
			p.headers(1, sum, false)
			_ = p.framer.WriteData(1, false, []byte{0, 255, 255, 255, 255})
		}, 0},
		"headers within a call": {func(p *puppet) { p.headers(1, echo, false); p.headers(1, echo, false) }, 0},
		"data after the end": {func(p *puppet) {
			p.headers(1, waits, false)
			_ = p.framer.WriteData(1, true, message(1))
			_ = p.framer.WriteData(1, true, message(1))
		}, 0},
		"a call that is given up": {func(p *puppet) {
			p.headers(1, waits, false)
			_ = p.framer.WriteRSTStream(1, http2.ErrCodeCancel)
			_ = p.framer.WriteData(1, true, message(1))
		}, 0},
		"a window of a call, too wide": {func(p *puppet) { p.headers(1, waits, false); _ = p.framer.WriteWindowUpdate(1, 1<<31-1) }, 0},
		"a push": {func(p *puppet) {
			_ = p.framer.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}, http2.ErrCodeProtocol},
		"settings after the first ones": {func(p *puppet) { _ = p.framer.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0}) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPuppet(t, &service{})
			c.does(p)
			p.headers(9, echo, false)
			_ = p.framer.WriteData(9, true, message(3))
			answered, told := false, http2.ErrCodeNo
			p.until(func(f http2.Frame) bool {
				switch f := f.(type) {
				case *http2.DataFrame:
					answered = answered || f.StreamID == 9
				case *http2.GoAwayFrame:
					told = f.ErrCode
				}
				return answered
			})
			if told != c.ends || answered != (c.ends == 0) {
				t.Errorf("told %v, the next call answered: %v; expected %v", told, answered, c.ends)
			}
		})
	}
}

// TestMessagesThatNeverEnd has a connection fill with parts of messages: calls are refused, not all of it kept.
func TestMessagesThatNeverEnd(t *testing.T) {
	p := newPuppet(t, &service{})
	p.beside(func(i uint32) error {
		p.headers(2*i+1, echo, false)
		_ = p.framer.WriteData(2*i+1, false, message(1 << 19)[:prefix])
		for range 9 {
			_ = p.framer.WriteData(2*i+1, false, make([]byte, 10_000))
		}
		return p.framer.WriteData(2*i+1, false, make([]byte, 10_000))
	})
	refused := p.until(func(f http2.Frame) bool {
		h, ok := f.(*http2.HeadersFrame)
		return ok && h.StreamEnded()
	})
	if !refused {
		t.Error("the connection ended, expected a call to")
	}
}

// TestAnswersWaitForWindows has a client that takes little at a time, and gives the second of three calls up.
func TestAnswersWaitForWindows(t *testing.T) {
	p := newPuppet(t, &service{})
	_ = p.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	const length = 1000
	for id := uint32(1); id <= 5; id += 2 {
		p.headers(id, echo, false)
		_ = p.framer.WriteData(id, true, message(length))
	}
	got := map[uint32]int{}
	for ended := 0; ended < 2; {
		switch f := p.read().(type) {
		case nil:
			t.Fatal("the connection ended")
		case *http2.DataFrame:
			got[f.StreamID] += int(f.Length)
			if f.StreamID == 3 {
				_ = p.framer.WriteRSTStream(3, http2.ErrCodeCancel)
				continue
			}
			_ = p.framer.WriteWindowUpdate(f.StreamID, 300)
		case *http2.HeadersFrame:
			if f.StreamEnded() {
				ended++
			}
		}
	}
	if got[1] != prefix+length || got[5] != prefix+length || got[3] != 10 {
		t.Errorf("got %v", got)
	}
}

// TestAnswersThatNobodyTakes has a client without a window call for more than is kept, and give calls up.
func TestAnswersThatNobodyTakes(t *testing.T) {
	p := newPuppet(t, &service{})
	_ = p.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	p.beside(func(i uint32) (err error) {
		p.headers(2*i+1, echo, false)
		for left := message(100_000); len(left) > 0; left = left[min(len(left), 10_000):] {
			err = p.framer.WriteData(2*i+1, len(left) <= 10_000, left[:min(len(left), 10_000)])
		}
		if i < 60 {
			_ = p.framer.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		}
		return err
	})
	if !p.until(func(f http2.Frame) bool {
		r, ok := f.(*http2.RSTStreamFrame)
		if ok && r.StreamID < 2*60 {
			t.Errorf("call %d was given up, and is refused", r.StreamID)
		}
		return ok && r.ErrCode == http2.ErrCodeEnhanceYourCalm
	}) {
		t.Error("the connection ended, expected a call to")
	}
}

// TestClientsThatSayNothing has one that answers pings, one that does not, and one that never begins.
func TestClientsThatSayNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lis := &pipes{accepted: make(chan net.Conn), closed: make(chan struct{})}
		server := New((&service{}).options())
		served := make(chan error, 1)
		go func() { served <- server.Serve(lis) }()
		ended := make(chan string, 3)
		began := time.Now()
		for _, name := range []string{"answers", "does not answer", "never begins"} {
			ours, theirs := net.Pipe()
			lis.accepted <- theirs
			go func() {
				defer func() { ended <- fmt.Sprint(name, " ", time.Since(began).Round(time.Second)) }()
				defer ours.Close()
				if name == "never begins" {
					_, _ = io.Copy(io.Discard, ours)
					return
				}
				f := http2.NewFramer(ours, ours)
				go func() {
					_, _ = io.WriteString(ours, http2.ClientPreface)
					_ = http2.NewFramer(ours, nil).WriteSettings()
				}()
				for time.Since(began) < time.Minute {
					frame, err := f.ReadFrame()
					if err != nil {
						return
					}
					if ping, ok := frame.(*http2.PingFrame); ok && name == "answers" {
						_ = f.WritePing(true, ping.Data)
					}
				}
			}()
		}
		for _, want := range []string{"never begins 10s", "does not answer 15s", "answers 1m0s"} {
			if got := <-ended; got != want {
				t.Errorf("%s, expected %s", got, want)
			}
		}
		lis.Close()
		<-served
		server.Stop(time.Second)
	})
}

// pipes is a listener of pipes.
type pipes struct {
	accepted chan net.Conn
	closed   chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accepted:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestStop has a call be answered that was under way, and a client know that it should go.
func TestStop(t *testing.T) {
	s := &service{release: make(chan struct{})}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := New(s.options())
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	conn := dial(t, lis.Addr().String())
	answered := make(chan error, 1)
	go func() { _, err := call(t.Context(), conn, waits, nil); answered <- err }()
	until(t, "the call is there", func() bool {
		for _, c := range server.known() {
			c.mu.Lock()
			n := c.running
			c.mu.Unlock()
			return n == 1
		}
		return false
	})
	lis.Close()
	<-served
	stopped := make(chan struct{})
	go func() { server.Stop(patience); close(stopped) }()
	close(s.release)
	if err := <-answered; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	<-stopped // the client went by itself
	if _, err := call(t.Context(), conn, echo, nil); status.Code(err) != codes.Unavailable {
		t.Errorf("a call after the end: %v", err)
	}
}

// FuzzConnection sends anything after the preface, in a connection in which calls may be made.
func FuzzConnection(f *testing.F) {
	var seed bytes.Buffer
	framer := http2.NewFramer(&seed, nil)
	_ = framer.WriteSettings()
	p := &puppet{framer: framer}
	p.hpack = hpack.NewEncoder(&p.block)
	p.headers(1, echo, false)
	_ = framer.WriteData(1, true, message(10))
	p.headers(3, sum, false)
	_ = framer.WriteData(3, false, append(message(10), 0, 0, 0))
	_ = framer.WriteWindowUpdate(3, 100)
	_ = framer.WriteRSTStream(3, 0)
	_ = framer.WritePing(false, [8]byte{})
	f.Add(seed.Bytes())
	s := &service{release: make(chan struct{})}
	close(s.release)
	server := New(s.options())
	f.Fuzz(func(t *testing.T, sent []byte) {
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() { server.serve(theirs); close(done) }()
		go func() { _, _ = io.Copy(io.Discard, ours) }()
		_, _ = io.WriteString(ours, http2.ClientPreface)
		_, _ = ours.Write(sent)
		ours.Close()
		<-done
		if n := len(server.known()); n != 0 {
			t.Fatalf("%d connections are left", n)
		}
	})
}

// wire is a message as it is sent.
func wire(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}
