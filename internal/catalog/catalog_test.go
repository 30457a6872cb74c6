package catalog

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/source"
)

var update = flag.Bool("update", false, "write what the stories give into their files")

// TestStories runs testdata/*.txtar. A story is a sequence of files: every *.yaml replaces the objects
// in the Store that it names (a document with only kind, metadata and `deleted: true` removes one), and
// every *.want is what the catalog says then.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no stories", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			story, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			opts := Options{AllowLoopback: strings.Contains(string(story.Comment), "AllowLoopback")}
			store := &source.Store{}
			var c *Catalog
			for i, f := range story.Files {
				if strings.HasSuffix(f.Name, ".yaml") {
					store = with(t, store, string(f.Data))
					c = Build(c, store, opts)
					continue
				}
				got := picture(c)
				if *update {
					story.Files[i].Data = []byte(got)
				} else if got != string(f.Data) {
					t.Errorf("%s:\n%s\nwant:\n%s", f.Name, got, f.Data)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(story), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// picture is the catalog as the stories have it. Services without endpoints and policy are left out,
// and so are verdicts that say nothing.
func picture(c *Catalog) string {
	var b strings.Builder
	b.WriteString(c.Describe())
	for _, v := range c.Verdicts {
		line := v.Describe()
		if strings.HasSuffix(line, ": Accepted") && (v.Object.Kind == source.KindService || v.Object.Kind == source.KindEndpointSlice || v.Object.Kind == source.KindGatewayClass) {
			continue
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// with is the Store with the objects of the YAML in place of those of the same names. What does not
// change is shared, as sources do.
func with(t testing.TB, store *source.Store, text string) *source.Store {
	t.Helper()
	next := *store
	for _, document := range strings.Split("\n"+text, "\n---") {
		var head struct {
			metav1.TypeMeta `json:",inline"`
			Metadata        metav1.ObjectMeta `json:"metadata"`
			Deleted         bool              `json:"deleted"`
		}
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			t.Fatal(err, document)
		}
		name := types.NamespacedName{Namespace: head.Metadata.Namespace, Name: head.Metadata.Name}
		switch head.Kind {
		case "":
		case source.KindGatewayClass:
			put[gatewayv1.GatewayClass](t, &next.GatewayClasses, name, document, head.Deleted)
		case source.KindGateway:
			put[gatewayv1.Gateway](t, &next.Gateways, name, document, head.Deleted)
		case source.KindHTTPRoute:
			put[gatewayv1.HTTPRoute](t, &next.HTTPRoutes, name, document, head.Deleted)
		case source.KindReferenceGrant:
			put[gatewayv1.ReferenceGrant](t, &next.ReferenceGrants, name, document, head.Deleted)
		case source.KindService:
			put[corev1.Service](t, &next.Services, name, document, head.Deleted)
		case source.KindEndpointSlice:
			put[discoveryv1.EndpointSlice](t, &next.EndpointSlices, name, document, head.Deleted)
		case source.KindPod:
			put[corev1.Pod](t, &next.Pods, name, document, head.Deleted)
		case source.KindNamespace:
			put[corev1.Namespace](t, &next.Namespaces, name, document, head.Deleted)
		case source.KindBalancePolicy:
			put[v1alpha1.BalancePolicy](t, &next.BalancePolicies, name, document, head.Deleted)
		case source.KindLimitPolicy:
			put[v1alpha1.LimitPolicy](t, &next.LimitPolicies, name, document, head.Deleted)
		default:
			t.Fatalf("unknown kind %q", head.Kind)
		}
	}
	return &next
}

func put[V any](t testing.TB, objects *map[types.NamespacedName]*V, name types.NamespacedName, document string, deleted bool) {
	t.Helper()
	next := map[types.NamespacedName]*V{}
	for k, v := range *objects {
		next[k] = v
	}
	*objects = next
	if deleted {
		delete(next, name)
		return
	}
	object := new(V)
	if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
		t.Fatalf("%v\n%s", err, document)
	}
	next[name] = object
}
