package manifests

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"evenkeel.io/controlplane/internal/kubetest"
)

// others are the projects whose kinds our overlays use. Their CRDs lie in their modules.
var others = []struct {
	module, version, sum string
	crds                 []string
}{
	{
		"github.com/cert-manager/cert-manager", "v1.21.2", "h1:UWgoYM+KLNtRlqmoWOKjKBOBUPVHeepQ6/ac3ERJW68=",
		[]string{"deploy/crds/cert-manager.io_issuers.yaml", "deploy/crds/cert-manager.io_clusterissuers.yaml", "deploy/crds/cert-manager.io_certificates.yaml"},
	},
	{
		"github.com/prometheus-operator/prometheus-operator", "v0.85.0", "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
		[]string{"example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml", "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"},
	},
}

// installOthersCRDs has the API server know the kinds of others as a cluster with them does.
func installOthersCRDs(t *testing.T, server *kubetest.APIServer) {
	t.Helper()
	for _, other := range others {
		cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", other.module+"@"+other.version)
		cmd.Dir = t.TempDir() // of no module, whose dependencies it would look at
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
		out, err := cmd.Output()
		var module struct{ Dir, Sum, Error string }
		_ = json.Unmarshal(out, &module)
		switch {
		case err != nil && os.Getenv(kubetest.RequireEnv) == "":
			t.Skipf("%s is not to be had: %v %s", other.module, err, module.Error)
		case err != nil:
			t.Fatalf("%s: %v %s", other.module, err, module.Error)
		case module.Sum != other.sum:
			t.Fatalf("%s %s is %s, expected %s", other.module, other.version, module.Sum, other.sum)
		}
		var files []string
		for _, crd := range other.crds {
			files = append(files, filepath.Join(module.Dir, crd))
		}
		if err := server.InstallCRDFiles(t.Context(), files...); err != nil {
			t.Fatal(err)
		}
	}
}
