package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/klog/v2"

	"evenkeel.io/controlplane/internal/kubetest"
)

const (
	namespace = "shop"
	fleet     = namespace + "/edge"
)

var sliceResource = schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}

// cluster is an API server and what is in it.
type cluster struct {
	shape
	server  *kubetest.APIServer
	objects dynamic.Interface
	version string // resource version when all objects were there
	// absent is by Service the endpoint that is taken out for the time being, -1 for none.
	absent []int
}

func startCluster(ctx context.Context, dir string, s shape) (*cluster, error) {
	dir = filepath.Join(dir, "apiserver")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	server, err := kubetest.New(kubetest.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	progress("starting an API server")
	if err := server.Start(ctx); err != nil {
		return nil, err
	}
	c := &cluster{shape: s, server: server, absent: make([]int, s.services)}
	for i := range c.absent {
		c.absent[i] = -1
	}
	if err := c.fill(ctx); err != nil {
		server.Close()
		return nil, err
	}
	return c, nil
}

func (c *cluster) stop() { c.server.Close() }

func (c *cluster) fill(ctx context.Context) error {
	if err := c.server.InstallCRDs(ctx); err != nil {
		return err
	}
	if err := c.server.Apply(ctx, namespace, `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: evenkeel}
spec: {controllerName: evenkeel.io/controlplane}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: evenkeel, listeners: [{name: http, port: 8080, protocol: HTTP}]}
`); err != nil {
		return err
	}
	var err error
	if c.objects, err = dynamic.NewForConfig(c.server.Config()); err != nil {
		return err
	}
	progress("creating %d Services with %d endpoints each", c.services, c.endpoints)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range c.services {
		group.Go(func() error { return c.create(ctx, i) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	list, err := c.objects.Resource(sliceResource).Namespace(namespace).List(context.WithoutCancel(ctx), metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	c.version = list.GetResourceVersion()
	return nil
}

func serviceName(i int) string { return fmt.Sprintf("service-%04d", i) }

// cluster names of xDS
func clusterName(i int) string { return namespace + "/" + serviceName(i) + ":80" }

func address(service, endpoint int) string {
	return fmt.Sprintf("10.%d.%d.%d", service/250, service%250, endpoint+1)
}

// create makes Service i with its endpoints and its route.
func (c *cluster) create(ctx context.Context, i int) error {
	name := serviceName(i)
	meta := map[string]any{"name": name, "namespace": namespace}
	for _, o := range []struct {
		resource schema.GroupVersionResource
		object   map[string]any
	}{
		{schema.GroupVersionResource{Version: "v1", Resource: "services"}, map[string]any{
			"apiVersion": "v1", "kind": "Service", "metadata": meta,
			"spec": map[string]any{"ports": []any{map[string]any{"name": "http", "port": 80}}, "selector": map[string]any{"app": name}},
		}},
		{sliceResource, map[string]any{
			"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
			"metadata": map[string]any{"name": name, "namespace": namespace, "labels": map[string]any{
				"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "bench", "app": name,
			}},
			"ports":     []any{map[string]any{"name": "http", "port": 8080, "protocol": "TCP"}},
			"endpoints": c.endpointsOf(i),
		}},
		{schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"}, map[string]any{
			"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": meta,
			"spec": map[string]any{
				"parentRefs": []any{map[string]any{"name": "edge"}},
				"hostnames":  []any{name + ".example.com"},
				"rules":      []any{map[string]any{"backendRefs": []any{map[string]any{"name": name, "port": 80}}}},
			},
		}},
	} {
		if err := c.make(ctx, o.resource, o.object); err != nil {
			return err
		}
	}
	return nil
}

// make makes an object.
func (c *cluster) make(ctx context.Context, resource schema.GroupVersionResource, object map[string]any) error {
	o := &unstructured.Unstructured{Object: object}
	if _, err := c.objects.Resource(resource).Namespace(namespace).Create(ctx, o, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("%s %s: %w", resource.Resource, o.GetName(), err)
	}
	return nil
}

// endpointsOf are the endpoints of a Service as an EndpointSlice of a Deployment has them.
func (c *cluster) endpointsOf(i int) []any {
	var all []any
	for j := range c.endpoints {
		if c.absent[i] == j {
			continue
		}
		all = append(all, map[string]any{
			"addresses": []any{address(i, j)}, "nodeName": fmt.Sprintf("node-%d", j), "zone": string(rune('a' + j%3)),
			"conditions": map[string]any{"ready": true, "serving": true, "terminating": false},
			"targetRef":  map[string]any{"kind": "Pod", "namespace": namespace, "name": fmt.Sprintf("%s-%d", serviceName(i), j), "uid": fmt.Sprintf("00000000-0000-0000-%04d-%012d", i, j)},
		})
	}
	return all
}

// toggle takes endpoint j of Service i out, or puts back what is out.
func (c *cluster) toggle(ctx context.Context, i, j int) error {
	if c.absent[i] >= 0 {
		j = -1
	}
	c.absent[i] = j
	patch, err := json.Marshal(map[string]any{"endpoints": c.endpointsOf(i)})
	if err != nil {
		return err
	}
	_, err = c.objects.Resource(sliceResource).Namespace(namespace).Patch(ctx, serviceName(i), types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// follow tells the streams of every change, when a watch tells of it.
func (c *cluster) follow(ctx context.Context, s *swarm) error {
	list, err := c.objects.Resource(sliceResource).Namespace(namespace).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	// The API server closes a watch that does not keep up; it goes on from there.
	w, err := watchtools.NewRetryWatcherWithContext(klog.NewContext(ctx, logr.Discard()), list.GetResourceVersion(), &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return c.objects.Resource(sliceResource).Namespace(namespace).Watch(ctx, options)
		},
	})
	if err != nil {
		return err
	}
	go func() {
		for e := range w.ResultChan() {
			now := time.Now()
			slice, ok := e.Object.(*unstructured.Unstructured)
			if !ok || e.Type == watch.Error {
				s.fail(fmt.Errorf("the bench's own watch: %v", e.Object))
				return
			}
			endpoints, _, _ := unstructured.NestedSlice(slice.Object, "endpoints")
			present := map[string]bool{}
			for _, e := range endpoints {
				addresses, _, _ := unstructured.NestedStringSlice(e.(map[string]any), "addresses")
				present[addresses[0]] = true
			}
			s.changed(namespace+"/"+slice.GetName()+":80", present, now)
		}
		if ctx.Err() == nil {
			s.fail(errors.New("the bench's own watch was closed"))
		}
	}()
	return nil
}
