package wire

import (
	"bytes"
	"context"
	"sync"

	"golang.org/x/net/http2"
)

// upload is a stream of messages on its way from the connection's reader to its method. What the method has not
// taken is bounded by the stream's window.
type upload struct {
	give func(n uint32) // gives the client its window back
	wake chan struct{}

	mu    sync.Mutex
	queue [][]byte
	bytes int
	owed  uint32 // bytes of the window that are not given back
	err   error  // after the queue
}

// begins runs a method that takes messages.
func (c *connection) begins(st *stream, run Upload) {
	ctx, cancel := context.WithCancel(c.ctx)
	st.cancel = cancel
	up := &upload{wake: make(chan struct{}, 1), give: func(n uint32) {
		c.giveBack(st.id, n)
		c.flush()
	}}
	st.upload = up
	c.goes(func() {
		defer cancel()
		answer, err := run(ctx, up.receive)
		c.finish(st, append(make([]byte, prefix), answer...), err, true)
	})
}

// uploaded hands on the messages that are complete, and keeps the rest.
func (c *connection) uploaded(st *stream, data []byte) error {
	if len(st.part) > 0 {
		if err := c.keepMore(st, data); err != nil {
			return err
		}
		data = st.part
	}
	for {
		message, rest, err := c.cut(data)
		if err != nil {
			return err
		}
		if message == nil {
			break
		}
		st.upload.add(bytes.Clone(message))
		data = rest
	}
	if len(st.part) == 0 && len(data) > 0 {
		return c.keepMore(st, data)
	}
	c.keep(st, data)
	return nil
}

func (u *upload) add(message []byte) {
	u.mu.Lock()
	u.queue = append(u.queue, message)
	u.bytes += prefix + len(message)
	u.mu.Unlock()
	u.signal()
}

func (u *upload) signal() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// taken gives the window back of what came, or later, when the method has caught up.
func (u *upload) taken(c *connection, st *stream, n uint32) error {
	u.mu.Lock()
	behind := u.bytes
	u.owed += n
	if behind < streamWindow {
		n, u.owed = u.owed, 0
	}
	u.mu.Unlock()
	switch {
	case behind < streamWindow:
		c.giveBack(st.id, n)
	case behind > 2*streamWindow+prefix+c.server.opts.MaxMessage:
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeFlowControl}
	}
	return nil
}

// close ends the messages. The first error counts.
func (u *upload) close(err error) {
	u.mu.Lock()
	if u.err == nil {
		u.err = err
	}
	u.mu.Unlock()
	u.signal()
}

// receive waits for the next message.
func (u *upload) receive() ([]byte, error) {
	for {
		u.mu.Lock()
		if len(u.queue) > 0 {
			message := u.queue[0]
			u.queue[0] = nil
			u.queue = u.queue[1:]
			u.bytes -= prefix + len(message)
			owed := uint32(0)
			if u.bytes < streamWindow {
				owed, u.owed = u.owed, 0
			}
			u.mu.Unlock()
			if owed > 0 {
				u.give(owed)
			}
			return message, nil
		}
		err := u.err
		u.mu.Unlock()
		if err != nil {
			return nil, err
		}
		<-u.wake
	}
}
