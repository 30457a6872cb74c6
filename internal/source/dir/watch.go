package dir

import (
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// A burst of events ends when nothing happened for quiet, or after burst.
const (
	quiet = 20 * time.Millisecond
	burst = 80 * time.Millisecond
)

// debounce makes one look of many reasons to look.
type debounce struct {
	timer   *time.Timer
	pending bool
	began   time.Time // when the first reason came
}

func newDebounce() *debounce {
	timer := time.NewTimer(0)
	timer.Stop()
	return &debounce{timer: timer}
}

// soon looks when no further reason comes for wait, but at most limit after the first one.
func (d *debounce) soon(wait, limit time.Duration) {
	if !d.pending {
		d.pending, d.began = true, time.Now()
	}
	d.timer.Reset(max(0, min(wait, limit-time.Since(d.began))))
}

// watcher tells that something changed in a set of directories. It is a hint: what it misses, because
// the kernel's limits are reached or a symlink leads elsewhere, the poll finds.
type watcher struct {
	notify *fsnotify.Watcher // nil if there is only the poll
	log    *slog.Logger
	root   string
	dirs   map[string]bool
	failed bool // a directory could not be watched, which was said once
}

func newWatcher(root string, disabled bool, log *slog.Logger) *watcher {
	w := &watcher{log: log, root: filepath.Clean(root), dirs: map[string]bool{}}
	if disabled {
		return w
	}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("files cannot be watched; changes are found by looking", "error", err)
		return w
	}
	w.notify = notify
	// The parent tells of the directory itself: that it is replaced, or comes back.
	_ = notify.Add(filepath.Dir(w.root))
	return w
}

func (w *watcher) close() {
	if w.notify != nil {
		_ = w.notify.Close()
	}
}

// follow watches exactly dirs, and tells whether some are new: what happened in those before now may
// have been missed.
func (w *watcher) follow(dirs []string) (added bool) {
	if w.notify == nil {
		return false
	}
	now := make(map[string]bool, len(dirs))
	for _, dir := range dirs {
		now[dir] = true
		// Again even if it is watched: it may be another directory of the same name.
		if err := w.notify.Add(dir); err == nil {
			added = added || !w.dirs[dir]
		} else if !w.failed {
			w.failed = true
			w.log.Warn("a directory cannot be watched; changes there are found by looking", "directory", dir, "error", err)
		}
	}
	for dir := range w.dirs {
		if !now[dir] && dir != filepath.Dir(w.root) {
			_ = w.notify.Remove(dir)
		}
	}
	w.dirs = now
	return added
}

func (w *watcher) events() <-chan fsnotify.Event {
	if w.notify == nil {
		return nil
	}
	return w.notify.Events
}

func (w *watcher) errors() <-chan error {
	if w.notify == nil {
		return nil
	}
	return w.notify.Errors
}

// concerns tells whether an event may have changed the directory, as against something else in its parent.
func (w *watcher) concerns(event fsnotify.Event) bool {
	return event.Name == w.root || w.dirs[event.Name] || w.dirs[filepath.Dir(event.Name)]
}
