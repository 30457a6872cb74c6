package xds

import (
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"evenkeel.io/controlplane/internal/translate"
)

var typeURLs = map[translate.Type]string{
	translate.CDS:  resource.ClusterType,
	translate.EDS:  resource.EndpointType,
	translate.LDS:  resource.ListenerType,
	translate.RDS:  resource.RouteType,
	translate.ECDS: resource.ExtensionConfigType,
	translate.RTDS: resource.RuntimeType,
}

var typesByURL = func() map[string]translate.Type {
	m := make(map[string]translate.Type, len(typeURLs))
	for t, url := range typeURLs {
		m[url] = t
	}
	return m
}()
