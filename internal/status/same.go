package status

import (
	"maps"
	"reflect"
	"slices"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// Same tells whether the Stanzas and the News that come of in are those that came of other. It may say no
// though they are. Endpoints come and go all the time and concern neither: what is computed of all objects is not
// to be computed anew for one of them.
func (in Input) Same(other Input) bool {
	policies := in.Store != nil && len(in.Store.BalancePolicies) > 0
	return sameStore(in.Store, other.Store) && sameCatalog(in.Catalog, other.Catalog) &&
		maps.Equal(in.Stale, other.Stale) && maps.Equal(in.Refused, other.Refused) && maps.Equal(in.Restored, other.Restored) &&
		maps.EqualFunc(in.RolledBack, other.RolledBack, func(a, b RolledBack) bool {
			return a.Text == b.Text && a.All == b.All && slices.Equal(a.Objects, b.Objects)
		}) && slices.EqualFunc(in.Proxies, other.Proxies, func(a, b xds.Proxy) bool {
		return sameProxy(a, b, policies)
	})
}

// sameStore: Stores share the maps in which nothing changed. A problem is said together with what is in force
// of its object, of whatever kind that is.
func sameStore(a, b *source.Store) bool {
	if a == b {
		return true
	}
	return a != nil && b != nil && len(a.Problems) == 0 && len(b.Problems) == 0 && sameMap(a.Origins, b.Origins) &&
		sameMap(a.GatewayClasses, b.GatewayClasses) && sameMap(a.Gateways, b.Gateways) &&
		sameMap(a.HTTPRoutes, b.HTTPRoutes) && sameMap(a.BalancePolicies, b.BalancePolicies)
}

func sameMap[M ~map[K]V, K comparable, V any](a, b M) bool {
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

// sameCatalog: Catalogs share what did not change; of the Services that did, all but the endpoints counts.
func sameCatalog(a, b *catalog.Catalog) bool {
	if a == b {
		return true
	}
	return a != nil && b != nil && len(a.Verdicts) == len(b.Verdicts) && (len(a.Verdicts) == 0 || &a.Verdicts[0] == &b.Verdicts[0]) &&
		maps.Equal(a.Fleets, b.Fleets) &&
		maps.EqualFunc(a.Services, b.Services, func(a, b *catalog.Service) bool {
			return a == b || a.Object == b.Object && slices.Equal(a.Policies, b.Policies) && slices.Equal(a.Readers, b.Readers)
		})
}

// sameProxy: only with a policy does a status depend on endpoints being acknowledged. That they are refused
// is news in any case.
func sameProxy(a, b xds.Proxy, policies bool) bool {
	sameNack := a.LastNack == nil && b.LastNack == nil ||
		a.LastNack != nil && b.LastNack != nil && a.LastNack.At.Equal(b.LastNack.At)
	if a.Node != b.Node || a.Fleet != b.Fleet || !sameNack || len(a.Types) != len(b.Types) {
		return false
	}
	for t, was := range a.Types {
		is, ok := b.Types[t]
		acknowledges := !policies && t == translate.EDS && was.State != xds.Nacked && is.State != xds.Nacked
		if !ok || was.State != is.State && !acknowledges {
			return false
		}
	}
	return true
}
