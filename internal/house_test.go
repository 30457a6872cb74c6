package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "evenkeel.io/controlplane/"

// edges are the imports that the house allows, room by room; "source/*" stands for the rooms below
// source. A room that is not named here does not exist yet: name it when it comes, and say with it
// which way its data flows.
var edges = map[string][]string{
	"api/v1alpha1":         {"internal/celx", "internal/re2"},
	"examples":             {},
	"internal/demo":        {},
	"internal/kubetest":    {"internal/demo"},
	"internal/limittest":   {"internal/demo"},
	"internal/transcript":  {},
	"internal/kubetest/up": {"internal/kubetest"},
	"internal/source":      {"api/v1alpha1"},
	"internal/audit":       {"internal/source"},
	"internal/adapt":       {"api/v1alpha1"},
	"internal/rlsconfig":   {"api/v1alpha1", "internal/re2"},
	"internal/catalog":     {"api/v1alpha1", "internal/re2", "internal/rlsconfig", "internal/source"},
	"internal/signals":     {},
	"internal/re2":         {},
	"internal/celx":        {"internal/re2"},
	"internal/health":      {},
	"internal/weights":     {"internal/signals", "internal/health"},

	"internal/source/admit":    {"api/v1alpha1", "internal/re2", "internal/source"},
	"internal/source/dir":      {"api/v1alpha1", "internal/source", "internal/source/admit"},
	"internal/source/guard":    {},
	"internal/source/kube":     {"api/v1alpha1", "internal/source", "internal/source/admit", "internal/source/guard"},
	"internal/signals/scrape":  {"api/v1alpha1", "internal/signals"},
	"internal/signals/promapi": {"api/v1alpha1", "internal/signals"},
	"internal/signals/lrs":     {"internal/signals"},

	"internal/auth":           {"internal/auth/identity"},
	"internal/auth/identity":  {},
	"internal/auth/authority": {},
	"internal/auth/authtest":  {"internal/auth/authority"},
	"internal/auth/pki":       {"internal/auth/authority", "internal/auth/identity"},

	"internal/rls":      {"api/v1alpha1", "internal/auth", "internal/auth/identity", "internal/rls/gcra", "internal/rls/wire", "internal/rlsconfig"},
	"internal/rls/gcra": {},
	"internal/rls/wire": {},

	"internal/translate":    {"api/v1alpha1", "internal/catalog", "internal/re2", "internal/rlsconfig", "internal/source", "internal/weights"},
	"internal/snapshot":     {"internal/celx", "internal/re2", "internal/rlsconfig", "internal/translate"},
	"internal/xds":          {"internal/auth", "internal/auth/identity", "internal/snapshot", "internal/translate", "internal/xds/session"},
	"internal/xds/session":  {"internal/snapshot", "internal/translate"},
	"internal/status":       {"api/v1alpha1", "internal/catalog", "internal/source", "internal/translate", "internal/weights", "internal/xds"},
	"internal/status/apply": {"api/v1alpha1", "internal/catalog", "internal/source", "internal/status"},
	"internal/lastgood":     {"internal/adapt", "internal/snapshot", "internal/translate", "internal/weights"},
	"internal/replica":      {"internal/adapt", "internal/signals", "internal/translate", "internal/weights", "internal/xds"},
	"internal/pipeline": {"api/v1alpha1", "internal/adapt", "internal/audit", "internal/catalog", "internal/lastgood", "internal/replica", "internal/signals", "internal/signals/lrs", "internal/signals/promapi", "internal/signals/scrape", "internal/rlsconfig",
		"internal/snapshot", "internal/source", "internal/translate", "internal/weights", "internal/xds"},
	"internal/admin": {"api/v1alpha1", "internal/adapt", "internal/rls", "internal/catalog", "internal/signals", "internal/snapshot",
		"internal/source", "internal/status", "internal/translate", "internal/weights", "internal/xds"},
}

// pure rooms are functions of their arguments and a given now.
var pure = []string{"internal/adapt", "internal/audit", "internal/catalog", "internal/weights", "internal/health", "internal/rls/gcra", "internal/rlsconfig", "internal/translate", "internal/status", "internal/source/admit", "internal/source/guard", "internal/xds/session", "internal/auth/identity"}

// impure is what a pure room may not import.
var impure = []string{"sync", "sync/atomic", "net", "net/http", "os", "context", "math/rand", "math/rand/v2"}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T) map[string]goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", module+"api/...", module+"internal/...", module+"examples/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]goPackage{}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages[strings.TrimPrefix(p.ImportPath, module)] = p
	}
	return packages
}

// TestImportsFlowOneWay holds the code against edges, both ways: an import that is not allowed, and a
// room that is allowed but gone.
func TestImportsFlowOneWay(t *testing.T) {
	packages := list(t)
	for _, room := range slices.Sorted(maps.Keys(packages)) {
		allowed, known := edges[room]
		if !known {
			if room != "internal" {
				t.Errorf("%s is a room that edges does not name", room)
			}
			continue
		}
		for _, imported := range packages[room].Imports {
			if to, ours := strings.CutPrefix(imported, module); ours && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s, which edges does not allow", room, to)
			}
		}
	}
	for room := range edges {
		if _, ok := packages[room]; !ok {
			t.Errorf("edges names %s, which does not exist", room)
		}
	}
}

// TestTheCoreIsPure keeps clocks, locks and I/O out of the rooms that decide.
func TestTheCoreIsPure(t *testing.T) {
	packages := list(t)
	for _, room := range pure {
		for _, imported := range packages[room].Imports {
			if slices.Contains(impure, imported) {
				t.Errorf("%s imports %s: the room is pure, what waits, reads or writes lives at the edge", room, imported)
			}
		}
		out, err := exec.Command("git", "grep", "-nE", `time\.(Now|Since|Until|After|Sleep|NewTimer|NewTicker)\(`, "--", ":(glob)../"+room+"/*.go", ":!*_test.go").Output()
		if err == nil && len(out) > 0 {
			t.Errorf("%s reads the clock:\n%s", room, out)
		}
	}
}
