package main

import (
	"strings"
	"testing"
)

// TestRenderByKindOfClient: a listener of an Envoy binds a port, one of a gRPC client none.
func TestRenderByKindOfClient(t *testing.T) {
	for kind, want := range map[string]string{"envoy": "filter_chains:", "grpc": "api_listener:"} {
		out, err := run(t, "render", "../../examples/quickstart", "--type", "lds", "--client", kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, sign := range []string{"filter_chains:", "api_listener:"} {
			if strings.Contains(out, sign) != (sign == want) {
				t.Errorf("%s in what clients of kind %s are served:\n%s", sign, kind, out)
			}
		}
	}
}
