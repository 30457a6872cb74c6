package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"k8s.io/client-go/rest"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/source/dir"
	"evenkeel.io/controlplane/internal/source/kube"
)

// fromFiles are the options under which serve, check and render resolve a directory: the operator
// wrote it, so endpoints on loopback are meant.
var fromFiles = catalog.Options{AllowLoopback: true}

// objects are where serve has its objects from, and what may be in them.
type objects struct {
	name    string // for people
	source  source.Source
	catalog catalog.Options
	// cluster is where the objects have a status to be written, nil for a directory.
	cluster *rest.Config
}

// openObjects finds the directory or the cluster that the flags name. A directory that is not there is waited
// for if there is something to serve meanwhile, as a cluster always is. In a cluster anybody who may write
// an EndpointSlice could reach our own ports, so there nothing on loopback is sent to or scraped.
func openObjects(o serveOptions, wait bool, log *slog.Logger) (objects, error) {
	if o.configDir != "" {
		if info, err := os.Stat(o.configDir); err != nil || !info.IsDir() {
			if !wait {
				return objects{}, fmt.Errorf("--config-dir %s: there is no such directory", o.configDir)
			}
			log.Error("the directory of objects is not there; what was saved is served until it is", "config", o.configDir)
		}
		return objects{name: o.configDir, source: dir.New(o.configDir, dir.Options{Logger: log, Wait: wait}), catalog: fromFiles}, nil
	}
	config, err := kube.Config(o.kubeconfig)
	switch {
	case errors.Is(err, rest.ErrNotInCluster):
		return objects{}, errors.New("no objects to serve: name a directory with --config-dir (controlplane demo shows one) or a cluster with --kubeconfig; this is no Pod, which would know its cluster")
	case err != nil && o.kubeconfig != "":
		return objects{}, fmt.Errorf("--kubeconfig %s: %w", o.kubeconfig, err)
	case err != nil:
		return objects{}, fmt.Errorf("reaching the cluster as one of its Pods: %w", err)
	}
	cluster, err := kube.New(config, kube.Options{Logger: log})
	if err != nil {
		return objects{}, err
	}
	return objects{name: "the cluster at " + config.Host, source: cluster, cluster: config}, nil
}
