package lastgood

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/weights"
)

func saved(t *testing.T) (*Dir, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	dir, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	state := State{
		SavedAt:     time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		Services:    map[string]weights.MachineState{"shop/cart:8080": weights.NewMachine("shop/cart:8080").State()},
		Generations: map[string]Generation{"shop/edge": {Number: 7, Content: "c0ffee"}},
	}
	if err := dir.Save(state); err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Join(path, fileName)
}

func TestLoadReturnsWhatWasSaved(t *testing.T) {
	dir, _ := saved(t)
	state, err := dir.Load()
	if err != nil {
		t.Fatal(err)
	}
	if state.Generations["shop/edge"] != (Generation{Number: 7, Content: "c0ffee"}) || len(state.Services) != 1 || state.SavedAt.Year() != 2026 {
		t.Errorf("loaded %+v", state)
	}
}

func TestNothingSavedIsNotAnError(t *testing.T) {
	dir, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Load(); !errors.Is(err, ErrNone) {
		t.Errorf("got %v, want ErrNone", err)
	}
}

// TestDamageIsNoticed changes, cuts and replaces the file in ways that a disk or a person does.
func TestDamageIsNoticed(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"a flipped bit":    func(b []byte) []byte { b[len(b)-3] ^= 1; return b },
		"cut short":        func(b []byte) []byte { return b[:len(b)/2] },
		"empty":            func([]byte) []byte { return nil },
		"another version":  func(b []byte) []byte { return []byte(strings.Replace(string(b), magic, "evenkeel-state-9", 1)) },
		"not ours":         func([]byte) []byte { return []byte("{}\n") },
		"a changed digest": func(b []byte) []byte { b[len(magic)+3] ^= 1; return b },
	} {
		t.Run(name, func(t *testing.T) {
			dir, path := saved(t)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = dir.Load()
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want an error that names %s", err, path)
			}
		})
	}
}

func TestAFailedSaveKeepsTheOldState(t *testing.T) {
	dir, path := saved(t)
	before, _ := os.ReadFile(path)
	nan := State{Services: map[string]weights.MachineState{}, SavedAt: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)} // no JSON time
	if err := dir.Save(nan); err == nil {
		t.Fatal("a state that cannot be encoded was saved")
	}
	after, _ := os.ReadFile(path)
	if string(before) != string(after) {
		t.Error("the saved state changed")
	}
	files, _ := os.ReadDir(filepath.Dir(path))
	if len(files) != 1 {
		t.Errorf("%d files in the state directory, want 1", len(files))
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(magic + " 00\n{}"))
	f.Fuzz(func(_ *testing.T, content []byte) { _, _ = decode(content) })
}
