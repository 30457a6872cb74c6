package main

import (
	"bytes"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func tryBootstrap(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := newBootstrapCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetOut(&out)
	cmd.SetArgs(append([]string{"--fleet", "shop/edge"}, args...))
	err := cmd.Execute()
	return out.String(), err
}

// TestBootstrapOutput: what the bootstrap names is what is written beside it, wherever that is mounted.
func TestBootstrapOutput(t *testing.T) {
	printed, err := tryBootstrap("--tls-dir", "/tls")
	if err != nil || strings.Contains(printed, "sds") {
		t.Errorf("printed alone it names files that nobody wrote: %v\n%s", err, printed)
	}
	for mountedAt, want := range map[string]string{"": "", "/config": "/config"} {
		dir := filepath.Join(t.TempDir(), "edge")
		args := []string{"--tls-dir", "/tls", "--output", dir}
		if mountedAt != "" {
			args = append(args, "--mounted-at", mountedAt)
		}
		if want == "" {
			want = dir
		}
		if out, err := tryBootstrap(args...); err != nil || out != "" {
			t.Fatalf("%v, %s", err, out)
		}
		files := tree(t, dir)
		if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, []string{"envoy.yaml", "sds-authority.yaml", "sds-certificate.yaml"}) {
			t.Errorf("files %v", got)
		}
		for _, name := range []string{"sds-authority.yaml", "sds-certificate.yaml"} {
			if !strings.Contains(files["envoy.yaml"], "path: "+want+"/"+name) {
				t.Errorf("mounted at %q: %s is not named", mountedAt, name)
			}
		}
	}
	dir := t.TempDir()
	if _, err := tryBootstrap("--output", dir); err != nil || len(tree(t, dir)) != 1 {
		t.Errorf("in plaintext: %v, %v", err, tree(t, dir))
	}
	if _, err := tryBootstrap("--mounted-at", "/config"); exitCode(err) != exitUsage || !strings.Contains(err.Error(), "--output") {
		t.Errorf("%v", err)
	}
}
