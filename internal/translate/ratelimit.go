package translate

import (
	"slices"
	"strings"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/protobuf/proto"

	"evenkeel.io/controlplane/internal/rlsconfig"
)

// PoliciesBehind are the policies, "LimitPolicy shop/api", whose limits a reference rate limit service may have
// refused a RateLimitConfig for: those whose rules its words name; where they name none, those with a rule that
// is another in what it keeps, which is nil if it has nothing. Sorted.
func PoliciesBehind(words string, refused, keeps *ratelimitv3.RateLimitConfig) []string {
	kept := map[string]*ratelimitv3.RateLimitDescriptor{}
	for _, d := range keeps.GetDescriptors() {
		kept[d.GetValue()] = d
	}
	var named, changed []string
	for _, d := range refused.GetDescriptors() {
		if d.GetKey() != rlsconfig.EntryRule {
			continue
		}
		policy := "LimitPolicy " + policyOf(d.GetValue())
		if strings.Contains(words, "."+rlsconfig.EntryRule+"_"+d.GetValue()) { // as "<domain>.<key>_<value>"
			named = append(named, policy)
		}
		if !proto.Equal(d, kept[d.GetValue()]) {
			changed = append(changed, policy)
		}
	}
	if len(named) == 0 {
		named = changed
	}
	slices.Sort(named)
	return slices.Compact(named)
}

// policyOf is "<namespace>/<policy>" of a rule's ID.
func policyOf(rule string) string {
	if end := strings.LastIndexByte(rule, '/'); end >= 0 {
		return rule[:end]
	}
	return rule
}

// RateLimitConfig is the configuration of the reference rate limit service for a fleet with these rules.
// factors multiply the bounds of rules, by ID.
func RateLimitConfig(fleet string, rules []*rlsconfig.Rule, factors map[string]float64) Resource {
	return Resource{Type: RLS, Name: fleet, Source: "Gateway " + fleet, Message: rlsconfig.Tree(fleet, rules, factors)}
}
