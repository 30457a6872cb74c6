package catalog

import (
	"cmp"
	"slices"
)

// sortRoutes puts the routes of a virtual host in the order in which they are tried (Gateway API v1,
// HTTPRouteRule.matches): an exact path, a regular expression, the longest prefix; then one with a
// method, the most headers, the most query parameters; then the oldest HTTPRoute, the first by
// "<namespace>/<name>", and the order of rules and matches in it. In the order of this last group they
// are given, so that a stable sort by the others is all.
//
// The place of regular expressions is left to implementations. After prefixes they would never be
// reached where a rule takes "/", which is the default; before exact paths they would break the promise
// that an exact path is the strongest. Among themselves the longer is tried first, like prefixes.
func sortRoutes(routes []Route) {
	slices.SortStableFunc(routes, func(a, b Route) int {
		m, n := &a.Match, &b.Match
		return cmp.Or(
			cmp.Compare(pathClass(m.Path.Type), pathClass(n.Path.Type)),
			cmp.Compare(len(n.Path.Value), len(m.Path.Value)),
			cmp.Compare(methodClass(m.Method), methodClass(n.Method)),
			cmp.Compare(len(n.Headers), len(m.Headers)),
			cmp.Compare(len(n.Queries), len(m.Queries)),
		)
	})
}

func pathClass(t MatchType) int {
	switch t {
	case Exact:
		return 0
	case Regex:
		return 1
	}
	return 2
}

func methodClass(method string) int {
	if method != "" {
		return 0
	}
	return 1
}
