package dir

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"evenkeel.io/controlplane/internal/source"
)

// patience is for a machine that is busy with something else.
const patience = 30 * time.Second

// follower reads the updates of a Source that runs.
type follower struct {
	*testing.T
	dir     string
	updates chan source.Update
	last    *source.Store
}

func follow(t *testing.T, dir string, options Options) *follower {
	t.Helper()
	options.Logger = slog.New(slog.DiscardHandler)
	if options.Poll == 0 {
		options.Poll = time.Hour // so that only a notification can tell
	}
	f := &follower{T: t, dir: dir, updates: make(chan source.Update)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- New(dir, options).Run(ctx, f.updates) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return f
}

func (f *follower) next() source.Update {
	f.Helper()
	select {
	case u := <-f.updates:
		evidence := source.EvidenceFile
		if f.last == nil {
			evidence = source.EvidenceFirst
		}
		if diff := source.Diff(f.last, u.Store, evidence); !reflect.DeepEqual(diff, u.Changes) {
			f.Errorf("changes %v, want %v", u.Changes, diff)
		}
		f.last = u.Store
		return u
	case <-time.After(patience):
		f.Fatal("no update came")
		panic("unreachable")
	}
}

// expect is for an update that holds these Services, with that many changes and problems.
func (f *follower) expect(services string, changes, problems int) source.Update {
	f.Helper()
	u := f.next()
	if got := told(u.Store); got != services || len(u.Changes) != changes || len(u.Store.Problems) != problems {
		f.Errorf("holds %q, changes %v, problems %v; want %q, %d, %d", got, u.Changes, u.Store.Problems, services, changes, problems)
	}
	return u
}

// replace writes a file as editors do: beside it, then over it.
func (f *follower) replace(name, text string) {
	f.Helper()
	write(f.T, f.dir, ".swap", text)
	if err := os.Rename(filepath.Join(f.dir, ".swap"), filepath.Join(f.dir, name)); err != nil {
		f.Fatal(err)
	}
}

func TestRunFollowsFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", service("one", 1))
	f := follow(t, dir, Options{})
	f.expect("one:1", 1, 0)

	f.replace("a.yaml", service("one", 2))
	f.expect("one:2", 1, 0)

	f.replace("b.yaml", service("two", 1))
	f.expect("one:2 two:1", 1, 0)

	f.replace("b.yaml", service("two", 0))
	f.expect("one:2 two:1", 0, 1)
	f.replace("b.yaml", service("two", 2))
	f.expect("one:2 two:2", 1, 0)

	// A new directory is followed as well.
	write(t, dir, ".new/c.yaml", service("three", 1))
	if err := os.Rename(filepath.Join(dir, ".new"), filepath.Join(dir, "new")); err != nil {
		t.Fatal(err)
	}
	f.expect("one:2 three:1 two:2", 1, 0)
	f.replace("new/c.yaml", service("three", 2))
	f.expect("one:2 three:2 two:2", 1, 0)

	if err := os.RemoveAll(filepath.Join(dir, "new")); err != nil {
		t.Fatal(err)
	}
	f.expect("one:2 two:2", 1, 0)
}

func TestRunWaitsForADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "late")
	f := follow(t, dir, Options{Wait: true, Poll: 10 * time.Millisecond})
	select {
	case u := <-f.updates:
		t.Fatalf("a directory that does not exist holds %v", told(u.Store))
	case <-time.After(100 * time.Millisecond): // ten looks at it
	}
	write(t, filepath.Dir(dir), ".copy/a.yaml", service("one", 1))
	if err := os.Rename(filepath.Join(filepath.Dir(dir), ".copy"), dir); err != nil {
		t.Fatal(err)
	}
	f.expect("one:1", 1, 0)
	f.replace("a.yaml", service("one", 2))
	f.expect("one:2", 1, 0)
}

func TestRunFollowsAMountedConfigMap(t *testing.T) {
	dir := t.TempDir()
	mount := func(version string, port int) {
		t.Helper()
		write(t, dir, version+"/a.yaml", service("one", port))
		write(t, dir, version+"/b.yaml", service("two", port))
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	mount("..1", 1)
	for _, name := range []string{"a.yaml", "b.yaml"} {
		if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	f := follow(t, dir, Options{})
	f.expect("one:1 two:1", 2, 0)
	mount("..2", 2)
	if err := os.RemoveAll(filepath.Join(dir, "..1")); err != nil {
		t.Fatal(err)
	}
	f.expect("one:2 two:2", 2, 0)
	mount("..3", 3)
	f.expect("one:3 two:3", 2, 0)
}

func TestRunSurvivesTheLossOfTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "config")
	write(t, dir, "a.yaml", service("one", 1))
	f := follow(t, dir, Options{})
	first := f.expect("one:1", 1, 0)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	// Seen empty first, it may then be seen gone.
	for u := f.expect("one:1", 0, 1); !strings.Contains(u.Store.Problems[0].Message, "no such file"); {
		u = f.expect("one:1", 0, 1)
	}
	write(t, dir+"-new", "a.yaml", service("one", 1))
	if err := os.Rename(dir+"-new", dir); err != nil {
		t.Fatal(err)
	}
	u := f.expect("one:1", 0, 0)
	if u.Store.Get(serviceRef("one")) != first.Store.Get(serviceRef("one")) {
		t.Error("an object that came back as it was is another")
	}
	f.replace("a.yaml", service("one", 2))
	f.expect("one:2", 1, 0)
}

func TestRunPollsWhereNothingNotifies(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", service("one", 1))
	f := follow(t, dir, Options{DisableNotify: true, Poll: 10 * time.Millisecond})
	f.expect("one:1", 1, 0)
	for port := 2; port < 6; port++ { // of the same size, within one tick of some file systems' clocks
		f.replace("a.yaml", service("one", port))
		f.expect(fmt.Sprintf("one:%d", port), 1, 0)
	}
}

func TestRunMergesWhatIsNotRead(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", service("one", 1))
	f := follow(t, dir, Options{})
	f.expect("one:1", 1, 0)
	for port := 2; port < 50; port++ {
		f.replace("a.yaml", service("one", port))
	}
	for told(f.next().Store) != "one:49" {
	}
}

func TestRunFailsOnlyAtFirst(t *testing.T) {
	if err := New(filepath.Join(t.TempDir(), "none"), Options{}).Run(t.Context(), nil); err == nil {
		t.Error("a directory that never existed is no error")
	}
}

func TestDebounce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDebounce()
		began := time.Now()
		fires := func(after time.Duration) {
			t.Helper()
			if at := (<-d.timer.C).Sub(began); at != after {
				t.Errorf("looks after %v, want %v", at, after)
			}
			d.pending, began = false, time.Now()
		}
		d.soon(quiet, burst)
		fires(quiet)
		for range 3 {
			d.soon(quiet, burst)
			time.Sleep(quiet / 2)
		}
		fires(2 * quiet) // the end of the burst, and then quiet
		for range 2 * burst / quiet {
			d.soon(quiet, burst)
			time.Sleep(quiet / 2)
		}
		fires(burst)
	})
}
