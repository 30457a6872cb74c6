package status

import (
	"fmt"
	"maps"
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
	source.KindLimitPolicy:   {translate.RDS, translate.ECDS},
}

// index finds the proxies that an object concerns.
type index struct {
	proxies map[string][]xds.Proxy // by fleet
	// fleets that a Gateway or a Service is part of, the EDS-only clients of its namespace
	// ("eds:<namespace>") among a Service's.
	fleets map[source.Ref][]string
	// limited are the fleets in which a LimitPolicy has a limit on a route behind one of its targets.
	limited map[holding][]string
	// routed are the fleets that have routes of an HTTPRoute, where there are LimitPolicies to ask for them.
	routed map[source.Ref][]string
	// carried are the objects that a resource is made from besides the one that it names as its Source.
	carried map[resource]map[source.Ref]bool
	// rolledBack are the pinned fleets.
	rolledBack map[string]RolledBack
}

// holding is a policy and what it is attached to.
type holding struct{ policy, target source.Ref }

// resource is a resource of a type, by its name, or all of a type that have the same Source.
type resource struct {
	kind         translate.Type
	name, source string // one of them
}

func newIndex(in Input) index {
	x := index{
		proxies: map[string][]xds.Proxy{}, fleets: map[source.Ref][]string{}, limited: map[holding][]string{}, routed: map[source.Ref][]string{}, carried: map[resource]map[source.Ref]bool{}, rolledBack: in.RolledBack,
	}
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
	x.findLimited(in.Catalog)
	x.findCarried(in.Catalog)
	return x
}

func (x index) findLimited(c *catalog.Catalog) {
	if !slices.ContainsFunc(c.Verdicts, func(v catalog.Verdict) bool { return v.Object.Kind == source.KindLimitPolicy }) {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(c.Fleets)) {
		f := c.Fleets[name]
		for _, l := range f.Listeners {
			for _, vh := range l.VirtualHosts {
				for i := range vh.Routes {
					r := &vh.Routes[i]
					x.routed[r.Object] = appendNew(x.routed[r.Object], name)
					for _, limit := range r.Limits {
						for _, target := range []source.Ref{f.Object, r.Object} {
							h := holding{limitPolicy(limit), target}
							x.limited[h] = appendNew(x.limited[h], name)
						}
					}
				}
			}
		}
	}
}

// appendNew appends a name that is not the last one already.
func appendNew(names []string, name string) []string {
	if n := len(names); n > 0 && names[n-1] == name {
		return names
	}
	return append(names, name)
}

// limitPolicy is the policy that a limit is of.
func limitPolicy(l catalog.RouteLimit) source.Ref {
	namespace, name, _ := strings.Cut(l.Rule.Policy(), "/")
	return source.Ref{Kind: source.KindLimitPolicy, Namespace: namespace, Name: name}
}

// findCarried finds the routes and limits of each RouteConfiguration, the limits of each slot, and the policies
// that shaped a Service.
func (x index) findCarried(c *catalog.Catalog) {
	carry := func(r resource, object source.Ref) {
		if x.carried[r] == nil {
			x.carried[r] = map[source.Ref]bool{}
		}
		x.carried[r][object] = true
	}
	for _, f := range c.Fleets {
		if !slices.ContainsFunc(x.proxies[f.Name], refusing) {
			continue
		}
		for _, l := range f.Listeners {
			for _, vh := range l.VirtualHosts {
				for i := range vh.Routes {
					carry(resource{kind: translate.RDS, name: l.Name}, vh.Routes[i].Object)
					for _, limit := range vh.Routes[i].Limits {
						carry(resource{kind: translate.RDS, name: l.Name}, limitPolicy(limit))
						carry(resource{kind: translate.ECDS, name: translate.SlotOf(limit.Rule)}, limitPolicy(limit))
					}
				}
			}
		}
		for _, name := range f.Services {
			if s := c.Services[name]; s != nil {
				for _, policy := range s.Policies {
					for _, t := range carriers[source.KindBalancePolicy] {
						carry(resource{kind: t, source: s.Object.String()}, policy)
					}
				}
			}
		}
	}
}

func refusing(p xds.Proxy) bool { return p.LastNack != nil }

// concerns tells whether what was refused has anything of the object in it. Where nobody knows what it was,
// it may.
func (x index) concerns(n *xds.Nack, object source.Ref) bool {
	return n.Source == "" || n.Source == object.String() ||
		x.carried[resource{kind: n.Type, name: n.Resource}][object] || x.carried[resource{kind: n.Type, source: n.Source}][object]
}

// edsOnly is the fleet of clients that have listeners and clusters of their own and take only
// endpoints from us.
func edsOnly(namespace string) string { return "eds:" + namespace }

const nothingToProgram = "nothing is to be programmed: no limit of it counts on a route behind this target"

// programmed says whether every connected proxy that v concerns acknowledged the object. It reports
// false when nothing of the object is ever sent to one.
func (x index) programmed(v catalog.Verdict) (Condition, bool) {
	types, ok := carriers[v.Object.Kind]
	if !ok {
		return Condition{}, false
	}
	c := Condition{Type: TypeProgrammed, Status: "False", Reason: ReasonPending}
	target := v.Object
	if v.Parent != (source.Ref{}) {
		target = v.Parent
	}
	fleets := x.fleets[target]
	limits, holds := v.Object.Kind == source.KindLimitPolicy, false
	if limits {
		held := x.limited[holding{v.Object, target}]
		switch holds = len(held) > 0; {
		case holds:
			fleets = held
		case target.Kind == source.KindHTTPRoute:
			fleets = x.routed[target]
		}
	}
	// Of a LimitPolicy that is in conflict with an older one in some limits the others hold.
	if rest := v.Accepted.Reason == catalog.ReasonConflicted && holds; !v.Accepted.OK && !rest {
		c.Reason, c.Message = ReasonInvalid, "not programmed because it is not accepted"
		return c, true
	}
	for _, fleet := range fleets {
		if pinned, ok := x.rolledBack[fleet]; ok && pinned.concerns(v.Object) {
			c.Reason, c.Message = ReasonRolledBack, pinned.Text
			return c, true
		}
	}
	var concerned, acked int
	var waiting string // one of the proxies waited for, the first by fleet and order given
	for _, fleet := range fleets {
		for _, p := range x.proxies[fleet] {
			concerned++
			switch state, words := x.stateOf(p, v.Object, types); state {
			case xds.Nacked:
				c.Reason, c.Message = ReasonRejected, p.Node+" refused "+words
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
	case limits && !holds && acked == concerned:
		// Proxies that had its limits before have acknowledged that they are gone.
		c.Status, c.Reason = "True", ReasonProgrammed
		c.Message = nothingToProgram
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

// stateOf says how far p is with the object: Nacked with what was refused and the client's words, Synced or
// Pending. A refusal of what has nothing of the object in it does not count against it: a client that
// refuses one resource takes the others.
func (x index) stateOf(p xds.Proxy, object source.Ref, types []translate.Type) (state xds.SyncState, words string) {
	if strings.HasPrefix(p.Fleet, edsOnly("")) {
		types = []translate.Type{translate.EDS}
	}
	state = xds.Synced
	for _, t := range types {
		switch p.Types[t].State {
		case xds.Synced:
		case xds.Nacked:
			n := p.LastNack
			if n == nil || n.Type != t || x.concerns(n, object) {
				return xds.Nacked, wordsOf(n, t, object)
			}
		default:
			state = xds.Pending
		}
	}
	return state, ""
}

func wordsOf(n *xds.Nack, t translate.Type, object source.Ref) string {
	switch {
	case n == nil || n.Type != t || n.Message == "":
		return fmt.Sprintf("it: a %s response, without a word of explanation", t)
	case n.Source == object.String() || n.Resource == "":
		return "it: " + n.Message
	}
	return fmt.Sprintf("%s %s, which carries it: %s", t, n.Resource, n.Message)
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
