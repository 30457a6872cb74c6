package translate

import (
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"evenkeel.io/controlplane/internal/catalog"
)

// routeMatch selects as the Match says: path, method, headers and query parameters all together.
func routeMatch(m catalog.Match) *routev3.RouteMatch {
	out := &routev3.RouteMatch{}
	switch m.Path.Type {
	case catalog.Exact:
		out.PathSpecifier = &routev3.RouteMatch_Path{Path: m.Path.Value}
	case catalog.Regex:
		out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: regexMatcher(m.Path.Value)}
	default:
		if prefix := trimSlashes(m.Path.Value); prefix == "" {
			out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
		} else {
			out.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: prefix}
		}
	}
	if m.Method != "" {
		out.Headers = append(out.Headers, headerMatcher(":method", exactly(m.Method)))
	}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, headerMatcher(h.Name, valueMatcher(h)))
	}
	for _, q := range m.Queries {
		out.QueryParameters = append(out.QueryParameters, &routev3.QueryParameterMatcher{
			Name: q.Name,
			QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_StringMatch{
				StringMatch: valueMatcher(q),
			},
		})
	}
	return out
}

// trimSlashes takes the trailing slashes off a prefix: Gateway API gives "/a/" and "/a" one meaning,
// and Envoy allows only the second. The root prefix becomes "".
func trimSlashes(prefix string) string { return strings.TrimRight(prefix, "/") }

func headerMatcher(name string, value *matcherv3.StringMatcher) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{
		Name:                 name,
		HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: value},
	}
}

func valueMatcher(v catalog.ValueMatch) *matcherv3.StringMatcher {
	if v.Type == catalog.Regex {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: regexMatcher(v.Value)}}
	}
	return exactly(v.Value)
}

func exactly(value string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: value}}
}
