package translate

import (
	"cmp"
	"regexp"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"evenkeel.io/controlplane/internal/catalog"
)

var redirectCodes = map[int]routev3.RedirectAction_RedirectResponseCode{
	301: routev3.RedirectAction_MOVED_PERMANENTLY,
	302: routev3.RedirectAction_FOUND,
	303: routev3.RedirectAction_SEE_OTHER,
	307: routev3.RedirectAction_TEMPORARY_REDIRECT,
	308: routev3.RedirectAction_PERMANENT_REDIRECT,
}

func redirect(l *catalog.Listener, r *catalog.Route) *routev3.RedirectAction {
	out := &routev3.RedirectAction{
		HostRedirect: r.Redirect.Hostname,
		PortRedirect: redirectPort(l, r.Redirect),
		ResponseCode: routev3.RedirectAction_FOUND,
	}
	if code, ok := redirectCodes[r.Redirect.Code]; ok {
		out.ResponseCode = code
	}
	if r.Redirect.Scheme != "" {
		out.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: r.Redirect.Scheme}
	}
	switch path := pathRewrite(r.Match.Path, r.Redirect.Path); {
	case path.full != "":
		out.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: path.full}
	case path.prefix != "":
		out.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: path.prefix}
	case path.pattern != "":
		out.PathRewriteSpecifier = &routev3.RedirectAction_RegexRewrite{RegexRewrite: path.regex()}
	}
	return out
}

// redirectPort leaves a scheme's own port out of the location, 0, as Gateway API asks, wherever Envoy
// then leaves it out too: when the host is replaced, and when the port of the request, if it says one,
// is 80, which Envoy drops on a change of scheme.
func redirectPort(l *catalog.Listener, r *catalog.Redirect) uint32 {
	wellKnown := map[string]uint32{"http": 80, "https": 443}
	if r.Port == wellKnown[cmp.Or(r.Scheme, "http")] && (r.Hostname != "" || l.Port == 80) {
		return 0
	}
	return r.Port
}

// rewrite changes host and path of a request on its way to a backend.
func rewrite(action *routev3.RouteAction, r *catalog.Route) {
	if r.Rewrite == nil {
		return
	}
	if r.Rewrite.Hostname != "" {
		action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: r.Rewrite.Hostname}
	}
	path := pathRewrite(r.Match.Path, r.Rewrite.Path)
	if path.full != "" {
		// Envoy replaces a whole path by an expression only; a backslash would refer to a group.
		path.pattern, path.substitution = "^/.*$", strings.ReplaceAll(path.full, `\`, `\\`)
	}
	action.PrefixRewrite = path.prefix
	if path.pattern != "" {
		action.RegexRewrite = path.regex()
	}
}

// pathChange says how Envoy does a catalog.PathChange; at most one of full, prefix and pattern is set.
// The query string is kept by all three.
type pathChange struct {
	full, prefix          string
	pattern, substitution string
}

func (p pathChange) regex() *matcherv3.RegexMatchAndSubstitute {
	return &matcherv3.RegexMatchAndSubstitute{Pattern: regexMatcher(p.pattern), Substitution: p.substitution}
}

// pathRewrite follows the table of Gateway API's HTTPPathModifier.replacePrefixMatch: trailing slashes
// of the prefix and of its replacement mean nothing, and the result never begins with two slashes or
// none. A replaced prefix needs a prefix match; without one the path stays.
func pathRewrite(match catalog.PathMatch, c *catalog.PathChange) pathChange {
	switch {
	case c == nil:
		return pathChange{}
	case c.Full != nil:
		return pathChange{full: cmp.Or(*c.Full, "/")}
	case c.Prefix == nil || match.Type == catalog.Exact || match.Type == catalog.Regex:
		return pathChange{}
	}
	from, to := trimSlashes(match.Value), trimSlashes(*c.Prefix)
	switch {
	case from == "" && to == "":
		return pathChange{}
	case from == "":
		// The matched prefix is the slash itself.
		return pathChange{prefix: to + "/"}
	case to != "":
		return pathChange{prefix: to}
	default:
		// Only an expression can take "/a" to "/" and "/a/b" to "/b" alike.
		return pathChange{pattern: "^" + regexp.QuoteMeta(from) + "/*", substitution: "/"}
	}
}
