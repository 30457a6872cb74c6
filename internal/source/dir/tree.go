package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// limits bound what is read. What is over a limit is refused with a Problem, and what was read before
// stays.
type limits struct {
	files     int
	fileBytes int64
	allBytes  int64
	depth     int // of directories
}

var defaultLimits = limits{files: 10_000, fileBytes: 8 << 20, allBytes: 256 << 20, depth: 32}

// listing is what a walk of the directory found.
type listing struct {
	files []listed
	dirs  []string // all directories that were read, to be watched
	// gaps are the places that could not be listed, by relative path, "" for the whole: that a file there
	// is not in files does not mean it is gone.
	gaps map[string]string
}

// listed is a file: its path relative to the directory, with slashes, and what it is once symlinks are
// followed. info is nil, and err says why, if that cannot be told.
type listed struct {
	path string
	info fs.FileInfo
	err  error
}

// list walks the directory. Names that begin with a dot are passed over: they are an editor's, or the
// `..data` and `..<time>` directories of a mounted ConfigMap, whose files are reached by the symlinks
// beside them.
func list(dir string, limits limits) (listing, error) {
	l := listing{gaps: map[string]string{}}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return l, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return l, err
	}
	l.dirs = append(l.dirs, dir)
	l.walk(dir, "", entries, []string{real}, limits)
	return l, nil
}

// walk goes through the entries of a directory; above are the real paths of it and those around it.
func (l *listing) walk(dir, relative string, entries []fs.DirEntry, above []string, limits limits) {
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		full, rel := filepath.Join(dir, name), path.Join(relative, name)
		isYAML := strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")
		info, err := os.Stat(full)
		switch {
		case errors.Is(err, fs.ErrNotExist) && entry.Type()&fs.ModeSymlink == 0:
			continue // deleted meanwhile
		case err != nil && !isYAML:
			continue
		case err == nil && info.IsDir():
			l.descend(full, rel, above, limits)
			continue
		case !isYAML:
			continue
		case err == nil && !info.Mode().IsRegular():
			err = errors.New("it is not a regular file")
		}
		if len(l.files) == limits.files {
			l.gaps[""] = fmt.Sprintf("the directory has more than %d files; those after %s are not read", limits.files, l.files[len(l.files)-1].path)
			return
		}
		l.files = append(l.files, listed{path: rel, info: info, err: err})
	}
}

func (l *listing) descend(full, rel string, above []string, limits limits) {
	real, err := filepath.EvalSymlinks(full)
	if err == nil {
		for _, outer := range above {
			if real == outer {
				return // a symlink to where we come from
			}
		}
		if len(above) > limits.depth {
			err = fmt.Errorf("directories are nested more than %d deep", limits.depth)
		}
		if len(l.dirs) == limits.files {
			err = fmt.Errorf("there are more than %d directories", limits.files)
		}
	}
	var entries []fs.DirEntry
	if err == nil {
		entries, err = os.ReadDir(full)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		l.gaps[rel] = "cannot read the directory: " + reason(err)
	default:
		l.dirs = append(l.dirs, full)
		if _, stopped := l.gaps[""]; !stopped {
			l.walk(full, rel, entries, append(above[:len(above):len(above)], real), limits)
		}
	}
}

// reason is the error without the path, which the Problem has already.
func reason(err error) string {
	if inner, ok := errors.AsType[*fs.PathError](err); ok {
		return inner.Err.Error()
	}
	return err.Error()
}
