package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Config is how an API server is reached: as kubeconfig says, or, if that is "", as a Pod reaches the one
// of its cluster.
func Config(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

// client reads kinds. All share one connection.
type client struct {
	host   string // of the API server, for people
	shared *http.Client
	groups map[schema.GroupVersion]rest.Interface
}

// newClient makes a client. There is no generated one for each kind: it would bring the types of every API
// of Kubernetes into the program, which list and watch alike.
func newClient(config *rest.Config) (*client, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // two requests per kind; the API server has its own limits
	config.WarningHandler = rest.NoWarnings{}
	if config.UserAgent == "" {
		config.UserAgent = "evenkeel"
	}
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	shared, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	c := &client{host: hostOf(config), shared: shared, groups: map[schema.GroupVersion]rest.Interface{}}
	for _, k := range append(kinds, pods) {
		gv := k.resource.GroupVersion()
		if c.groups[gv] == nil {
			if c.groups[gv], err = groupClient(config, gv, k.install == "", shared); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// groupClient reads the kinds of one group: those that are built into the API server in protobuf.
func groupClient(config *rest.Config, gv schema.GroupVersion, builtIn bool, shared *http.Client) (rest.Interface, error) {
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &gv, "/apis"
	if gv.Group == "" {
		config.APIPath = "/api"
	}
	config.ContentType = runtime.ContentTypeJSON
	config.AcceptContentTypes = runtime.ContentTypeJSON
	if builtIn {
		config.ContentType = runtime.ContentTypeProtobuf
		config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	}
	return rest.RESTClientForConfigAndClient(config, shared)
}

func hostOf(config *rest.Config) string {
	if u, err := url.Parse(config.Host); err == nil && u.Host != "" {
		return u.Host
	}
	return config.Host
}

var parameters = runtime.NewParameterCodec(scheme)

func (c *client) list(ctx context.Context, k *kind, options metav1.ListOptions) (runtime.Object, error) {
	options.FieldSelector = k.selector
	list := k.list()
	err := c.groups[k.resource.GroupVersion()].Get().Resource(k.resource.Resource).
		VersionedParams(&options, parameters).Do(ctx).Into(list)
	return list, err
}

func (c *client) watch(ctx context.Context, k *kind, options metav1.ListOptions) (watch.Interface, error) {
	options.FieldSelector, options.Watch = k.selector, true
	return c.groups[k.resource.GroupVersion()].Get().Resource(k.resource.Resource).
		VersionedParams(&options, parameters).Watch(ctx)
}

func plural(k *kind) string {
	if k.resource.Group == "" {
		return k.resource.Resource
	}
	return fmt.Sprintf("%s.%s", k.resource.Resource, k.resource.Group)
}

// close ends the connections that are idle.
func (c *client) close() { c.shared.CloseIdleConnections() }
