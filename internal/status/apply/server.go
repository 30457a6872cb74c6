package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/status"
)

const (
	// fieldManager is who we are in an object's managedFields.
	fieldManager = "evenkeel"
	// requestTimeout bounds one request.
	requestTimeout = 10 * time.Second
	// pageSize bounds what a list holds in memory.
	pageSize = 200
	// conflicts is how often a write is tried anew because the object was written meanwhile.
	conflicts = 3
)

// resources are the kinds whose status is written.
var resources = map[string]schema.GroupVersionResource{
	source.KindGatewayClass:  gatewayResource("gatewayclasses"),
	source.KindGateway:       gatewayResource("gateways"),
	source.KindHTTPRoute:     gatewayResource("httproutes"),
	source.KindBalancePolicy: v1alpha1.GroupVersion.WithResource("balancepolicies"),
	source.KindLimitPolicy:   v1alpha1.GroupVersion.WithResource("limitpolicies"),
}

func gatewayResource(name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: gatewayv1.GroupVersion.Group, Version: gatewayv1.GroupVersion.Version, Resource: name}
}

// shared are the kinds in whose status several controllers have an entry each, in one list that an API
// server takes as a whole, with the name of that list.
var shared = map[string]string{source.KindHTTPRoute: "parents", source.KindBalancePolicy: "ancestors", source.KindLimitPolicy: "ancestors"}

// outcome is how the writing of a status ended.
type outcome string

const (
	written   outcome = "written"
	unchanged outcome = "unchanged" // the cluster has it already
	gone      outcome = "gone"      // there is no such object any more
	conflict  outcome = "conflict"  // others write it all the time
	forbidden outcome = "forbidden"
	failed    outcome = "failed"
)

// server is the API server.
type server struct {
	client   dynamic.Interface
	lists    rest.Interface
	http     *http.Client
	instance string // as which Events report
}

func newServer(config *rest.Config, instance string) (*server, error) {
	config = rest.CopyConfig(config)
	config.Timeout = requestTimeout
	config.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(requestsPerSecond, burst)
	config.WarningHandler = rest.NoWarnings{}
	config.UserAgent = fieldManager
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("the API server: %w", err)
	}
	client, err := dynamic.NewForConfigAndClient(config, transport)
	if err != nil {
		return nil, fmt.Errorf("the API server: %w", err)
	}
	lists, err := rest.UnversionedRESTClientForConfigAndClient(dynamic.ConfigFor(config), transport)
	if err != nil {
		return nil, fmt.Errorf("the API server: %w", err)
	}
	return &server{client, lists, transport, instance}, nil
}

// close ends the connections that are idle.
func (s *server) close() { s.http.CloseIdleConnections() }

func (s *server) resource(ref source.Ref) dynamic.ResourceInterface {
	r := s.client.Resource(resources[ref.Kind])
	if !source.Namespaced(ref.Kind) {
		return r
	}
	return r.Namespace(ref.Namespace)
}

// page is a part of a list, with what is read of the objects. Unstructured ones would be five times as much.
type page struct {
	metav1.ListMeta `json:"metadata"`
	Items           []struct {
		metav1.ObjectMeta `json:"metadata"`
		Status            status.Stanza `json:"status"`
	} `json:"items"`
}

// list is what of ours the objects of a kind say. None does where the kind is not installed.
func (s *server) list(ctx context.Context, kind string) (map[source.Ref]status.Stanza, error) {
	statuses := map[source.Ref]status.Stanza{}
	of, next := resources[kind], ""
	for {
		body, err := s.lists.Get().AbsPath("/apis", of.Group, of.Version, of.Resource).
			Param("limit", strconv.Itoa(pageSize)).Param("continue", next).Do(ctx).Raw()
		switch {
		case apierrors.IsNotFound(err):
			return statuses, nil
		case apierrors.IsResourceExpired(err) && next != "":
			next = ""
			clear(statuses)
			continue
		case err != nil:
			return nil, err
		}
		var p page
		if err := json.Unmarshal(body, &p); err != nil {
			return nil, fmt.Errorf("a list of %s: %w", of.GroupResource(), err)
		}
		for i := range p.Items {
			o := &p.Items[i]
			if ours := oursOf(kind, o, o.Status); !ours.Empty() {
				statuses[source.Ref{Kind: kind, Namespace: o.Namespace, Name: o.Name}] = ours
			}
		}
		if next = p.Continue; next == "" {
			return statuses, nil
		}
	}
}

// stanzaOf is all that an object's status says.
func stanzaOf(o *unstructured.Unstructured) (s status.Stanza, err error) {
	content, _, err := unstructured.NestedMap(o.Object, "status")
	if err == nil && content != nil {
		err = runtime.DefaultUnstructuredConverter.FromUnstructured(content, &s)
	}
	if err != nil {
		return s, fmt.Errorf("%s %s/%s: status: %w", o.GetKind(), o.GetNamespace(), o.GetName(), err)
	}
	return s, nil
}

// oursOf is what of it is ours. The status of a Gateway or a class belongs to one controller as a whole,
// which has it from the one before, or from nobody, until it writes it.
func oursOf(kind string, o metav1.Object, said status.Stanza) status.Stanza {
	if shared[kind] == "" && !slices.ContainsFunc(o.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool {
		return f.Manager == fieldManager && f.Subresource == "status"
	}) {
		return status.Stanza{}
	}
	return said.Ours()
}

// write makes the object say what it should, if it does not.
func (s *server) write(ctx context.Context, ref source.Ref, judged status.Judged, now time.Time) (outcome, error) {
	for try := 1; ; try++ {
		o, err := s.writeOnce(ctx, ref, judged, now)
		switch {
		case err == nil:
			return o, nil
		case apierrors.IsNotFound(err):
			return gone, nil
		case apierrors.IsConflict(err) && try < conflicts:
			continue
		case apierrors.IsConflict(err):
			return conflict, err
		case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
			return forbidden, err
		}
		return failed, err
	}
}

func (s *server) writeOnce(ctx context.Context, ref source.Ref, judged status.Judged, now time.Time) (outcome, error) {
	object, err := s.resource(ref).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return failed, err
	}
	if judged.UID != "" && object.GetUID() != judged.UID {
		return gone, nil // another of that name, on which nothing was judged
	}
	said, err := stanzaOf(object)
	if err != nil {
		return failed, err
	}
	if oursOf(ref.Kind, object, said).Equal(judged.Stanza) {
		return unchanged, nil
	}
	content, err := statusOf(ref.Kind, object, judged.Stanza.Over(said, metav1.Time{Time: now}))
	if err != nil {
		return failed, err
	}
	// The resource version makes the API server refuse what was made from an older object: the entries of
	// others in it would be old.
	configuration := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": object.GetAPIVersion(), "kind": object.GetKind(),
		"metadata": map[string]any{"name": ref.Name, "resourceVersion": object.GetResourceVersion()},
	}}
	if len(content) > 0 { // else all that was ours is given up
		configuration.Object["status"] = content
	}
	applied, err := s.resource(ref).ApplyStatus(ctx, ref.Name, configuration, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil {
		return failed, err
	}
	if applied.GetResourceVersion() == object.GetResourceVersion() {
		return unchanged, nil
	}
	return written, nil
}

var errFull = errors.New("others have filled the list of entries")

// most is how many entries an API server takes in the lists that are shared.
var most = map[string]int{"parents": 32, "ancestors": 16}

// statusOf is the status to apply. Of a list that is shared it has the entries of others as they are, first.
func statusOf(kind string, object *unstructured.Unstructured, s status.Stanza) (map[string]any, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&s)
	if err != nil {
		return nil, err
	}
	name := shared[kind]
	if name == "" {
		return content, nil
	}
	ours, _, _ := unstructured.NestedSlice(content, name)
	all, _, err := unstructured.NestedSlice(object.Object, "status", name)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(entry any) bool {
		e, ok := entry.(map[string]any)
		return ok && e["controllerName"] == catalog.ControllerName
	})
	if all = append(all, ours...); all == nil {
		all = []any{}
	}
	if len(all) > most[name] {
		return nil, fmt.Errorf("status.%s: %w", name, errFull)
	}
	return map[string]any{name: all}, nil
}
