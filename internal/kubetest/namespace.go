package kubetest

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// Namespace makes a namespace for the test. When the test ends, what it put there is deleted; the
// namespace itself stays, as only a controller would finish its deletion.
func (s *APIServer) Namespace(t testing.TB) string {
	t.Helper()
	const longest = 40
	name := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(t.Name()), "-"), "-")
	namespaces := s.apply.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{"generateName": name[:min(len(name), longest)] + "-"},
	}}
	created, err := namespaces.Create(t.Context(), object, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.empty(ctx, created.GetName()); err != nil {
			t.Errorf("namespace %s: %v", created.GetName(), err)
		}
	})
	return created.GetName()
}

// empty deletes the objects of a namespace, of all kinds that can be deleted so.
func (s *APIServer) empty(ctx context.Context, namespace string) error {
	lists, err := s.apply.kinds.ServerPreferredNamespacedResources()
	if err != nil {
		return err
	}
	now, background := int64(0), metav1.DeletePropagationBackground
	deletion := metav1.DeleteOptions{GracePeriodSeconds: &now, PropagationPolicy: &background}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return err
		}
		for _, resource := range list.APIResources {
			if !slices.Contains(resource.Verbs, "deletecollection") {
				continue
			}
			objects := s.apply.client.Resource(version.WithResource(resource.Name)).Namespace(namespace)
			if err := objects.DeleteCollection(ctx, deletion, metav1.ListOptions{}); err != nil {
				return err
			}
		}
	}
	return nil
}
