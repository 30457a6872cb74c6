package translate

import (
	"slices"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// Canary is a backend that has a part of the traffic of a route and a limit of its own: its weight and its quota.
type Canary struct {
	Route   string // as catalog.Route.Name
	Cluster string // "<namespace>/<service>:<port>"
	// Weight of the sum Of all weights of the route.
	Weight, Of uint32
	Rule       string // "<namespace>/<policy>/<limit>"
	// Quota is the rate of the rule, without a burst.
	Quota v1alpha1.Rate
	// Together says that the quota stands in the route, so that it changes in one version with the weight. If not,
	// the rate limit service alone has it.
	Together bool
}

// Canaries reads the canaries off routes as they are served, with the rule list that is served with them: in the
// order of the routes, and of the clusters in each.
func Canaries(routes *routev3.RouteConfiguration, rules []*rlsconfig.Rule) []Canary {
	byID := make(map[string]*rlsconfig.Rule, len(rules))
	for _, r := range rules {
		byID[r.ID] = r
	}
	var out []Canary
	for _, host := range routes.GetVirtualHosts() {
		for _, route := range host.GetRoutes() {
			clusters := route.GetRoute().GetWeightedClusters().GetClusters()
			if len(clusters) < 2 {
				continue
			}
			of := uint32(0)
			for _, c := range clusters {
				of += c.GetWeight().GetValue()
			}
			for _, c := range clusters {
				for _, canary := range quotas(c, byID) {
					canary.Route, canary.Of = route.GetName(), of
					out = append(out, canary)
				}
			}
		}
	}
	return out
}

// quotas are the rates in a cluster's own limits that are meant for some backends.
func quotas(c *routev3.WeightedCluster_ClusterWeight, rules map[string]*rlsconfig.Rule) []Canary {
	var out []Canary
	for _, filter := range []string{AllowFilter, DenyFilter} {
		var limits ratelimitv3.RateLimitPerRoute
		if config := c.GetTypedPerFilterConfig()[filter]; config == nil || config.UnmarshalTo(&limits) != nil {
			continue
		}
		for _, limit := range limits.GetRateLimits() {
			rule := rules[ruleOf(limit)]
			if rule == nil || len(backendsOf(rule)) == 0 || rule.Limit.Rate == nil ||
				slices.ContainsFunc(out, func(c Canary) bool { return c.Rule == rule.ID }) {
				continue
			}
			canary := Canary{Cluster: c.GetName(), Weight: c.GetWeight().GetValue(), Rule: rule.ID, Quota: *rule.Limit.Rate}
			canary.Quota.Burst = nil
			if in := limit.GetLimit().GetRateLimit(); in != nil {
				canary.Together = true
				canary.Quota.Requests, canary.Quota.Per.Duration = int64(in.GetRequestsPerUnit()), unitOf[in.GetUnit()]
			}
			out = append(out, canary)
		}
	}
	return out
}

// ruleOf is the ID of the rule that a descriptor is of.
func ruleOf(limit *routev3.RateLimit) string {
	for _, a := range limit.GetActions() {
		if key := a.GetGenericKey(); key.GetDescriptorKey() == rlsconfig.EntryRule {
			return key.GetDescriptorValue()
		}
	}
	return ""
}

var unitOf = map[typev3.RateLimitUnit]time.Duration{
	typev3.RateLimitUnit_SECOND: time.Second, typev3.RateLimitUnit_MINUTE: time.Minute,
	typev3.RateLimitUnit_HOUR: time.Hour, typev3.RateLimitUnit_DAY: 24 * time.Hour,
}
