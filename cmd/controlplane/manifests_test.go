package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// containers are those of our image in the workloads of a file.
func containers(t *testing.T, file string) []corev1.Container {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var found []corev1.Container
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var workload struct {
			Spec struct {
				Template struct {
					Spec struct {
						Containers []corev1.Container `json:"containers"`
					} `json:"spec"`
				} `json:"template"`
			} `json:"spec"`
		}
		if err := yaml.Unmarshal(document, &workload); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, c := range workload.Spec.Template.Spec.Containers {
			if c.Image == "evenkeel/controlplane:dev" {
				found = append(found, c)
			}
		}
	}
	return found
}

// TestManifestsSayWhatWeUnderstand: each argument and variable of a container of our image is one that the
// command has.
func TestManifestsSayWhatWeUnderstand(t *testing.T) {
	seen := 0
	for _, file := range []string{"manifests/base/deployment.yaml", "hack/kind/demo/backends.yaml", "hack/kind/demo/envoy.yaml"} {
		for _, c := range containers(t, filepath.Join("../..", file)) {
			seen++
			root := newRootCommand()
			cmd, flags, err := root.Find(c.Args)
			if err != nil || cmd == root {
				t.Errorf("%s: %v: there is no such command: %v", file, c.Args, err)
				continue
			}
			if err := cmd.ParseFlags(flags); err != nil {
				t.Errorf("%s: %v: %v", file, c.Args, err)
			}
			if err := cmd.Args(cmd, cmd.Flags().Args()); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			for _, variable := range c.Env {
				name, ours := strings.CutPrefix(variable.Name, "EVENKEEL_")
				flag := strings.ToLower(strings.ReplaceAll(name, "_", "-"))
				if ours && cmd.Flags().Lookup(flag) == nil {
					t.Errorf("%s: %s sets --%s, which %s has not", file, variable.Name, flag, cmd.CommandPath())
				}
			}
		}
	}
	if seen != 4 {
		t.Errorf("%d containers of our image, expected 4", seen)
	}
}

// TestEnvoyExampleIsOfOurBootstrap: manifests/examples/envoy/config is what the command in the example's
// kustomization makes. -update makes it.
func TestEnvoyExampleIsOfOurBootstrap(t *testing.T) {
	const example = "../../manifests/examples/envoy"
	kustomization, err := os.ReadFile(filepath.Join(example, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`#   controlplane (bootstrap (?s:.*?[^\\]))\n`).FindSubmatch(kustomization)
	if match == nil {
		t.Fatal("no command in kustomization.yaml")
	}
	line := strings.NewReplacer("\\\n#", "", "NAMESPACE/GATEWAY", "shop/edge").Replace(string(match[1]))
	args := strings.Fields(line)
	made := t.TempDir()
	output := slices.Index(args, "--output") + 1
	args[output] = made
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(io.Discard)
	if err := root.Execute(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	want := folderOfFiles(t, made)
	if *update {
		for name, text := range want {
			if err := os.WriteFile(filepath.Join(example, "config", name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if diff := cmp.Diff(want, folderOfFiles(t, filepath.Join(example, "config"))); diff != "" {
		t.Errorf("controlplane %s (-want +got; -update writes it anew):\n%s", line, diff)
	}
}

func folderOfFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(name)] = string(text)
	}
	return files
}
