package rlsconfig

import (
	"errors"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"evenkeel.io/controlplane/api/v1alpha1"
)

// What requests may lack: a header, a parameter of the query, the value of a CEL expression. That a route's
// namespace lacks a label is known beforehand.

// checkMissing refuses what an Envoy cannot tell: which requests lack the value of an expression, and on what
// backend a request will be when it is answered without one.
func (r *Rule) checkMissing(parts []part) error {
	if r.missing() == v1alpha1.MissingSkip {
		return nil
	}
	for _, p := range parts {
		if p.kind == "cel" {
			return errors.New("missing: an Envoy cannot tell which requests lack the value of a CEL expression; expected Skip, with which the limit does not hold for them")
		}
	}
	if r.missing() == v1alpha1.MissingDeny && r.Limit.When != nil && r.canMiss(parts) {
		switch {
		case r.Limit.When.CEL != nil:
			return errors.New("missing: requests are denied by a route, which cannot select by when.cel; expected Skip or Global")
		case len(r.Limit.When.Backends) > 0:
			return errors.New("missing: requests are denied before a backend is chosen, and when.backends selects by it; expected Skip or Global")
		}
	}
	return nil
}

func (r *Rule) canMiss(parts []part) bool {
	for _, p := range parts {
		switch p.kind {
		case "header", "query", "namespace", "cel":
			return true
		}
	}
	return false
}

// lacks says whether all requests at the site lack a part: a label that its namespace does not have.
func lacks(parts []part, site Site) bool {
	for _, p := range parts {
		if p.kind == "namespace" && site.Labels[p.arg] == "" {
			return true
		}
	}
	return false
}

// Denied selects the requests at a site that the rule denies because they lack a part of its key (Missing:
// Deny): what must hold besides the match of the route, in one of several ways. Only headers and
// query_parameters are set.
func (r *Rule) Denied(site Site) []*routev3.RouteMatch {
	if r.missing() != v1alpha1.MissingDeny || r.Shadow() {
		return nil
	}
	selectors, err := r.selectors()
	if err != nil {
		return nil
	}
	parts := r.parts()
	if lacks(parts, site) {
		return []*routev3.RouteMatch{{Headers: selectors}}
	}
	var out []*routev3.RouteMatch
	for _, p := range parts {
		switch p.kind {
		case "header":
			out = append(out, &routev3.RouteMatch{Headers: append(selectors[:len(selectors):len(selectors)], absent(p.arg))})
		case "query":
			out = append(out, &routev3.RouteMatch{Headers: selectors, QueryParameters: []*routev3.QueryParameterMatcher{parameter(p.arg, false)}})
		}
	}
	return out
}

func parameter(name string, present bool) *routev3.QueryParameterMatcher {
	return &routev3.QueryParameterMatcher{
		Name:                         name,
		QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: present},
	}
}
