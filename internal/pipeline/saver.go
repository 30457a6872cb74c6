package pipeline

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"evenkeel.io/controlplane/internal/lastgood"
)

const (
	// saveAtMostEvery bounds how often the state is written.
	saveAtMostEvery = time.Second
	// saveAgainAfter is when what could not be written is tried again, if there is nothing newer.
	saveAgainAfter = 10 * time.Second
)

// saver writes the newest state to disk beside the worker; a slow disk delays no push. States that
// come faster than they can be written replace each other, and so does what one fleet is served.
type saver struct {
	dir     *lastgood.Dir // nil: nothing is saved
	metrics *metrics
	log     *slog.Logger
	wake    chan struct{} // holds at most one
	closed  chan struct{}

	mu      sync.Mutex
	state   *lastgood.State            // nil: written
	fleets  map[string]*lastgood.Fleet // to be written, nil: to be forgotten
	failing bool
}

func newSaver(dir *lastgood.Dir, metrics *metrics, log *slog.Logger) *saver {
	return &saver{
		dir: dir, metrics: metrics, log: log, wake: make(chan struct{}, 1), closed: make(chan struct{}), fleets: map[string]*lastgood.Fleet{},
	}
}

// load is the saved state, or none where it cannot be used, which the log then says.
func (s *saver) load() lastgood.State {
	if s.dir == nil {
		return lastgood.State{}
	}
	state, err := s.dir.Load()
	switch {
	case errors.Is(err, lastgood.ErrNone):
		s.log.Info("no saved state, weights start from their priors")
	case err != nil:
		s.log.Warn("the saved state is ignored, weights start from their priors", "error", err)
	default:
		s.log.Info("going on from the saved state", "saved", state.SavedAt, "services", len(state.Services))
		return state
	}
	return lastgood.State{}
}

// loadFleets is what was served and can be served again. The log says what cannot.
func (s *saver) loadFleets() []lastgood.Fleet {
	if s.dir == nil {
		return nil
	}
	began := time.Now()
	fleets, errs := s.dir.LoadFleets()
	for _, err := range errs {
		s.log.Warn("what a fleet was served before cannot be served again and is left aside; the fleet waits for the objects", "error", err)
	}
	if len(fleets) > 0 {
		s.log.Info("serving what was saved until the objects are read", "fleets", len(fleets), "loaded", time.Since(began))
	}
	return fleets
}

// save has what is new written soon. Called by the worker alone.
func (s *saver) save(state *lastgood.State, fleets map[string]*lastgood.Fleet) {
	if state == nil && len(fleets) == 0 {
		return
	}
	s.mu.Lock()
	if state != nil {
		s.state = state
	}
	for key, f := range fleets {
		s.fleets[key] = f
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// close has run write what there is and end. Nothing may be saved after it.
func (s *saver) close() { close(s.closed) }

// run writes until close.
func (s *saver) run() error {
	for {
		var again <-chan time.Time
		if s.failing {
			again = time.After(saveAgainAfter)
		}
		select {
		case <-s.wake:
		case <-again:
		case <-s.closed:
			s.write()
			return nil
		}
		s.write()
		select {
		case <-time.After(saveAtMostEvery):
		case <-s.closed:
			s.write()
			return nil
		}
	}
}

// write writes all there is. What fails is kept for the next time, unless something newer came meanwhile.
func (s *saver) write() {
	s.mu.Lock()
	state, fleets := s.state, s.fleets
	s.state, s.fleets = nil, map[string]*lastgood.Fleet{}
	s.mu.Unlock()

	var failed error
	left := map[string]*lastgood.Fleet{}
	for key, f := range fleets {
		var err error
		if f == nil {
			err = s.dir.ForgetFleet(key)
		} else {
			err = s.dir.SaveFleet(*f)
		}
		if err != nil {
			failed, left[key] = err, f
		}
	}
	if state != nil {
		if err := s.dir.Save(*state); err != nil {
			failed = err
		} else {
			state = nil
		}
	}
	s.mu.Lock()
	if s.state == nil {
		s.state = state
	}
	for key, f := range left {
		if _, newer := s.fleets[key]; !newer {
			s.fleets[key] = f
		}
	}
	s.mu.Unlock()
	s.said(failed)
}

// said logs a failure once, and its end.
func (s *saver) said(failed error) {
	switch {
	case failed != nil:
		s.metrics.saveFailures.Inc()
		if !s.failing {
			s.log.Error("the state was not saved, and is tried again; a restart now would go on from an older one", "error", failed)
		}
	case s.failing:
		s.log.Info("the state is saved again")
	}
	s.failing = failed != nil
}

// save hands over what has to be saved. all: also what would wait for its time, because there is none left.
func (c *core) save(now time.Time, s *saver, all bool) {
	if s.dir == nil || c.catalog == nil {
		return // there is nowhere to save it, or what is served came from there
	}
	var newest *lastgood.State
	c.unsaved = c.unsaved || all
	if state, ok := c.takeState(now); ok {
		newest = &state
	}
	s.save(newest, c.takeServed(now, all))
}
