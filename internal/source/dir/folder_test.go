package dir

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"evenkeel.io/controlplane/internal/source"
)

// service is a document. Its content differs with port.
func service(name string, port int) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {ports: [{port: %d}]}\n", name, port)
}

func serviceRef(name string) source.Ref {
	return source.Ref{Kind: source.KindService, Namespace: "default", Name: name}
}

// told is what a folder's Store holds: "name:port" of its Services.
func told(store *source.Store) string {
	var services []string
	for name, s := range store.Services {
		services = append(services, fmt.Sprintf("%s:%d", name.Name, s.Spec.Ports[0].Port))
	}
	slices.Sort(services)
	return strings.Join(services, " ")
}

// folderTest reads a directory step by step.
type folderTest struct {
	*testing.T
	*folder
}

func newFolderTest(t *testing.T) *folderTest {
	return &folderTest{t, &folder{dir: t.TempDir(), limits: defaultLimits}}
}

func (t *folderTest) write(name, text string) { t.Helper(); write(t.T, t.dir, name, text) }

func (t *folderTest) remove(name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(t.dir, name)); err != nil {
		t.Fatal(err)
	}
}

// expect reads the directory and checks the Services and the problems, each as "problem | kept".
func (t *folderTest) expect(services string, problems ...string) {
	t.Helper()
	if err := t.read(); err != nil {
		t.Fatal(err)
	}
	if got := told(t.store); got != services {
		t.Errorf("holds %q, want %q", got, services)
	}
	var got []string
	for _, p := range t.store.Problems {
		got = append(got, strings.ReplaceAll(p.String(), t.dir, "DIR")+" | "+p.Kept)
	}
	if !slices.Equal(got, problems) {
		t.Errorf("problems\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(problems, "\n"))
	}
}

func TestBadDocumentKeepsItsObject(t *testing.T) {
	f := newFolderTest(t)
	f.write("a.yaml", service("one", 1)+service("two", 1))
	f.expect("one:1 two:1")
	f.write("a.yaml", service("one", 2)+service("two", 99999))
	f.expect("one:2 two:1",
		"a.yaml:10: Service default/two: spec.ports[0].port: Invalid value: 99999: must be between 1 and 65535 | the version before stays in force")
	f.write("a.yaml", service("one", 3)+service("two", 2))
	f.expect("one:3 two:2")
	f.write("a.yaml", service("one", 3)+service("three", 0))
	f.expect("one:3",
		"a.yaml:10: Service default/three: spec.ports[0].port: Invalid value: 0: must be between 1 and 65535 | nothing: it was never accepted")
}

func TestTextThatIsNoYAMLKeepsWhatIsMissing(t *testing.T) {
	f := newFolderTest(t)
	f.write("a.yaml", service("one", 1)+service("two", 1)+service("three", 1))
	f.write("b.yaml", service("other", 1))
	f.expect("one:1 other:1 three:1 two:1")
	f.write("a.yaml", service("one", 2)+"---\nkind: [\n")
	f.write("b.yaml", service("other", 2))
	f.expect("one:2 other:2 three:1 two:1",
		"a.yaml:7: is not YAML: did not find expected node content | 2 objects that this may have been stay in force")
	f.write("a.yaml", service("one", 2)+service("three", 1))
	f.expect("one:2 other:2 three:1")
}

func TestDeletedFileTakesItsObjects(t *testing.T) {
	f := newFolderTest(t)
	f.write("a.yaml", service("one", 1))
	f.write("sub/b.yml", service("two", 1))
	f.expect("one:1 two:1")
	f.remove("sub/b.yml")
	f.expect("one:1")
}

func TestEmptyDirectoryChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFolderTest(t)
		f.write("a.yaml", service("one", 1))
		f.expect("one:1")
		one := f.store.Get(serviceRef("one"))
		const held = "DIR: the directory holds no objects any more | 1 object read before stay in force until it comes back"
		f.remove("a.yaml")
		f.expect("one:1", held)
		f.expect("one:1", held)

		f.write("a.yaml", "# nothing here\n")
		f.expect("one:1", held)

		// It comes back file by file, and is believed when it is all there.
		f.write("b.yaml", service("two", 1))
		f.expect("one:1", held)
		time.Sleep(settle - 1)
		f.write("a.yaml", service("one", 1))
		f.expect("one:1", held)
		time.Sleep(settle - 1)
		f.expect("one:1", held)
		time.Sleep(time.Nanosecond)
		f.expect("one:1 two:1")
		if f.store.Get(serviceRef("one")) != one {
			t.Error("an object that came back as it was is another")
		}
	})
}

func TestVanishedDirectoryChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFolderTest(t)
		f.write("a.yaml", service("one", 1))
		f.expect("one:1")
		away := f.dir + "-away"
		if err := os.Rename(f.dir, away); err != nil {
			t.Fatal(err)
		}
		f.expect("one:1", "DIR: the directory cannot be read: no such file or directory | 1 object read before stay in force until it comes back")
		write(t, filepath.Dir(f.dir), filepath.Base(f.dir), "a file in its place")
		f.expect("one:1", "DIR: the directory cannot be read: not a directory | 1 object read before stay in force until it comes back")
		if err := os.Remove(f.dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(away, f.dir); err != nil {
			t.Fatal(err)
		}
		f.read()
		if !f.unsettled() {
			t.Error("nothing asks for the second look")
		}
		time.Sleep(settle)
		f.expect("one:1")
	})
}

func TestFirstReading(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a directory that does not exist: %v", err)
	}
	newFolderTest(t).expect("", "DIR: no objects were found; expected them in files named *.yaml or *.yml | nothing: it is the first reading")
	f := newFolderTest(t)
	f.write("empty.yaml", "")
	f.write("a.yaml", service("one", 1))
	f.expect("one:1")
}

func TestEmptiedFileKeepsItsObjects(t *testing.T) {
	f := newFolderTest(t)
	f.write("a.yaml", service("one", 1))
	f.write("b.yaml", service("two", 1))
	f.expect("one:1 two:1")
	f.write("a.yaml", "")
	f.expect("one:1 two:1", "a.yaml: is empty; to remove its objects, delete the file | 1 object of it stay in force")
	f.write("a.yaml", "# removed on purpose\n")
	f.expect("two:1")
}

func TestFirstFileWins(t *testing.T) {
	f := newFolderTest(t)
	f.write("b.yaml", service("one", 2))
	f.expect("one:2")
	f.write("a.yaml", "# moved\n"+service("one", 1))
	f.expect("one:1", "b.yaml:2: Service default/one: stands in a.yaml:3 already | the one in a.yaml")
	f.remove("a.yaml")
	f.expect("one:2")
}

func TestUnreadableFileKeepsItsObjects(t *testing.T) {
	f := newFolderTest(t)
	f.write("a.yaml", service("one", 1))
	f.write("b.yaml", service("two", 1))
	f.expect("one:1 two:1")
	f.remove("a.yaml")
	if err := os.Symlink("nowhere", filepath.Join(f.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	f.expect("one:1 two:1", "a.yaml: cannot be read: no such file or directory | 1 object of it stay in force")
	f.remove("a.yaml")
	if err := syscall.Mkfifo(filepath.Join(f.dir, "a.yaml"), 0o644); err != nil {
		t.Fatal(err)
	}
	f.expect("one:1 two:1", "a.yaml: cannot be read: it is not a regular file | 1 object of it stay in force")
	f.remove("a.yaml")
	f.write("a.yaml", service("one", 1))
	f.expect("one:1 two:1")
	if os.Geteuid() == 0 {
		return // to whom nothing is forbidden
	}
	for _, path := range []string{"b.yaml", "."} {
		if err := os.Chmod(filepath.Join(f.dir, path), 0); err != nil {
			t.Fatal(err)
		}
		f.read()
		if got := told(f.store); got != "one:1 two:1" || len(f.store.Problems) == 0 {
			t.Errorf("without the right to read %s: %q, problems %v", path, got, f.store.Problems)
		}
		os.Chmod(filepath.Join(f.dir, path), 0o755)
	}
}

func TestLimits(t *testing.T) {
	f := newFolderTest(t)
	f.write("a.yaml", service("one", 1))
	f.write("b.yaml", service("two", 1))
	f.write("c.yaml", service("three", 1))
	f.expect("one:1 three:1 two:1")

	f.limits.fileBytes = 200
	f.write("a.yaml", service("one", 2)+strings.Repeat("#", 200))
	f.expect("one:1 three:1 two:1", "a.yaml: is larger than 200 bytes | 1 object of it stay in force")
	f.write("a.yaml", service("one", 2))
	f.limits = defaultLimits

	f.limits.files = 2
	f.write("c.yaml", service("three", 2))
	f.expect("one:2 three:1 two:1",
		"the directory has more than 2 files; those after b.yaml are not read | 1 object read there before stay in force")
	f.limits = defaultLimits
	f.expect("one:2 three:2 two:1")

	f.limits.allBytes = int64(len(service("one", 2) + service("two", 1)))
	f.write("c.yaml", service("three", 3))
	f.expect("one:2 three:2 two:1", fmt.Sprintf(
		"c.yaml: is not read: the files before it have more than %d bytes together | 1 object of it stay in force", f.limits.allBytes))
	f.limits = defaultLimits

	f.write("c.yaml", strings.Repeat("---\nhello\n", maxProblems+7))
	f.read()
	if n, last := len(f.store.Problems), f.store.Problems[len(f.store.Problems)-1].Message; n != maxProblems+1 || !strings.HasPrefix(last, "7 more") {
		t.Errorf("%d problems, the last %q", n, last)
	}
}

func TestSymlinks(t *testing.T) {
	f := newFolderTest(t)
	elsewhere := t.TempDir()
	write(t, elsewhere, "one.yaml", service("one", 1))
	write(t, elsewhere, "sub/two.yaml", service("two", 1))
	for link, target := range map[string]string{
		"one.yaml": filepath.Join(elsewhere, "one.yaml"), "sub": filepath.Join(elsewhere, "sub"), "loop": f.dir,
	} {
		if err := os.Symlink(target, filepath.Join(f.dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	f.write(".hidden.yaml", service("hidden", 1))
	f.write(".git/config.yaml", service("hidden", 1))
	f.write("notes.txt", "not for us")
	f.expect("one:1 two:1")
}

func TestWhatDidNotChangeIsTheSame(t *testing.T) {
	f := newFolderTest(t)
	f.write("a.yaml", service("one", 1)+service("two", 1))
	f.expect("one:1 two:1")
	store, one, two := f.store, f.store.Get(serviceRef("one")), f.store.Get(serviceRef("two"))
	if one.GetUID() == "" || one.GetUID() == two.GetUID() || one.GetGeneration() != 1 {
		t.Errorf("uid %s and %s, generation %d", one.GetUID(), two.GetUID(), one.GetGeneration())
	}
	f.expect("one:1 two:1")
	if f.store != store {
		t.Error("a Store of the same is another Store")
	}

	f.write("a.yaml", "# a comment moves the lines\n"+service("one", 1)+service("two", 2))
	f.expect("one:1 two:2")
	if f.store.Get(serviceRef("one")) != one {
		t.Error("an object whose content is the same is another")
	}
	now := f.store.Get(serviceRef("two"))
	if now.GetUID() != two.GetUID() || now.GetGeneration() <= two.GetGeneration() {
		t.Errorf("uid %s then %s, generation %d then %d", two.GetUID(), now.GetUID(), two.GetGeneration(), now.GetGeneration())
	}
	if line := f.store.Origins[serviceRef("two")].LineOf("spec.ports[0].port"); line != 11 {
		t.Errorf("the port is in line 11, not %d", line)
	}

	// Moved to another file, and taken away and brought back.
	f.remove("a.yaml")
	f.write("b.yaml", service("one", 1))
	f.expect("one:1")
	if f.store.Get(serviceRef("one")) != one {
		t.Error("an object that moved to another file is another")
	}
	f.write("b.yaml", service("one", 1)+service("two", 2))
	f.expect("one:1 two:2")
	if back := f.store.Get(serviceRef("two")); back.GetGeneration() <= now.GetGeneration() {
		t.Errorf("generation %d, then again %d", now.GetGeneration(), back.GetGeneration())
	}
}

// TestChangeThatLeavesNoTrace: the clock of a file system may not tick between two writes.
func TestChangeThatLeavesNoTrace(t *testing.T) {
	f := newFolderTest(t)
	now := time.Now()
	for port := 1; port < 4; port++ {
		f.write("a.yaml", service("one", port))
		if err := os.Chtimes(filepath.Join(f.dir, "a.yaml"), now, now); err != nil {
			t.Fatal(err)
		}
		f.expect(fmt.Sprintf("one:%d", port))
	}
}
