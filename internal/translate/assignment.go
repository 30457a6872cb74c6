package translate

import (
	"cmp"
	"math"
	"net/netip"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/weights"
)

// averageWeight is what an endpoint of average base weighs while nothing was decided about it.
const averageWeight = 1000

// Assignment makes the load assignment of a Service: its endpoints by zone, zones and endpoints
// sorted, one locality per zone and all of priority 0. A Service without endpoints gets one without
// localities, which tells Envoy that there are none.
//
// The part of the requests that d sheds is in the policy, and named in the metadata of all endpoints: Envoy
// acknowledges an assignment in which nothing but drop_overloads is new, and goes on as before.
//
// Weights are those of d. With a nil d they are the base weights; an endpoint that d does not know
// gets its base weight on d's scale. Endpoints carry the health_score and qps_decay_factor that d
// publishes, if it does.
func Assignment(s *catalog.Service, d *weights.Decisions) Resource {
	decisions := map[string]*weights.Decision{}
	if d != nil {
		for i := range d.Endpoints {
			decisions[d.Endpoints[i].Key.Address] = &d.Endpoints[i]
		}
	}
	weight := assignWeights(s.Endpoints, decisions)

	byZone := map[string][]*endpointv3.LbEndpoint{}
	for i, e := range s.Endpoints {
		host := lbEndpoint(e.Address, weight[i])
		if decision := decisions[e.Address]; decision != nil {
			host.Metadata = endpointMetadata(decision, d.Shed)
		}
		byZone[e.Zone] = append(byZone[e.Zone], host)
	}

	a := &endpointv3.ClusterLoadAssignment{ClusterName: s.Name}
	if d != nil && d.Shed > 0 {
		a.Policy = shedding(d.Shed)
	}
	for zone, hosts := range byZone {
		slices.SortFunc(hosts, func(x, y *endpointv3.LbEndpoint) int { return compareAddress(x, y) })
		var sum uint32
		for _, host := range hosts {
			sum += host.GetLoadBalancingWeight().GetValue()
		}
		a.Endpoints = append(a.Endpoints, &endpointv3.LocalityLbEndpoints{
			Locality:            &corev3.Locality{Zone: zone},
			LbEndpoints:         hosts,
			LoadBalancingWeight: wrapperspb.UInt32(sum),
		})
	}
	slices.SortFunc(a.Endpoints, func(x, y *endpointv3.LocalityLbEndpoints) int {
		return cmp.Compare(x.GetLocality().GetZone(), y.GetLocality().GetZone())
	})
	return Resource{Type: EDS, Name: s.Name, Message: a, Source: s.Object.String()}
}

// assignWeights gives a weight per endpoint, in its order: each at least 1, together less than 2^32
// (grpc-go refuses an assignment whose weights add up to more; Envoy accepts it silently).
func assignWeights(endpoints []catalog.Endpoint, decisions map[string]*weights.Decision) []uint32 {
	base := baseWeights(endpoints)
	out := make([]float64, len(endpoints))
	var decided, decidedBase float64
	for i, e := range endpoints {
		if d := decisions[e.Address]; d != nil {
			out[i] = float64(max(1, d.Weight))
			decided += out[i]
			decidedBase += base[i]
		}
	}
	scale := 1.0
	if decidedBase > 0 {
		scale = min(decided/decidedBase, math.MaxUint32)
	}
	var total float64
	for i, e := range endpoints {
		if decisions[e.Address] == nil {
			out[i] = base[i] * scale
		}
		total += out[i]
	}
	// Rounding up to 1 adds at most one per endpoint, which the headroom covers.
	shrink := min(1, (math.MaxUint32-float64(len(endpoints)))/total)
	integers := make([]uint32, len(endpoints))
	for i, w := range out {
		if shrink < 1 {
			w = math.Floor(w * shrink)
		}
		integers[i] = uint32(max(1, math.Round(w)))
	}
	return integers
}

// baseWeights are base times multiplier, their mean at averageWeight.
func baseWeights(endpoints []catalog.Endpoint) []float64 {
	out := make([]float64, len(endpoints))
	var sum float64
	for i, e := range endpoints {
		out[i] = bounded(e.Base) * bounded(e.Multiplier)
		sum += out[i]
	}
	for i := range out {
		out[i] *= averageWeight * float64(len(out)) / sum
	}
	return out
}

// bounded keeps a base or a multiplier where products and sums are numbers, as the weights do. What is no
// positive number counts as 1.
func bounded(v float64) float64 {
	if !(v > 0) {
		return 1
	}
	return min(catalog.MaxBase, max(1/catalog.MaxBase, v))
}

func lbEndpoint(address string, weight uint32) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: hostAddress(address),
		}},
		LoadBalancingWeight: wrapperspb.UInt32(weight),
	}
}

// hostAddress keeps what is no "<ip>:<port>" as it is, for snapshot to refuse by name: dropping the
// endpoint here would lose it without a word.
func hostAddress(address string) *corev3.Address {
	if ap, err := netip.ParseAddrPort(address); err == nil {
		return socketAddress(ap.Addr().String(), uint32(ap.Port()))
	}
	return socketAddress(address, 0)
}

func socketAddress(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       ip,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// endpointMetadata is nil where nothing is to be said.
func endpointMetadata(d *weights.Decision, shed float64) *corev3.Metadata {
	fields := map[string]*structpb.Value{}
	if d.PublishedQPSDecayFactor > 0 {
		fields["health_score"] = structpb.NewNumberValue(d.PublishedHealthScore)
		fields["qps_decay_factor"] = structpb.NewNumberValue(d.PublishedQPSDecayFactor)
	}
	if shed > 0 {
		fields["shed"] = structpb.NewNumberValue(shed)
	}
	if len(fields) == 0 {
		return nil
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{MetadataNamespace: {Fields: fields}}}
}

// shedCategory names what is shed in Envoy's load reports.
const shedCategory = "overload"

// shedding has a part of the requests, in steps of a hundredth, refused with 503 before an endpoint is chosen.
func shedding(part float64) *endpointv3.ClusterLoadAssignment_Policy {
	return &endpointv3.ClusterLoadAssignment_Policy{DropOverloads: []*endpointv3.ClusterLoadAssignment_Policy_DropOverload{{
		Category: shedCategory,
		DropPercentage: &typev3.FractionalPercent{
			Numerator:   uint32(math.Round(100 * min(1, part))),
			Denominator: typev3.FractionalPercent_HUNDRED,
		},
	}}}
}

func compareAddress(x, y *endpointv3.LbEndpoint) int {
	a, b := x.GetEndpoint().GetAddress().GetSocketAddress(), y.GetEndpoint().GetAddress().GetSocketAddress()
	return cmp.Or(cmp.Compare(a.GetAddress(), b.GetAddress()), cmp.Compare(a.GetPortValue(), b.GetPortValue()))
}
