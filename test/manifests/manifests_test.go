// Package manifests holds what we ship against a real API server: the CRDs, the RBAC rules and every
// other manifest.
package manifests

import (
	"testing"

	"go.uber.org/goleak"
	"k8s.io/client-go/kubernetes"

	"evenkeel.io/controlplane/internal/kubetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(kubetest.Main(m)) }

func clientFor(t *testing.T, server *kubetest.APIServer) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	return client
}
