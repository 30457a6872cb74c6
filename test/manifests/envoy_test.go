package manifests

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"evenkeel.io/controlplane/internal/demo"
)

// TestAdminScript: the script of the example's probe and preStop hook, on a real Envoy.
func TestAdminScript(t *testing.T) {
	path, err := demo.FindEnvoy()
	if err != nil {
		t.Skip(err)
	}
	port, err := demo.FreePort(0, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	shipped, err := os.ReadFile(filepath.Join(root, "examples/envoy/admin.sh"))
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "admin.sh")
	if err := os.WriteFile(script, []byte(strings.Replace(string(shipped), "/9901", fmt.Sprintf("/%d", port), 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	ask := func(method, path string) bool {
		return exec.CommandContext(t.Context(), "bash", script, method, path).Run() == nil
	}
	if ask("GET", "/ready") {
		t.Fatal("an Envoy that does not run is ready")
	}
	envoy, err := demo.StartEnvoy(demo.EnvoyOptions{
		Path: path, Name: "envoy", Dir: dir, AdminURL: fmt.Sprintf("http://127.0.0.1:%d", port), Concurrency: 1,
		Bootstrap: fmt.Appendf(nil, "admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}\n", port),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(envoy.Kill)
	if err := envoy.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !ask("GET", "/ready") {
		t.Error("an Envoy that is ready is not")
	}
	if !ask("POST", "/healthcheck/fail") {
		t.Error("the Envoy cannot be told to drain")
	}
	if ask("GET", "/ready") {
		t.Error("an Envoy that drains is ready")
	}
}
