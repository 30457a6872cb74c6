package dir

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	"evenkeel.io/controlplane/internal/source"
)

// settle is how long a directory that comes back must stay as it is before it is believed: what copies
// it back does so file by file.
const settle = 300 * time.Millisecond

// A folder is the directory as it was last read, and the Store made of it. One goroutine owns it.
type folder struct {
	dir    string
	limits limits

	files   map[string]*file
	gaps    []source.Problem // of places that could not be listed
	store   *source.Store    // nil before the first reading
	reading int64            // rises with every reading that changed an object; the Generation of those

	// held is set while the directory holds nothing and what it held before stays in force. What is
	// listed now was first seen so at heldSince.
	held      bool
	heldSeen  []listed
	heldSince time.Time

	dirs []string // to watch
}

// read looks at the directory and brings store up to date. It gives an error only if there never was a
// good reading to fall back on.
func (f *folder) read() error {
	now := time.Now()
	l, err := list(f.dir, f.limits)
	if err != nil && f.store == nil {
		return fmt.Errorf("reading the configuration directory: %w", err)
	}
	f.dirs = l.dirs
	if err != nil {
		f.hold("the directory cannot be read: " + reason(err))
		return nil
	}
	files, problems := f.load(l, now)
	if f.store != nil && !f.held && slices.Equal(problems, f.gaps) && maps.Equal(files, f.files) {
		return nil
	}
	objects := 0
	for _, file := range files {
		objects += len(file.entries)
	}
	if f.store != nil && f.store.Len() > 0 {
		if objects == 0 {
			f.hold("the directory holds no objects any more")
			return nil
		}
		if f.held && !f.settled(l.files, now) {
			return nil
		}
	}
	f.held, f.heldSeen = false, nil
	f.files, f.gaps = files, problems
	f.build()
	return nil
}

// load reads the files that changed, and keeps those of places that could not be looked into.
func (f *folder) load(l listing, now time.Time) (files map[string]*file, problems []source.Problem) {
	files = make(map[string]*file, len(l.files))
	room := f.limits.allBytes
	for _, listed := range l.files {
		if listed.info != nil {
			if room -= listed.info.Size(); room < 0 {
				files[listed.path] = f.files[listed.path].unreadable(listed.path,
					fmt.Sprintf("is not read: the files before it have more than %d bytes together", f.limits.allBytes))
				continue
			}
		}
		files[listed.path] = f.files[listed.path].load(filepath.Join(f.dir, filepath.FromSlash(listed.path)), listed, f.limits, now)
	}
	for place, message := range l.gaps {
		kept := 0
		for path, file := range f.files {
			if _, listed := files[path]; !listed && (place == "" || strings.HasPrefix(path, place+"/")) {
				files[path] = file
				kept += len(file.entries)
			}
		}
		problem := source.Problem{File: place, Message: message, Kept: "nothing: they were never read"}
		if kept > 0 {
			problem.Kept = count(kept) + " read there before stay in force"
		}
		problems = append(problems, problem)
	}
	slices.SortFunc(problems, source.ComparePlaces)
	return files, problems
}

// hold keeps everything as it is, with a Problem that says why.
func (f *folder) hold(why string) {
	f.held, f.heldSeen = true, nil
	f.publish(f.store, append(f.problems(), source.Problem{
		Message: f.dir + ": " + why,
		Kept:    count(f.store.Len()) + " read before stay in force until it comes back",
	}))
}

// settled tells whether the directory has come back to stay.
func (f *folder) settled(now []listed, at time.Time) bool {
	same := slices.EqualFunc(now, f.heldSeen, func(a, b listed) bool {
		return a.path == b.path && (a.info == nil) == (b.info == nil) &&
			(a.info == nil || a.info.Size() == b.info.Size() && a.info.ModTime().Equal(b.info.ModTime()))
	})
	if !same || f.heldSeen == nil {
		f.heldSeen, f.heldSince = now, at
		return false
	}
	return at.Sub(f.heldSince) >= settle
}

// unsettled tells that the directory came back and must be read again to be believed.
func (f *folder) unsettled() bool { return f.held && f.heldSeen != nil }

// problems are those of the files and of places that could not be listed.
func (f *folder) problems() []source.Problem {
	problems := slices.Clone(f.gaps)
	for _, file := range f.files {
		problems = append(problems, file.problems...)
	}
	return problems
}

// build makes the Store of the files. Of two objects of one name the first, by the file's name, counts.
func (f *folder) build() {
	before := f.store
	if before == nil {
		before = source.NewStore()
	}
	store, problems, changed := source.NewStore(), f.problems(), false
	for _, path := range slices.Sorted(maps.Keys(f.files)) {
		for i := range f.files[path].entries {
			e := &f.files[path].entries[i]
			if first := store.Origins[e.ref]; first != nil {
				problems = append(problems, source.Problem{
					File: e.origin.File, Line: e.origin.Line, Object: e.ref,
					Message: fmt.Sprintf("stands in %s:%d already", first.File, first.Line),
					Kept:    "the one in " + first.File,
				})
				continue
			}
			if was := before.Get(e.ref); was != e.object {
				if was != nil && same(was, e.object) {
					e.object = was
				} else {
					e.object.SetGeneration(f.reading + 1)
					changed = true
				}
			}
			store.Add(e.object)
			store.Origins[e.ref] = e.origin
		}
	}
	if changed {
		f.reading++
	}
	if store.Len() == 0 && len(problems) == 0 {
		problems = []source.Problem{{
			Message: f.dir + ": no objects were found; expected them in files named *.yaml or *.yml",
			Kept:    "nothing: it is the first reading",
		}}
	}
	f.publish(store, problems)
}

// same tells whether two versions of an object have the same content.
func same(a, b source.Object) bool {
	b.SetGeneration(a.GetGeneration())
	return equality.Semantic.DeepEqual(a, b)
}

// publish replaces the Store if something in it differs.
func (f *folder) publish(objects *source.Store, problems []source.Problem) {
	slices.SortFunc(problems, source.ComparePlaces)
	if f.store != nil && slices.Equal(f.store.Problems, problems) &&
		maps.Equal(f.store.Origins, objects.Origins) && len(source.Diff(f.store, objects, "")) == 0 {
		return
	}
	store := *objects
	store.Problems = problems
	f.store = &store
}

// ignored counts the objects of kinds that are none of ours.
func (f *folder) ignored() map[string]int {
	kinds := map[string]int{}
	for _, file := range f.files {
		for kind, n := range file.ignored {
			kinds[kind] += n
		}
	}
	return kinds
}
