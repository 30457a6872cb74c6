package auth

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// The files of Options.Dir.
const (
	certificateFile = "tls.crt"
	keyFile         = "tls.key"
	authorityFile   = "ca.crt"
)

// maxFile bounds a file: some hundred authorities.
const maxFile = 1 << 20

// files are the contents of the files at one look.
type files struct {
	dir                         string
	certificate, key, authority []byte
}

func readFiles(dir string) (files, error) {
	f := files{dir: dir}
	var errs [3]error
	f.certificate, errs[0] = readFile(filepath.Join(dir, certificateFile))
	f.key, errs[1] = readFile(filepath.Join(dir, keyFile))
	f.authority, errs[2] = readFile(filepath.Join(dir, authorityFile))
	return f, errors.Join(errs[:]...)
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(content) > maxFile:
		return nil, fmt.Errorf("%s: expected at most %d bytes", path, maxFile)
	}
	return content, nil
}

type digest [sha256.Size]byte

func (f files) digest() digest {
	h := sha256.New()
	for _, content := range [][]byte{f.certificate, f.key, f.authority} {
		fmt.Fprintf(h, "%d ", len(content))
		h.Write(content)
	}
	return digest(h.Sum(nil))
}

// watch finds out when the files change. They are read, not watched: there are three of them, they may be
// written one after the other or swapped behind a symlink, and two looks that agree are right for both.
type watch struct {
	gate       *Gate
	used, last digest
	complained string // what was logged last
}

// look looks at the files, and has them used if they are new, whole and good.
func (w *watch) look(now time.Time) {
	f, err := readFiles(w.gate.opts.Dir)
	seen := f.digest()
	if err != nil {
		seen = sha256.Sum256([]byte(err.Error()))
	}
	settled := seen == w.last
	w.last = seen
	if seen == w.used {
		w.complained = ""
		return
	}
	if !settled {
		return
	}
	var m *material
	if err == nil {
		m, err = f.material(now)
	}
	if err != nil {
		w.refuse(err)
		return
	}
	w.used, w.complained = seen, ""
	w.gate.use(m)
}

func (w *watch) refuse(err error) {
	w.gate.metrics.reloadFailures.Inc()
	if text := err.Error(); text != w.complained {
		w.complained = text
		w.gate.opts.Log.Error("TLS files cannot be used; those from before stay in use", "directory", w.gate.opts.Dir, "error", err)
	}
}
