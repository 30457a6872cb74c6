package snapshot

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	runtimev3 "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"evenkeel.io/controlplane/internal/translate"
)

// The rules here are what Envoy or grpc-go enforce beyond protoc-gen-validate, often by refusing a
// whole response, or do not enforce and suffer from. rules_route.go has those of routes,
// rules_limit.go those of limits, rules_ratelimit.go those of the reference rate limit service.

// checkRules runs the rules of the resource's type.
func checkRules(r translate.Resource) error {
	var name string
	var problems error
	switch m := r.Message.(type) {
	case *clusterv3.Cluster:
		name, problems = m.GetName(), checkCluster(m)
	case *endpointv3.ClusterLoadAssignment:
		name, problems = m.GetClusterName(), checkAssignment(m)
	case *listenerv3.Listener:
		name, problems = m.GetName(), checkListener(m)
	case *routev3.RouteConfiguration:
		name, problems = m.GetName(), checkRoutes(m)
	case *corev3.TypedExtensionConfig:
		name, problems = m.GetName(), checkExtension(m)
	case *runtimev3.Runtime:
		name, problems = m.GetName(), checkFinite("layer", m.GetLayer())
	case *structpb.Struct:
		name, problems = r.Name, checkLimits(m)
	case *ratelimitv3.RateLimitConfig:
		name, problems = m.GetName(), checkRateLimits(m)
	default:
		return fmt.Errorf("%T is no type that is served", r.Message)
	}
	if url := "type.googleapis.com/" + string(proto.MessageName(r.Message)); url != r.Type.URL() {
		return fmt.Errorf("message is %s, expected %s", url, r.Type.URL())
	}
	if name != r.Name {
		return fmt.Errorf("name: is %q within, expected %q", name, r.Name)
	}
	return problems
}

func checkCluster(c *clusterv3.Cluster) error {
	if c.GetType() != clusterv3.Cluster_EDS {
		return nil
	}
	if c.GetEdsClusterConfig().GetServiceName() == "" {
		return errors.New("eds_cluster_config.service_name: is empty, expected the name of a load assignment")
	}
	if t := c.GetEdsClusterConfig().GetEdsConfig().GetInitialFetchTimeout(); t != nil && t.AsDuration() <= 0 {
		return errors.New("eds_cluster_config.eds_config.initial_fetch_timeout: is 0, and the cluster would warm for ever without its assignment")
	}
	return nil
}

// checkAssignment holds a load assignment to what Envoy and grpc-go accept: the union of both.
func checkAssignment(a *endpointv3.ClusterLoadAssignment) error {
	policy := a.GetPolicy()
	if n := len(policy.GetDropOverloads()); n > 1 {
		return fmt.Errorf("policy.drop_overloads: has %d categories, Envoy takes one", n)
	}
	if f := policy.GetOverprovisioningFactor(); f != nil && f.GetValue() < 100 {
		return fmt.Errorf("policy.overprovisioning_factor: is %d, expected 100 or more", f.GetValue())
	}
	if policy.GetEndpointStaleAfter() != nil {
		return errors.New("policy.endpoint_stale_after: is set, and Envoy would drop all endpoints when the control plane is away")
	}
	var problems []error
	seen := map[netip.AddrPort]bool{}
	localities := map[string]bool{}
	priorities := map[uint32]uint64{}
	for i, l := range a.GetEndpoints() {
		at := fmt.Sprintf("endpoints[%d]", i)
		if l.GetLocality() == nil {
			problems = append(problems, fmt.Errorf("%s.locality: is missing, grpc-go refuses it", at))
		}
		id := fmt.Sprintf("%d %q %q %q", l.GetPriority(), l.GetLocality().GetRegion(), l.GetLocality().GetZone(), l.GetLocality().GetSubZone())
		if localities[id] {
			problems = append(problems, fmt.Errorf("%s.locality: stands twice in one priority", at))
		}
		localities[id] = true
		if l.GetLoadBalancingWeight().GetValue() == 0 {
			problems = append(problems, fmt.Errorf("%s.load_balancing_weight: is 0, the locality would get nothing", at))
		}
		priorities[l.GetPriority()] += uint64(l.GetLoadBalancingWeight().GetValue())
		var sum uint64
		for j, e := range l.GetLbEndpoints() {
			if err := checkEndpoint(e, seen); err != nil {
				problems = append(problems, fmt.Errorf("%s.lb_endpoints[%d].%w", at, j, err))
			}
			sum += uint64(e.GetLoadBalancingWeight().GetValue())
		}
		if sum > math.MaxUint32 {
			problems = append(problems, fmt.Errorf("%s: its weights add up to %d, expected less than 2^32", at, sum))
		}
	}
	for p := range uint32(len(priorities)) {
		sum, ok := priorities[p]
		switch {
		case !ok:
			problems = append(problems, fmt.Errorf("endpoints: priority %d is missing, expected priorities without a gap", p))
		case sum > math.MaxUint32:
			problems = append(problems, fmt.Errorf("endpoints: the weights of priority %d add up to %d, expected less than 2^32", p, sum))
		}
	}
	return errors.Join(problems...)
}

func checkEndpoint(e *endpointv3.LbEndpoint, seen map[netip.AddrPort]bool) error {
	address, err := checkAddress(e.GetEndpoint().GetAddress())
	if err != nil {
		return fmt.Errorf("endpoint.address: %w", err)
	}
	if seen[address] {
		return fmt.Errorf("endpoint.address: %s stands twice", address)
	}
	seen[address] = true
	if e.GetLoadBalancingWeight().GetValue() == 0 {
		return fmt.Errorf("load_balancing_weight: of %s is 0, expected 1 to 2^32-1", address)
	}
	for namespace, s := range e.GetMetadata().GetFilterMetadata() {
		if err := checkFinite("metadata."+namespace, s); err != nil {
			return err
		}
	}
	return nil
}

func checkListener(l *listenerv3.Listener) error {
	if l.GetApiListener() == nil { // a gRPC client binds nothing
		if _, err := checkAddress(l.GetAddress()); err != nil {
			return fmt.Errorf("address: %w", err)
		}
	}
	managers, err := connectionManagers(l)
	if err != nil {
		return err
	}
	for i, m := range managers {
		filters := m.GetHttpFilters()
		names := map[string]bool{}
		for _, f := range filters {
			if names[f.GetName()] {
				return fmt.Errorf("filter_chains[%d]: HTTP filter %q stands twice", i, f.GetName())
			}
			names[f.GetName()] = true
		}
		if len(filters) == 0 || !filters[len(filters)-1].GetTypedConfig().MessageIs(&routerv3.Router{}) {
			return fmt.Errorf("filter_chains[%d]: the last HTTP filter is not the router", i)
		}
	}
	return nil
}

func checkAddress(a *corev3.Address) (netip.AddrPort, error) {
	s := a.GetSocketAddress()
	ip, err := netip.ParseAddr(s.GetAddress())
	if err != nil || ip.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%.64q is no IP address", s.GetAddress())
	}
	if port := s.GetPortValue(); port < 1 || port > math.MaxUint16 {
		return netip.AddrPort{}, fmt.Errorf("port %d of %s is not in 1 to 65535", port, ip)
	}
	return netip.AddrPortFrom(ip, uint16(s.GetPortValue())), nil
}

// checkFinite refuses NaN and infinities, which have no form in JSON and no meaning as a weight.
func checkFinite(at string, s *structpb.Struct) error {
	for key, v := range s.GetFields() {
		if err := finiteValue(at+"."+key, v); err != nil {
			return err
		}
	}
	return nil
}

func finiteValue(at string, v *structpb.Value) error {
	if n, ok := v.GetKind().(*structpb.Value_NumberValue); ok && (math.IsNaN(n.NumberValue) || math.IsInf(n.NumberValue, 0)) {
		return fmt.Errorf("%s: is %v, expected a finite number", at, n.NumberValue)
	}
	for i, item := range v.GetListValue().GetValues() {
		if err := finiteValue(fmt.Sprintf("%s[%d]", at, i), item); err != nil {
			return err
		}
	}
	return checkFinite(at, v.GetStructValue())
}
