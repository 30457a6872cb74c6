// Package lastgood keeps on disk what a restart needs to go on from the same weights: the state of
// every Service's weight machine and the fleets' generation numbers.
//
// There is one file, replaced as a whole: a reader sees the old state or the new one. A file that is
// damaged, from another version or too large is left aside with an error, and the control plane
// starts from its priors as if there had been none.
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

	"evenkeel.io/controlplane/internal/weights"
)

// State is what a restart goes on from.
type State struct {
	SavedAt time.Time `json:"savedAt"`
	// Services are the weight machines' states by Service name.
	Services map[string]weights.MachineState `json:"services"`
	// Frozen says that an operator froze all services, those to come included.
	Frozen bool `json:"frozen,omitempty"`
	// Generations are the fleets' newest, by fleet name.
	Generations map[string]Generation `json:"generations"`
}

// Generation is the number of a fleet's newest generation, and the version of its content, by which a
// restart tells whether anything changed meanwhile.
type Generation struct {
	Number  uint64 `json:"number"`
	Content string `json:"content"`
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

// Open makes the directory if need be and proves that it can be written.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	probe, err := os.CreateTemp(path, ".probe-*")
	if err != nil {
		return nil, fmt.Errorf("state directory cannot be written: %w", err)
	}
	probe.Close()
	if err := os.Remove(probe.Name()); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	return &Dir{path: path}, nil
}

// Save replaces the saved state. What was saved before stays whole if it fails.
func (d *Dir) Save(state State) error {
	body, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encoding the state: %w", err)
	}
	sum := sha256.Sum256(body)
	temp, err := os.CreateTemp(d.path, ".state-*")
	if err != nil {
		return fmt.Errorf("saving the state: %w", err)
	}
	defer os.Remove(temp.Name()) // fails after the rename, as it should
	_, err = fmt.Fprintf(temp, "%s %s\n%s", magic, hex.EncodeToString(sum[:]), body)
	// The rename must not be on disk before the content is: after a power cut it would name an empty file.
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), filepath.Join(d.path, fileName))
	}
	if err != nil {
		return fmt.Errorf("saving the state: %w", err)
	}
	return nil
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
	head, body, found := bytes.Cut(content, []byte("\n"))
	word, sum, _ := bytes.Cut(head, []byte(" "))
	if !found || string(word) != magic {
		return State{}, fmt.Errorf("does not begin with %q: damaged, or written by another version", magic)
	}
	if want := sha256.Sum256(body); string(sum) != hex.EncodeToString(want[:]) {
		return State{}, errors.New("checksum does not match: damaged")
	}
	var state State
	if err := json.Unmarshal(body, &state); err != nil {
		return State{}, fmt.Errorf("content: %w", err)
	}
	return state, nil
}
