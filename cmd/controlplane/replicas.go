package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"evenkeel.io/controlplane/internal/auth"
	"evenkeel.io/controlplane/internal/replica"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/source/kube"
	"evenkeel.io/controlplane/internal/xds"
)

// replicaOptions are the flags of serve that make it one of several replicas.
type replicaOptions struct {
	address   string
	name      string
	namespace string
}

func (o *replicaOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.address, "replica-address", "", "the host:port by which other replicas reach this one's xDS port; a Lease then says which of them computes the weights. Empty: this is the only one")
	flags.StringVar(&o.name, "replica-name", "", "a name that no other replica has; empty: the host's")
	flags.StringVar(&o.namespace, "lease-namespace", "", "the namespace of the Lease; empty: that of the Pod")
}

const podNamespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// complete fills in what the flags left out and says what is wrong with the rest.
func (o *replicaOptions) complete() error {
	if o.address == "" {
		return nil
	}
	if host, port, err := net.SplitHostPort(o.address); err != nil || host == "" || port == "" {
		return fmt.Errorf("--replica-address %q: expected host:port, such as $(POD_IP):18000", o.address)
	}
	if o.name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("--replica-name is missing, and the host has no name: %w", err)
		}
		o.name = host
	}
	if strings.Contains(o.name, "_") {
		return fmt.Errorf("--replica-name %q: expected no underscore", o.name)
	}
	if o.namespace == "" {
		namespace, err := os.ReadFile(podNamespaceFile)
		if err != nil {
			return errors.New("--lease-namespace is missing: this is no Pod, whose namespace would be taken")
		}
		o.namespace = strings.TrimSpace(string(namespace))
	}
	return nil
}

// newReplica is this process among others, nil if there are none.
func (o serveOptions) newReplica(c *controlPlane, loads replica.Loads, objects source.Source, log *slog.Logger) (*replica.Replica, error) {
	of := o.replica
	if of.address == "" {
		return nil, nil
	}
	config, err := kube.Config(o.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("the API server of the Lease: %w", err)
	}
	config.UserAgent = cmp.Or(config.UserAgent, "evenkeel")
	config.Timeout = 5 * time.Second // of one request; half of what the Lease leaves
	leases, err := coordinationv1.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("the API server of the Lease: %w", err)
	}
	options := replica.Options{
		Self:   o.self(),
		Leases: leases, Namespace: of.namespace,
		Plaintext: o.xdsPlaintext,
		Proxies:   func() []xds.Proxy { return c.xds.Registry().Proxies() },
		Nacks:     func() []xds.Nack { return c.xds.Registry().Nacks() },
		Loads:     loads,
		Accept:    operator{source: objects}.AcceptHere,
		Refusals:  func() replica.Refusals { return c.xds.Registry() },
		Log:       log, Metrics: c.metrics,
	}
	if c.gate != nil {
		options.Credentials = c.gate.ReplicaCredentials()
		options.Authorize = func(ctx context.Context) error {
			if who := auth.FromContext(ctx); !who.IsReplica() {
				return status.Errorf(codes.PermissionDenied, "%s is no replica of the control plane", who)
			}
			return nil
		}
	}
	return replica.New(options), nil
}

// leads says whether this replica computes the weights and writes statuses.
func (c *controlPlane) leads() bool { return c.replica == nil || c.replica.Role().Leads }

// follows names the replica that this one follows, "" if it leads.
func (c *controlPlane) follows() string {
	if c.leads() {
		return ""
	}
	return c.replica.Role().Leader.String()
}
