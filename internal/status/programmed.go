package status

import (
	"fmt"
	"slices"
	"strings"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// carriers are the resource types that carry an object of a kind to an Envoy. A kind that is not here
// is carried by none and gets no Programmed condition.
var carriers = map[string][]translate.Type{
	source.KindGateway:       {translate.LDS},
	source.KindHTTPRoute:     {translate.RDS},
	source.KindService:       {translate.CDS, translate.EDS},
	source.KindBalancePolicy: {translate.CDS, translate.EDS},
}

// index finds the proxies that an object concerns.
type index struct {
	proxies map[string][]xds.Proxy // by fleet
	// fleets that a Gateway or a Service is part of, the EDS-only clients of its namespace
	// ("eds:<namespace>") among a Service's.
	fleets map[source.Ref][]string
	// rolledBack are the pinned fleets.
	rolledBack map[string]RolledBack
}

func newIndex(in Input) index {
	x := index{proxies: map[string][]xds.Proxy{}, fleets: map[source.Ref][]string{}, rolledBack: in.RolledBack}
	for _, p := range in.Proxies {
		x.proxies[p.Fleet] = append(x.proxies[p.Fleet], p)
	}
	add := func(ref source.Ref, fleet string) {
		if !slices.Contains(x.fleets[ref], fleet) {
			x.fleets[ref] = append(x.fleets[ref], fleet)
		}
	}
	for name, f := range in.Catalog.Fleets {
		add(f.Object, name)
		for _, s := range f.Services {
			if svc := in.Catalog.Services[s]; svc != nil {
				add(svc.Object, name)
			}
		}
	}
	for _, s := range in.Catalog.Services {
		for _, namespace := range append([]string{s.Namespace}, s.Readers...) {
			if fleet := edsOnly(namespace); len(x.proxies[fleet]) > 0 {
				add(s.Object, fleet)
			}
		}
	}
	for _, fleets := range x.fleets {
		slices.Sort(fleets)
	}
	return x
}

// edsOnly is the fleet of clients that have listeners and clusters of their own and take only
// endpoints from us.
func edsOnly(namespace string) string { return "eds:" + namespace }

// programmed says whether every connected proxy that v concerns acknowledged the object. It reports
// false when nothing of the object is ever sent to one.
func (x index) programmed(v catalog.Verdict) (Condition, bool) {
	types, ok := carriers[v.Object.Kind]
	if !ok {
		return Condition{}, false
	}
	c := Condition{Type: TypeProgrammed, Status: "False", Reason: ReasonPending}
	if !v.Accepted.OK {
		c.Reason, c.Message = ReasonInvalid, "not programmed because it is not accepted"
		return c, true
	}
	target := v.Object
	if v.Parent != (source.Ref{}) {
		target = v.Parent
	}
	for _, fleet := range x.fleets[target] {
		if pinned, ok := x.rolledBack[fleet]; ok && pinned.concerns(v.Object) {
			c.Reason, c.Message = ReasonRolledBack, pinned.Text
			return c, true
		}
	}
	var concerned, acked int
	var waiting string // one of the proxies waited for, the first by fleet and order given
	for _, fleet := range x.fleets[target] {
		for _, p := range x.proxies[fleet] {
			concerned++
			switch state, words := stateOf(p, v.Object, types); state {
			case xds.Nacked:
				c.Reason = ReasonRejected
				c.Message = fmt.Sprintf("%s refused it: %s", p.Node, words)
				return c, true
			case xds.Synced:
				acked++
			default:
				if waiting == "" {
					waiting = p.Node
				}
			}
		}
	}
	switch {
	case concerned == 0:
		c.Message = "no connected proxy needs it"
	case acked < concerned:
		c.Message = fmt.Sprintf("%d of %d connected proxies acknowledged it; waiting for %s", acked, concerned, waiting)
	default:
		c.Status, c.Reason = "True", ReasonProgrammed
		c.Message = fmt.Sprintf("acknowledged by %s", count(concerned, "connected proxy", "connected proxies"))
	}
	return c, true
}

// concerns says whether an object's present version is kept from the fleet: all that the Gateway stands for,
// and what was changed since the generation that is served. Endpoints and weights are those of now.
func (r RolledBack) concerns(object source.Ref) bool {
	switch object.Kind {
	case source.KindGateway:
		return true
	case source.KindBalancePolicy:
		return false
	}
	return r.All || slices.Contains(r.Objects, object.String())
}

// stateOf says how far p is with the object: Nacked with the client's words, Synced or Pending. A
// refusal that names another object does not count against this one: a client that refuses one
// resource takes the others.
func stateOf(p xds.Proxy, object source.Ref, types []translate.Type) (state xds.SyncState, words string) {
	if strings.HasPrefix(p.Fleet, edsOnly("")) {
		types = []translate.Type{translate.EDS}
	}
	state = xds.Synced
	for _, t := range types {
		switch p.Types[t].State {
		case xds.Synced:
		case xds.Nacked:
			n := p.LastNack
			if n == nil || n.Type != t || n.Source == "" || n.Source == object.String() {
				return xds.Nacked, wordsOf(n, t)
			}
		default:
			state = xds.Pending
		}
	}
	return state, ""
}

func wordsOf(n *xds.Nack, t translate.Type) string {
	if n == nil || n.Type != t || n.Message == "" {
		return fmt.Sprintf("a %s response, without a word of explanation", t)
	}
	return n.Message
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
