package manifests

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const repository = "../.."

// TestImageBuild runs the build command of the Dockerfile. What it makes must run where there is nothing
// else, and hold nothing of the machine that made it.
func TestImageBuild(t *testing.T) {
	dockerfile, err := os.ReadFile(filepath.Join(repository, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`(?m)^  (CGO_ENABLED=0 (?:.*\\\n)*.*)$`).FindSubmatch(dockerfile)
	if match == nil {
		t.Fatal("no build command in the Dockerfile")
	}
	program := filepath.Join(t.TempDir(), "controlplane")
	command := strings.Replace(string(match[1]), "/out/controlplane", program, 1)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
	cmd.Dir = repository
	cmd.Env = append(os.Environ(), "TARGETOS=linux", "TARGETARCH="+runtime.GOARCH, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	binary, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	if slices.ContainsFunc(binary.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Error("the program needs a loader, and the image has none")
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs(repository)
	if err != nil {
		t.Fatal(err)
	}
	for _, trace := range []string{here, os.Getenv("HOME") + "/go/", "vcs.revision"} {
		if bytes.Contains(content, []byte(trace)) {
			t.Errorf("the program holds %q", trace)
		}
	}
	if keeper := "text/template.(*state).evalField"; bytes.Contains(content, []byte(keeper)) {
		t.Errorf("the program has %s, which finds methods by name: the linker keeps those of all types, 18 MB", keeper)
	}
}

// TestImageContext: .dockerignore lets through all folders that the program is built of.
func TestImageContext(t *testing.T) {
	ignore, err := os.ReadFile(filepath.Join(repository, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(ignore)) {
		if folder, ok := strings.CutPrefix(strings.TrimSpace(line), "!"); ok {
			kept = append(kept, folder)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", `{{if and .Module .Module.Main}}{{.ImportPath}}{{end}}`, "./cmd/controlplane")
	cmd.Dir = repository
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		folder, _, _ := strings.Cut(strings.TrimPrefix(path, "evenkeel.io/controlplane/"), "/")
		if !slices.Contains(kept, folder) {
			t.Errorf("%s is not in the image's context", path)
		}
	}
}
