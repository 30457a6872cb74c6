// Package manifests holds what we ship against a real API server: the CRDs, the RBAC rules and every
// other manifest.
package manifests

import (
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"

	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/kubetest"
)

var update = flag.Bool("update", false, "write what is now as what is expected")

func TestMain(m *testing.M) { goleak.VerifyTestMain(kubetest.Main(m)) }

const root = "../../manifests"

func clientFor(t *testing.T, server *kubetest.APIServer) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// kubectl runs the real one, as a user would.
func kubectl(t *testing.T, server *kubetest.APIServer, arguments ...string) string {
	t.Helper()
	program, err := demo.FindTool("kubectl")
	if err != nil {
		t.Fatal("no kubectl: hack/tools.sh kube builds one")
	}
	arguments = append([]string{"--kubeconfig", server.Kubeconfig(), "--cache-dir", t.TempDir()}, arguments...)
	out, err := exec.CommandContext(t.Context(), program, arguments...).Output()
	if err != nil {
		message := ""
		if exit, ok := err.(*exec.ExitError); ok {
			message = string(exit.Stderr)
		}
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(arguments, " "), err, message)
	}
	return string(out)
}

// render is what kubectl apply -k would send of a folder.
func render(t *testing.T, server *kubetest.APIServer, folder string) []*unstructured.Unstructured {
	t.Helper()
	objects, err := kubetest.Decode([]byte(kubectl(t, server, "kustomize", folder)))
	if err != nil {
		t.Fatalf("%s: %v", folder, err)
	}
	return objects
}

// folders are where kustomizations are looked for.
var folders = []string{root, "../../hack/kind/demo"}

// TestEveryManifestIsTaken renders every kustomization and has the API server look at each object,
// strictly, and at the Pods of each workload in a namespace of the Pod Security level restricted.
func TestEveryManifestIsTaken(t *testing.T) {
	server := kubetest.Shared(t)
	installOthersCRDs(t, server)
	const restricted = "restricted"
	if err := server.Apply(t.Context(), "", `
{apiVersion: v1, kind: Namespace, metadata: {name: restricted, labels: {pod-security.kubernetes.io/enforce: restricted}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: cert-manager}}
`); err != nil {
		t.Fatal(err)
	}
	rendered := map[string]bool{} // by kind and name
	kustomizations, files := walk(t)
	for _, folder := range kustomizations {
		t.Run(folder, func(t *testing.T) {
			for _, object := range render(t, server, folder) {
				rendered[object.GetKind()+" "+object.GetName()] = true
				options := metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}
				if object.GetKind() == "Namespace" {
					options.DryRun = nil // what lies in it can only be looked at if it is there
				}
				if _, err := server.ApplyObject(t.Context(), metav1.NamespaceDefault, object, options); err != nil {
					t.Error(err)
				}
				if pod := podOf(object); pod != nil {
					if _, err := server.ApplyObject(t.Context(), restricted, pod, metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
						t.Errorf("Pods of %s %s: %v", object.GetKind(), object.GetName(), err)
					}
				}
			}
		})
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		objects, err := kubetest.Decode(content)
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
		for _, object := range objects {
			if object.GetKind() != "" && !rendered[object.GetKind()+" "+object.GetName()] {
				t.Errorf("%s: %s %s is in no kustomization", file, object.GetKind(), object.GetName())
			}
		}
	}
}

// walk finds the kustomizations that can be rendered by themselves, and all other YAML files.
func walk(t *testing.T) (kustomizations, files []string) {
	t.Helper()
	for _, folder := range folders {
		err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".yaml" {
				return err
			}
			if entry.Name() != "kustomization.yaml" {
				files = append(files, path)
				return nil
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if !strings.Contains(string(content), "\nkind: Component\n") {
				kustomizations = append(kustomizations, filepath.Dir(path))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return kustomizations, files
}

// podOf is a Pod as a workload would make it; nil if the object is none.
func podOf(workload *unstructured.Unstructured) *unstructured.Unstructured {
	spec, found, _ := unstructured.NestedMap(workload.Object, "spec", "template", "spec")
	if !found {
		return nil
	}
	labels, _, _ := unstructured.NestedMap(workload.Object, "spec", "template", "metadata", "labels")
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": workload.GetName(), "labels": labels}, "spec": spec,
	}}
}
