// Package dir is the source that reads objects from the YAML files of a directory, as kubectl would
// apply them, and follows their changes.
//
// It promises that a mistake costs nothing but its own effect. A document that is no YAML, an unknown
// field or a value that an API server would refuse gives a Problem with file, line and field, and the
// object's last good version stays, as do all other objects. A file that is deleted takes its objects
// with it, unless the directory would then hold none: an empty or vanished directory changes nothing
// until it has objects again.
//
//	directory --list--> files --load--> documents --build--> Store
//	 tree.go             file.go         yaml.go, schema.go,   folder.go
//	                                     document.go, admit
//
// What the objects mean together is package catalog's business.
package dir

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"evenkeel.io/controlplane/internal/source"
)

// Options of a Source.
type Options struct {
	// Poll is the time between two looks at the directory, in case the operating system did not tell of a
	// change; 2s if 0.
	Poll time.Duration
	// DisableNotify leaves it to the poll alone to find changes, for file systems that tell of none.
	DisableNotify bool
	// Wait has a directory that cannot be read in the beginning waited for; else it is an error.
	Wait bool
	// Logger gets what is no Problem of an object; slog.Default if nil.
	Logger *slog.Logger
}

// Source reads a directory. It implements source.Source.
type Source struct {
	dir     string
	options Options
}

// New is a Source of the *.yaml and *.yml files of dir and the directories below it. Files and
// directories whose names begin with a dot are passed over; symlinks are followed.
func New(dir string, options Options) *Source {
	options.Poll = cmp.Or(options.Poll, 2*time.Second)
	options.Logger = cmp.Or(options.Logger, slog.Default())
	return &Source{dir: filepath.Clean(dir), options: options}
}

// Load reads the directory once. What is wrong with objects and files is in the Store's Problems; an
// error means that the directory itself cannot be read.
func Load(dir string) (*source.Store, error) {
	f := &folder{dir: filepath.Clean(dir), limits: defaultLimits}
	if err := f.read(); err != nil {
		return nil, err
	}
	return f.store, nil
}

// Run reads the directory, sends what it has, and then what changes, until ctx is done. It gives an
// error if the directory cannot be read in the beginning, unless it is to wait for it, and never later.
func (s *Source) Run(ctx context.Context, up chan<- source.Update) error {
	log := s.options.Logger.With("directory", s.dir)
	w := newWatcher(s.dir, s.options.DisableNotify, log)
	defer w.close()
	poll := time.NewTicker(s.options.Poll)
	defer poll.Stop()

	f := &folder{dir: s.dir, limits: defaultLimits}
	var (
		seen      *source.Store // what was read last
		delivered *source.Store // what the reader of up has
		ignored   map[string]int
		waiting   string // what was last said of a directory that cannot be read yet
		next      source.Update
		out       chan<- source.Update // up while there is something to send
		look      = newDebounce()
	)
	defer look.timer.Stop()
	look.soon(0, 0)
	for {
		select {
		case <-ctx.Done():
			return nil

		case out <- next:
			delivered, out = next.Store, nil

		case event := <-w.events():
			if w.concerns(event) {
				look.soon(quiet, burst)
			}

		case err := <-w.errors():
			log.Debug("watching files", "error", err) // an overflow, mostly: events were lost
			look.soon(quiet, burst)

		case <-poll.C:
			if !look.pending {
				look.soon(0, 0)
			}

		case <-look.timer.C:
			look.pending = false
			if err := f.read(); err != nil {
				if !s.options.Wait {
					return err
				}
				if text := err.Error(); text != waiting {
					waiting = text
					log.Warn("waiting for the directory", "error", text)
				}
				continue
			}
			if w.follow(f.dirs) {
				look.soon(quiet, burst)
			}
			if f.unsettled() {
				look.soon(settle, settle)
			}
			if kinds := f.ignored(); !maps.Equal(kinds, ignored) {
				ignored = kinds
				log.Debug("objects of other kinds are passed over", "kinds", slices.Sorted(maps.Keys(kinds)))
			}
			if f.store == seen {
				continue
			}
			seen = f.store
			next, out = update(delivered, seen), nil
			if delivered == nil || len(next.Changes) > 0 || !slices.Equal(delivered.Problems, seen.Problems) {
				out = up
			}
		}
	}
}

func update(delivered, store *source.Store) source.Update {
	evidence := source.EvidenceFile
	if delivered == nil {
		evidence = source.EvidenceFirst
	}
	return source.Update{Store: store, Changes: source.Diff(delivered, store, evidence)}
}

var _ source.Source = (*Source)(nil)
