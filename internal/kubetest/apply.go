package kubetest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"
)

// fieldManager owns the fields that tests apply.
const fieldManager = "kubetest"

// applier writes objects of any kind, as kubectl apply --server-side does.
type applier struct {
	client dynamic.Interface
	kinds  discovery.CachedDiscoveryInterface
	mapper *restmapper.DeferredDiscoveryRESTMapper
}

func newApplier(config *rest.Config) (applier, error) {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return applier{}, err
	}
	kinds, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return applier{}, err
	}
	cached := memory.NewMemCacheClient(kinds)
	return applier{client, cached, restmapper.NewDeferredDiscoveryRESTMapper(cached)}, nil
}

// Apply writes the objects of YAML documents server-side and strictly: a field that the schema has not is
// an error. Objects that name no namespace go to the one given. The status of an object whose kind has
// it as a subresource is not written.
func (s *APIServer) Apply(ctx context.Context, namespace, documents string) error {
	objects, err := Decode([]byte(documents))
	if err != nil {
		return err
	}
	var errs []error
	for _, object := range objects {
		_, err := s.ApplyObject(ctx, namespace, object, metav1.PatchOptions{})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ApplyObject writes one object as Apply does, and returns it as the API server has it then.
func (s *APIServer) ApplyObject(ctx context.Context, namespace string, object *unstructured.Unstructured, options metav1.PatchOptions) (*unstructured.Unstructured, error) {
	client, err := s.client(namespace, object)
	if err != nil {
		return nil, err
	}
	options.FieldManager, options.FieldValidation = fieldManager, metav1.FieldValidationStrict
	force := true
	options.Force = &force
	body, err := object.MarshalJSON()
	if err != nil {
		return nil, err
	}
	applied, err := client.Patch(ctx, object.GetName(), "application/apply-patch+yaml", body, options)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
	}
	return applied, nil
}

// client is where objects of this kind and namespace are written.
func (s *APIServer) client(namespace string, object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := object.GroupVersionKind()
	mapping, err := s.apply.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, err
	}
	resource := s.apply.client.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return resource, nil
	}
	if given := object.GetNamespace(); given != "" {
		namespace = given
	}
	return resource.Namespace(namespace), nil
}

// Decode reads the objects of YAML documents. Documents that say nothing are left out, lists are taken
// apart.
func Decode(documents []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(documents)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		object := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict(document, &object.Object); err != nil {
			return nil, err
		}
		switch {
		case len(object.Object) == 0:
		case object.IsList():
			if err := object.EachListItem(func(item runtime.Object) error {
				objects = append(objects, item.(*unstructured.Unstructured))
				return nil
			}); err != nil {
				return nil, err
			}
		default:
			objects = append(objects, object)
		}
	}
}

// InstallCRDs installs the CRDs of Gateway API's standard channel, at the version of our go.mod, and our
// own, and returns when their kinds are served.
func (s *APIServer) InstallCRDs(ctx context.Context) error {
	folders, err := crdFolders()
	if err != nil {
		return err
	}
	var files []string
	for _, folder := range folders {
		found, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
		if err != nil {
			return err
		}
		files = append(files, found...)
	}
	return s.InstallCRDFiles(ctx, files...)
}

// InstallCRDFiles installs the CRDs in files, and returns when their kinds are served.
func (s *APIServer) InstallCRDFiles(ctx context.Context, files ...string) error {
	crds, err := readCRDs(files)
	if err != nil {
		return err
	}
	for _, crd := range crds {
		if _, err := s.ApplyObject(ctx, "", crd, metav1.PatchOptions{}); err != nil {
			return err
		}
	}
	for _, crd := range crds {
		if err := s.waitServed(ctx, crd); err != nil {
			return fmt.Errorf("%s is not served: %w", crd.GetName(), err)
		}
	}
	return nil
}

// readCRDs reads the CRDs and passes over what else lies beside them.
func readCRDs(files []string) ([]*unstructured.Unstructured, error) {
	var crds []*unstructured.Unstructured
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		objects, err := Decode(content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		crds = append(crds, slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool {
			return o.GetKind() != "CustomResourceDefinition"
		})...)
	}
	return crds, nil
}

// crdFolders are the folders that InstallCRDs reads.
func crdFolders() ([]string, error) {
	ours, err := moduleDir("evenkeel.io/controlplane")
	if err != nil {
		return nil, err
	}
	gateway, err := moduleDir("sigs.k8s.io/gateway-api")
	if err != nil {
		return nil, err
	}
	return []string{filepath.Join(ours, "manifests", "crds"), filepath.Join(gateway, "config", "crd", "standard")}, nil
}

// moduleDir asks the go command where a module lies, ours or one that we need.
func moduleDir(module string) (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("go list -m %s: %w", module, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// waitServed waits until discovery knows all versions of a CRD that are to be served.
func (s *APIServer) waitServed(ctx context.Context, crd *unstructured.Unstructured) error {
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		version := v.(map[string]any)
		if version["served"] != true {
			continue
		}
		for {
			_, err := s.apply.mapper.RESTMapping(schema.GroupKind{Group: group, Kind: kind}, version["name"].(string))
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(20 * time.Millisecond):
				s.apply.mapper.Reset()
			}
		}
	}
	return nil
}
