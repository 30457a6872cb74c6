package snapshot

import (
	"fmt"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"evenkeel.io/controlplane/internal/translate"
)

// refsOf are the names of the resources that a message points at and cannot work without. The
// cluster that stands for backends nobody has is not one: it is meant not to exist. A filter slot
// with a default is not one either.
func refsOf(message proto.Message) (map[translate.Type][]string, error) {
	refs := map[translate.Type][]string{}
	switch m := message.(type) {
	case *clusterv3.Cluster:
		if m.GetType() == clusterv3.Cluster_EDS {
			refs[translate.EDS] = []string{m.GetEdsClusterConfig().GetServiceName()}
		}
	case *listenerv3.Listener:
		managers, err := connectionManagers(m)
		if err != nil {
			return nil, err
		}
		for _, hcm := range managers {
			if name := hcm.GetRds().GetRouteConfigName(); name != "" {
				refs[translate.RDS] = append(refs[translate.RDS], name)
			}
			for _, f := range hcm.GetHttpFilters() {
				if d := f.GetConfigDiscovery(); d != nil && d.GetDefaultConfig() == nil {
					refs[translate.ECDS] = append(refs[translate.ECDS], f.GetName())
				}
			}
		}
	case *routev3.RouteConfiguration:
		refs[translate.CDS] = clustersOf(m)
	}
	for t, names := range refs {
		slices.Sort(names)
		refs[t] = slices.Compact(names)
	}
	return refs, nil
}

func clustersOf(rc *routev3.RouteConfiguration) []string {
	var names []string
	add := func(name string) {
		if name != "" && name != translate.UnresolvedCluster {
			names = append(names, name)
		}
	}
	for _, vh := range rc.GetVirtualHosts() {
		for _, r := range vh.GetRoutes() {
			add(r.GetRoute().GetCluster())
			for _, c := range r.GetRoute().GetWeightedClusters().GetClusters() {
				add(c.GetName())
			}
		}
	}
	return names
}

func connectionManagers(l *listenerv3.Listener) ([]*hcmv3.HttpConnectionManager, error) {
	var out []*hcmv3.HttpConnectionManager
	if api := l.GetApiListener().GetApiListener(); api != nil {
		hcm := &hcmv3.HttpConnectionManager{}
		if err := api.UnmarshalTo(hcm); err != nil {
			return nil, fmt.Errorf("api_listener: %w", err)
		}
		out = append(out, hcm)
	}
	for i, chain := range l.GetFilterChains() {
		for _, f := range chain.GetFilters() {
			hcm := &hcmv3.HttpConnectionManager{}
			if !f.GetTypedConfig().MessageIs(hcm) {
				continue
			}
			if err := f.GetTypedConfig().UnmarshalTo(hcm); err != nil {
				return nil, fmt.Errorf("filter_chains[%d]: %w", i, err)
			}
			out = append(out, hcm)
		}
	}
	return out, nil
}
