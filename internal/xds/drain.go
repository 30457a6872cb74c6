package xds

import (
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	errTooFast  = status.Error(codes.Unavailable, "the control plane takes only so many streams in a second")
	errDraining = status.Error(codes.Unavailable, "the control plane is shutting down")
	errTooMany  = status.Error(codes.ResourceExhausted, "the control plane has as many streams as it may")
)

// drainStep is the time between the ends of two streams when there are few of them.
const drainStep = 10 * time.Millisecond

// streams bounds the open streams of a service, and ends them.
type streams struct {
	most int
	rate *rate.Limiter // of new ones; nil for none

	mu       sync.Mutex
	draining bool
	next     uint64
	open     map[uint64]func(error) // in the order of their opening
}

// admit takes in a stream that end ends, until release; or returns the status to refuse it with.
func (s *streams) admit(end func(error)) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return nil, errDraining
	case len(s.open) >= s.most:
		return nil, errTooMany
	case s.rate != nil && !s.rate.Allow():
		return nil, errTooFast
	}
	if s.open == nil {
		s.open = map[uint64]func(error){}
	}
	id := s.next
	s.next++
	s.open[id] = end
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, id)
	}, nil
}

// drain refuses new streams and ends the open ones, oldest first, spread evenly over at most within.
func (s *streams) drain(within time.Duration) {
	s.mu.Lock()
	s.draining = true
	open := maps.Clone(s.open)
	s.mu.Unlock()
	if len(open) == 0 {
		return
	}
	step := min(drainStep, within/time.Duration(len(open)))
	for i, id := range slices.Sorted(maps.Keys(open)) {
		if i > 0 {
			time.Sleep(step)
		}
		open[id](errDraining)
	}
}
