package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// finish answers a call, if its client still waits. answer begins with room for the prefix, and is kept by nobody.
func (c *connection) finish(st *stream, answer []byte, err error, flush bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[st.id] != st || st.answer != nil {
		return
	}
	if err != nil {
		c.trailers(st, status.Convert(err), true)
	} else {
		binary.BigEndian.PutUint32(answer[1:prefix], uint32(len(answer)-prefix))
		c.write(st.id, false, ":status", "200", "content-type", "application/grpc")
		st.answer = answer
		if !c.send(st) {
			c.hold(st)
		}
	}
	if flush {
		_ = c.w.Flush() // its error comes again to the reader
	}
}

// refuse answers a call with an error.
func (c *connection) refuse(st *stream, err error) {
	c.keep(st, nil)
	st.end(err)
	c.finish(st, nil, err, false)
}

// send writes as much of an answer as the windows let it, and says whether that was all. It is called with mu.
func (c *connection) send(st *stream) bool {
	for len(st.answer) > 0 {
		n := min(int64(len(st.answer)), bufferSize, c.window, c.initial+st.granted)
		if n <= 0 {
			return false
		}
		_ = c.framer.WriteData(st.id, false, st.answer[:n])
		c.window, st.granted, st.answer = c.window-n, st.granted-n, st.answer[n:]
	}
	c.trailers(st, nil, false)
	return true
}

// hold keeps an answer until there is a window for it, if there is room. It is called with mu.
func (c *connection) hold(st *stream) {
	st.answer = bytes.Clone(st.answer)
	st.held = len(st.answer) + minAnswer
	if c.held += st.held; c.held > maxHeld {
		c.remove(st)
		_ = c.framer.WriteRSTStream(st.id, http2.ErrCodeEnhanceYourCalm)
		return
	}
	c.wait(st)
}

// wait has an answer wait for the connection's window, unless it waits for its own: grant sees to that. It is called
// with mu.
func (c *connection) wait(st *stream) {
	if st.waits || c.initial+st.granted <= 0 {
		return
	}
	if len(c.waiting) > 2*len(c.streams) {
		c.waiting = slices.DeleteFunc(c.waiting, func(st *stream) bool { return c.streams[st.id] != st })
	}
	st.waits = true
	c.waiting = append(c.waiting, st)
}

// sendHeld goes on with an answer that is held. It is called with mu.
func (c *connection) sendHeld(st *stream) {
	if st.held > 0 && !c.send(st) {
		c.wait(st)
	}
}

// sendWaiting goes on with answers that wait for the connection's window. It is called with mu.
func (c *connection) sendWaiting() {
	for len(c.waiting) > 0 && c.window > 0 {
		st := c.waiting[0]
		c.waiting[0] = nil
		c.waiting = c.waiting[1:]
		st.waits = false
		if c.streams[st.id] == st {
			c.sendHeld(st)
		}
	}
}

// trailers end a call; alone they are its whole answer. It is called with mu.
func (c *connection) trailers(st *stream, s *status.Status, alone bool) {
	fields := make([]string, 0, 8)
	if alone {
		fields = append(fields, ":status", "200", "content-type", "application/grpc")
	}
	fields = append(fields, "grpc-status", strconv.Itoa(int(s.Code())))
	if s.Code() != codes.OK {
		fields = append(fields, "grpc-message", encoded(s.Message()))
	}
	c.write(st.id, true, fields...)
	if !st.ended {
		_ = c.framer.WriteRSTStream(st.id, http2.ErrCodeNo)
	}
	c.remove(st)
}

// write writes names and values of headers. It is called with mu.
func (c *connection) write(id uint32, last bool, fields ...string) {
	c.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = c.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: last})
}

// maxStatus is the longest message of a status, so that its headers are one frame.
const maxStatus = 1024

// encoded is a status message as a header has it (the gRPC protocol: percent-encoded UTF-8).
func encoded(message string) string {
	var b strings.Builder
	for i := range min(len(message), maxStatus) {
		if ch := message[i]; ch < ' ' || ch > '~' || ch == '%' {
			fmt.Fprintf(&b, "%%%02X", ch)
		} else {
			b.WriteByte(ch)
		}
	}
	return b.String()
}

// grant takes more room for answers.
func (c *connection) grant(id uint32, n int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == 0 {
		if c.window += n; c.window > math.MaxInt32 {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		c.sendWaiting()
		return nil
	}
	if id > c.last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if st := c.streams[id]; st != nil {
		if st.granted += n; c.initial+st.granted > math.MaxInt32 {
			return http2.StreamError{StreamID: id, Code: http2.ErrCodeFlowControl}
		}
		c.sendHeld(st)
	}
	return nil
}

// settings are the client's.
func (c *connection) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingInitialWindowSize:
			c.initial = int64(s.Val)
			for _, st := range c.streams {
				c.sendHeld(st)
			}
		case http2.SettingHeaderTableSize:
			c.encoder.SetMaxDynamicTableSizeLimit(s.Val)
		}
		return nil
	}); err != nil {
		return err
	}
	return c.framer.WriteSettingsAck()
}

// giveBack has a client send more, of a stream or of all (0).
func (c *connection) giveBack(id, n uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 && (id == 0 || c.streams[id] != nil) {
		_ = c.framer.WriteWindowUpdate(id, n)
	}
}

func (c *connection) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.w.Flush()
}

// reset ends a stream that a client misused.
func (c *connection) reset(of http2.StreamError) {
	if c.last < of.StreamID {
		c.last = of.StreamID
	}
	if st := c.stream(of.StreamID); st != nil {
		c.drop(st, of)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.framer.WriteRSTStream(of.StreamID, of.Code)
}

// say tells a client why its connection ends, if that is its doing.
func (c *connection) say(err error) {
	code := http2.ErrCodeFrameSize
	if of := http2.ConnectionError(0); errors.As(err, &of) {
		code = http2.ErrCode(of)
	} else if !errors.Is(err, http2.ErrFrameTooLarge) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.framer.WriteGoAway(c.last, code, nil)
	_ = c.w.Flush()
}

// ping asks a client whether it is there, unless it does not even read.
func (c *connection) ping() {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if c.w != nil {
		_ = c.framer.WritePing(false, [8]byte{})
		_ = c.w.Flush()
	}
}

// goAway tells a client to call elsewhere. What it calls nevertheless is answered.
func (c *connection) goAway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.w != nil {
		_ = c.framer.WriteGoAway(math.MaxInt32, http2.ErrCodeNo, nil)
		_ = c.w.Flush()
	}
}
