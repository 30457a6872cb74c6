package dir

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"evenkeel.io/controlplane/internal/source"
)

var rewrite = flag.Bool("update", false, "write the messages that are printed now as those that are expected")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// beside is a good file that every bad one stands next to.
const beside = `
apiVersion: v1
kind: Namespace
metadata: {name: bystander}
`

// TestBadFiles: testdata/bad/NAME.bad.yaml is refused with the words of NAME.bad.txt, and the file
// beside it is read all the same.
func TestBadFiles(t *testing.T) {
	files, _ := filepath.Glob("testdata/bad/*.bad.yaml")
	if len(files) < 100 {
		t.Errorf("%d kinds of bad files; expected 40 at least", len(files))
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(strings.TrimSuffix(name, ".bad.yaml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			write(t, dir, name, string(text))
			write(t, dir, "beside.yaml", beside)
			store, err := Load(dir)
			if err != nil {
				t.Fatal(err)
			}
			if store.Get(source.Ref{Kind: source.KindNamespace, Name: "bystander"}) == nil {
				t.Error("the good file beside it was not read")
			}
			var got strings.Builder
			for _, p := range store.Problems {
				got.WriteString(p.String() + "\n")
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *rewrite {
				write(t, ".", golden, got.String())
			}
			want, _ := os.ReadFile(golden)
			if diff := cmp.Diff(string(want), got.String()); diff != "" || got.Len() == 0 {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// TestGoodFiles: what an API server takes is taken.
func TestGoodFiles(t *testing.T) {
	store, err := Load("testdata/good")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range store.Problems {
		t.Error(p)
	}
	if store.Len() != 17 {
		t.Errorf("%d objects", store.Len())
	}
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
