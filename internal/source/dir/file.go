package dir

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/source"
)

// What a Problem says is served instead.
const (
	keptBefore  = "the version before stays in force"
	keptNothing = "nothing: it was never accepted"
)

// maxProblems bounds what is reported of one file.
const maxProblems = 50

// racy is how long after its last change a file's size and time do not prove that it is the same: the
// clock of a file system may tick slowly.
const racy = 2 * time.Second

// A file is what a file said when it was last read well, object by object.
type file struct {
	path     string
	info     fs.FileInfo // as it was read; nil if the file must be read again
	readAt   time.Time
	sum      [sha256.Size]byte
	entries  []entry
	problems []source.Problem
	ignored  map[string]int // objects of other kinds, by kind
}

// entry is an accepted object of a file.
type entry struct {
	ref    source.Ref
	object source.Object
	origin *source.Origin
}

// unchanged tells from the file's attributes that it need not be read again.
func (f *file) unchanged(info fs.FileInfo) bool {
	return f != nil && f.info != nil && os.SameFile(f.info, info) && f.info.Size() == info.Size() &&
		f.info.ModTime().Equal(info.ModTime()) && f.info.Mode() == info.Mode() && f.readAt.Sub(info.ModTime()) > racy
}

// load is what the file says now, given what it said before, which may be nil. The result is a new
// value wherever something differs.
func (f *file) load(full string, l listed, limits limits, now time.Time) *file {
	if l.err != nil {
		return f.unreadable(l.path, "cannot be read: "+reason(l.err))
	}
	if f.unchanged(l.info) {
		return f
	}
	if l.info.Size() > limits.fileBytes {
		return f.unreadable(l.path, fmt.Sprintf("is larger than %d bytes", limits.fileBytes))
	}
	data, err := read(full, limits.fileBytes)
	if err != nil {
		return f.unreadable(l.path, "cannot be read: "+reason(err))
	}
	loaded := &file{path: l.path, info: l.info, readAt: now, sum: sha256.Sum256(data)}
	switch {
	case f != nil && f.info != nil && f.sum == loaded.sum:
		loaded.entries, loaded.problems, loaded.ignored = f.entries, f.problems, f.ignored
	case len(bytes.TrimSpace(data)) == 0 && f != nil && len(f.entries) > 0:
		// A full disk and an editor that truncates before it writes look like this.
		loaded.entries = f.entries
		loaded.problems = []source.Problem{{File: l.path, Message: "is empty; to remove its objects, delete the file",
			Kept: count(len(f.entries)) + " of it stay in force"}}
	default:
		var documents []document
		documents, loaded.ignored = parseSafely(l.path, data)
		loaded.take(documents, f)
	}
	return loaded
}

func read(full string, limit int64) ([]byte, error) {
	f, err := os.Open(full)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("is larger than %d bytes", limit)
	}
	return data, err
}

// parseSafely turns a panic of a parser into a document that was refused.
func parseSafely(path string, data []byte) (found []document, ignored map[string]int) {
	defer func() {
		if r := recover(); r != nil {
			found = append(found, document{issues: []issue{{message: fmt.Sprintf("cannot be understood: %v", r)}}})
		}
	}()
	return documents(path, data)
}

// unreadable is the file as it was, with the problem that it cannot be read now.
func (f *file) unreadable(path, message string) *file {
	kept := &file{path: path}
	problem := source.Problem{File: path, Message: message, Kept: keptNothing}
	if f != nil && len(f.entries) > 0 {
		kept.entries = f.entries
		problem.Kept = count(len(f.entries)) + " of it stay in force"
	}
	kept.problems = []source.Problem{problem}
	return kept
}

// take sorts documents into accepted objects, objects that are kept as they were before, and problems.
func (f *file) take(documents []document, before *file) {
	accepted, refused, unknown := map[source.Ref]bool{}, map[source.Ref]bool{}, false
	for _, d := range documents {
		switch {
		case d.object != nil:
			accepted[d.ref] = true
			f.entries = append(f.entries, entry{d.ref, d.object, d.origin})
		case d.ref.Kind == "":
			unknown = true
		default:
			refused[d.ref] = true
		}
	}
	// Objects that were in the file and are not now were taken out, unless a document that was refused is
	// theirs, or might be.
	keptRefs, keptUnknown := map[source.Ref]bool{}, 0
	if before != nil {
		for _, e := range before.entries {
			if accepted[e.ref] || keptRefs[e.ref] || !refused[e.ref] && !unknown {
				continue
			}
			if keptRefs[e.ref] = true; !refused[e.ref] {
				keptUnknown++
			}
			f.entries = append(f.entries, e)
		}
	}
	for _, d := range documents {
		kept := keptNothing
		switch {
		case d.ref.Kind == "" && keptUnknown > 0:
			kept = count(keptUnknown) + " that this may have been stay in force"
		case keptRefs[d.ref]:
			kept = keptBefore
		case accepted[d.ref]:
			kept = "the other document of that name"
		}
		for _, i := range d.issues {
			f.problems = append(f.problems, source.Problem{
				File: f.path, Line: i.line, Object: d.ref, Field: shorten(i.field), Message: shorten(i.message), Kept: kept,
			})
		}
	}
	if more := len(f.problems) - maxProblems; more > 0 {
		f.problems = append(f.problems[:maxProblems:maxProblems], source.Problem{
			File: f.path, Line: f.problems[maxProblems].Line, Message: fmt.Sprintf("%d more problems from here on", more),
		})
	}
}

// shorten bounds a text that quotes the file.
func shorten(text string) string {
	const most = 500
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}

func count(objects int) string {
	if objects == 1 {
		return "1 object"
	}
	return fmt.Sprintf("%d objects", objects)
}
