package pipeline

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"evenkeel.io/controlplane/internal/lastgood"
)

// saveAtMostEvery bounds how often the state is written.
const saveAtMostEvery = time.Second

// saver writes the newest state to disk beside the worker; a slow disk delays no push. States that
// come faster than they can be written replace each other.
type saver struct {
	dir    *lastgood.Dir // nil: nothing is saved
	log    *slog.Logger
	newest chan lastgood.State // holds at most one
}

func newSaver(dir *lastgood.Dir, log *slog.Logger) *saver {
	return &saver{dir: dir, log: log, newest: make(chan lastgood.State, 1)}
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

// save has state written soon. Called by the worker alone.
func (s *saver) save(state lastgood.State) {
	if s.dir == nil {
		return
	}
	select {
	case <-s.newest: // not written yet, and outdated now
	default:
	}
	s.newest <- state
}

// run writes until ctx is done, and then what is still to be written.
func (s *saver) run(ctx context.Context) error {
	for {
		select {
		case state := <-s.newest:
			s.write(state)
		case <-ctx.Done():
			select {
			case state := <-s.newest:
				s.write(state)
			default:
			}
			return nil
		}
		select {
		case <-time.After(saveAtMostEvery):
		case <-ctx.Done():
		}
	}
}

func (s *saver) write(state lastgood.State) {
	if err := s.dir.Save(state); err != nil {
		s.log.Error("the state was not saved; a restart now would go on from an older one", "error", err)
	}
}
