package manifests

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/internal/kubetest"
)

// TestServiceAccountMayDoNoMore: kubectl auth can-i --list, for our ServiceAccount in its own namespace
// and in any other, is what testdata says.
func TestServiceAccountMayDoNoMore(t *testing.T) {
	server := kubetest.Shared(t)
	for _, object := range render(t, server, filepath.Join(root, "base")) {
		if object.GroupVersionKind().Group == "rbac.authorization.k8s.io" || object.GetKind() == "Namespace" {
			if _, err := server.ApplyObject(t.Context(), "", object, metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, namespace := range []string{"evenkeel-system", "default"} {
		golden := filepath.Join("testdata", "can-i."+namespace+".txt")
		list := func() string {
			return kubectl(t, server, "auth", "can-i", "--list", "--namespace", namespace,
				"--as", "system:serviceaccount:evenkeel-system:evenkeel-controlplane")
		}
		if *update {
			if err := os.WriteFile(golden, []byte(list()), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		// The API server's authorizer learns of new rules from a watch.
		got := list()
		for got != string(want) && ctx.Err() == nil {
			time.Sleep(50 * time.Millisecond)
			got = list()
		}
		if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
			t.Errorf("%s: -want +got\n%s", golden, diff)
		}
	}
}
