package snapshot

import (
	"maps"
	"slices"

	"evenkeel.io/controlplane/internal/translate"
)

// ForGRPC is s as gRPC clients are served it. A resource whose rendering is not valid is left out, and
// refused, which may be nil, is told.
func (s *Snapshot) ForGRPC(refused func(error)) *Snapshot { return s.forGRPC(nil, nil, refused) }

// forGRPC is ForGRPC where rendered is the rendering of before, or both are nil: what did not change since
// is taken from there, and so is what is not valid now.
func (s *Snapshot) forGRPC(before, rendered *Snapshot, refused func(error)) *Snapshot {
	var all []*Resource
	add := func(r translate.Resource) {
		last := rendered.Get(r.Type, r.Name)
		encoded, err := EncodeAfter(last, r)
		if err != nil {
			if refused != nil {
				refused(err)
			}
			encoded = last
		}
		if encoded != nil {
			all = append(all, encoded)
		}
	}
	for _, t := range []translate.Type{translate.CDS, translate.EDS} {
		for name, r := range s.Resources(t) {
			if last := rendered.Get(t, name); last != nil && before.Get(t, name) == r {
				all = append(all, last)
			} else if next, ok := translate.GRPC(r.unencoded()); ok {
				add(next)
			}
		}
	}
	if s.sameRouting(before) {
		for _, t := range []translate.Type{translate.LDS, translate.RDS} {
			all = slices.AppendSeq(all, maps.Values(rendered.Resources(t)))
		}
		for _, t := range []translate.Type{translate.CDS, translate.EDS} {
			if nobody := rendered.Get(t, translate.UnresolvedCluster); nobody != nil {
				all = append(all, nobody)
			}
		}
	} else {
		for _, r := range translate.GRPCRouting(s.grpcPorts()) {
			add(r)
		}
	}
	next := New(all...)
	next.generation = s.Generation()
	return next
}

// sameRouting says whether before has the same listeners and routes.
func (s *Snapshot) sameRouting(before *Snapshot) bool {
	return s.Table(translate.LDS).Same(before.Table(translate.LDS)) && s.Table(translate.RDS).Same(before.Table(translate.RDS))
}

func (s *Snapshot) grpcPorts() []translate.GRPCPort {
	var ports []translate.GRPCPort
	for _, l := range s.Resources(translate.LDS) {
		for _, name := range l.Refs[translate.RDS] {
			if routes := s.Get(translate.RDS, name); routes != nil {
				ports = append(ports, translate.GRPCPort{Listener: l.unencoded(), Routes: routes.unencoded()})
			}
		}
	}
	return ports
}

func (r *Resource) unencoded() translate.Resource {
	return translate.Resource{Type: r.Type, Name: r.Name, Message: r.Message(), Source: r.Source}
}
