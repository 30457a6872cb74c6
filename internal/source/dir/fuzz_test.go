package dir

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"evenkeel.io/controlplane/internal/source"
)

// FuzzFile: whatever a file says, nothing panics, the objects of the file beside it stay the very same,
// an object is accepted or has a problem, and the file read again says the same.
func FuzzFile(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.yaml", "testdata/good/*", "../../../examples/*/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		found, _ := documents("fuzz.yaml", text)
		for _, d := range found {
			if (d.object == nil) == (len(d.issues) == 0) {
				t.Fatalf("%v is neither accepted nor refused: %v", d.ref, d.issues)
			}
			if d.object != nil && (d.ref != source.RefOf(d.object) || d.ref.Name == "") {
				t.Fatalf("%v is %v", d.ref, source.RefOf(d.object))
			}
			for _, i := range d.issues {
				if i.line < 1 || i.line > strings.Count(string(text), "\n")+2 || i.message == "" {
					t.Fatalf("%v: issue %+v", d.ref, i)
				}
			}
		}

		bystander := source.Ref{Kind: source.KindNamespace, Name: "bystander"}
		dir := t.TempDir()
		write(t, dir, "0.yaml", beside)
		folder := &folder{dir: dir, limits: defaultLimits}
		if err := folder.read(); err != nil {
			t.Fatal(err)
		}
		before := folder.store.Get(bystander)
		write(t, dir, "fuzz.yaml", string(text))
		for range 2 {
			if err := folder.read(); err != nil {
				t.Fatal(err)
			}
			if folder.store.Get(bystander) != before {
				t.Fatal("the file beside it suffered")
			}
		}
		for _, p := range folder.store.Problems {
			if strings.Contains(p.Message, "cannot be understood") {
				t.Fatal(p)
			}
		}
	})
}
