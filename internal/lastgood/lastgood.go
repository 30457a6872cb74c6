// Package lastgood keeps on disk what a restart goes on from: the state of every Service's weight machine
// with the fleets' generation numbers (state.json), and what each fleet was served, byte for byte (a file
// per fleet), for a start at which the objects cannot be read.
//
// Files are replaced as a whole: a reader sees the old content or the new one. One that is damaged, too
// large, from another version that means something else by it, or not valid any more is left aside with
// an error, alone: without state.json the weights start from their priors, and a fleet without its file
// is served nothing until the objects are read.
package lastgood

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"evenkeel.io/controlplane/internal/adapt"
	"evenkeel.io/controlplane/internal/weights"
)

// State is what a restart goes on from.
type State struct {
	SavedAt time.Time `json:"savedAt"`
	// Services are the weight machines' states by Service name.
	Services map[string]weights.MachineState `json:"services"`
	// Frozen says that an operator froze all services, those to come included.
	Frozen bool `json:"frozen,omitempty"`
	// Factors are what limits are multiplied with, by fleet and rule.
	Factors map[string]map[string]adapt.Factor `json:"factors,omitempty"`
	// Generations are the fleets' newest, by fleet name.
	Generations map[string]Generation `json:"generations"`
}

// Generation is the number of a fleet's newest generation, and the version of its content, by which a
// restart tells whether anything changed meanwhile.
type Generation struct {
	Number  uint64 `json:"number"`
	Content string `json:"content"`
	// NoQuotas: an Envoy of the fleet took no bounds of limits in routes.
	NoQuotas bool `json:"noQuotas,omitempty"`
}

const (
	fileName = "state.json"
	// magic is the first word of the file; its number rises when an older reader could misread it.
	magic = "evenkeel-state-1"
	// maxSize bounds what is read: a million endpoints at a kilobyte each.
	maxSize = 1 << 30
)

// ErrNone is returned by Load where no state was ever saved.
var ErrNone = errors.New("no saved state")

// Dir is a state directory.
type Dir struct{ path string }

// Open makes the directory if need be and proves that it can be read. Whether it can be written Save
// finds out: a full disk is no reason not to start.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if _, err := os.ReadDir(path); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	d := &Dir{path: path}
	d.clean()
	return d, nil
}

// clean removes what a process that was killed while it saved left behind.
func (d *Dir) clean() {
	left, err := filepath.Glob(filepath.Join(d.path, ".save-*"))
	if err != nil {
		return
	}
	for _, name := range left {
		_ = os.Remove(name) // on a disk that cannot be written it stays
	}
}

// Writable proves that files can be written now.
func (d *Dir) Writable() error {
	probe, err := os.CreateTemp(d.path, ".save-*")
	if err != nil {
		return err
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// Save replaces the saved state. What was saved before stays whole if it fails.
func (d *Dir) Save(state State) error {
	body, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encoding the state: %w", err)
	}
	if err := d.replace(fileName, magic, body); err != nil {
		return fmt.Errorf("saving the state: %w", err)
	}
	return nil
}

// replace writes a file, its magic and checksum first. It is the old one or the new one at any time.
func (d *Dir) replace(name, magic string, body []byte) error {
	sum := sha256.Sum256(body)
	temp, err := os.CreateTemp(d.path, ".save-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // fails after the rename, as it should
	_, err = fmt.Fprintf(temp, "%s %s\n", magic, hex.EncodeToString(sum[:]))
	if err == nil {
		_, err = temp.Write(body)
	}
	// The rename must not be on disk before the content is: after a power cut it would name an empty file.
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err != nil {
		return err
	}
	return os.Rename(temp.Name(), filepath.Join(d.path, name))
}

// Load reads the saved state. ErrNone: there is none. Any other error names the file and what is wrong
// with it; the state is then to be ignored.
func (d *Dir) Load() (State, error) {
	path := filepath.Join(d.path, fileName)
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, ErrNone
	} else if err != nil {
		return State{}, fmt.Errorf("reading the saved state: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return State{}, fmt.Errorf("reading the saved state: %w", err)
	}
	state, err := decode(content)
	if err != nil {
		return State{}, fmt.Errorf("%s: %w", path, err)
	}
	return state, nil
}

// decode is the inverse of what Save writes.
func decode(content []byte) (State, error) {
	if len(content) > maxSize {
		return State{}, fmt.Errorf("larger than %d bytes", maxSize)
	}
	body, err := verified(content, magic)
	if err != nil {
		return State{}, err
	}
	var state State
	if err := json.Unmarshal(body, &state); err != nil {
		return State{}, fmt.Errorf("content: %w", err)
	}
	return state, nil
}

// verified is what follows the magic and the checksum of a file, if both are right.
func verified(content []byte, magic string) ([]byte, error) {
	first, body, found := bytes.Cut(content, []byte("\n"))
	word, sum, _ := bytes.Cut(first, []byte(" "))
	if !found || string(word) != magic {
		return nil, fmt.Errorf("does not begin with %q: damaged, or written by another version", magic)
	}
	if want := sha256.Sum256(body); string(sum) != hex.EncodeToString(want[:]) {
		return nil, errors.New("checksum does not match: damaged")
	}
	return body, nil
}
