package catalog

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/internal/source"
)

// parsedRoute is what an HTTPRoute says by itself, before its parents and backends are looked up.
type parsedRoute struct {
	object    *gatewayv1.HTTPRoute
	ref       source.Ref
	hostnames []string // never empty: anyHost stands for none
	rules     []parsedRule
}

type parsedRule struct {
	name    string // its own, else its index; unique in the route
	matches []Match
	actions Route // all but Name, Match and Backends
	// backends are those with a weight.
	backends []parsedBackend
}

type parsedBackend struct {
	ref             gatewayv1.BackendObjectReference
	field           string
	weight          uint32
	requestHeaders  HeaderChange
	responseHeaders HeaderChange
}

// everyRequest is the match of a rule that names none, as the API server would default it.
var everyRequest = []gatewayv1.HTTPRouteMatch{{}}

// parseRoute reads an HTTPRoute. It is refused as a whole, for rules depend on each other: without one
// of them its requests would go to the next that matches.
func parseRoute(object *gatewayv1.HTTPRoute) (*parsedRoute, *refusal) {
	p := &parsedRoute{
		object: object,
		ref:    source.Ref{Kind: source.KindHTTPRoute, Namespace: object.Namespace, Name: object.Name},
	}
	for i, hostname := range object.Spec.Hostnames {
		if problem := hostnameProblem(string(hostname)); problem != "" {
			return nil, refuse(ReasonUnsupportedValue, fmt.Sprintf("spec.hostnames[%d]", i), "%.80q %s", hostname, problem)
		}
		p.hostnames = append(p.hostnames, string(hostname))
	}
	if len(p.hostnames) == 0 {
		p.hostnames = []string{anyHost}
	}
	rules := object.Spec.Rules
	if len(rules) == 0 {
		rules = []gatewayv1.HTTPRouteRule{{}}
	}
	names := map[string]int{}
	for i := range rules {
		rule, refusal := parseRule(fmt.Sprintf("spec.rules[%d]", i), &rules[i])
		if refusal != nil {
			return nil, refusal
		}
		rule.actions.Object = p.ref
		if name := rules[i].Name; name != nil && *name != "" {
			if first, taken := names[string(*name)]; taken {
				return nil, refuse(ReasonUnsupportedValue, fmt.Sprintf("spec.rules[%d].name", i),
					"%.80q is the name of spec.rules[%d] already; expected a name of its own", *name, first)
			}
			names[string(*name)] = i
			rule.name = string(*name)
		}
		p.rules = append(p.rules, rule)
	}
	for i := range p.rules {
		if rule := &p.rules[i]; rule.name == "" {
			rule.name = strconv.Itoa(i)
			if _, taken := names[rule.name]; taken {
				rule.name = "#" + rule.name // which no rule can have of its own
			}
		}
	}
	return p, nil
}

func parseRule(field string, rule *gatewayv1.HTTPRouteRule) (parsed parsedRule, refusal *refusal) {
	if rule.Retry != nil {
		return parsed, unsupported(field+".retry", "retries are not supported")
	}
	if rule.SessionPersistence != nil {
		return parsed, unsupported(field+".sessionPersistence", "session persistence is not supported")
	}
	matches := rule.Matches
	if len(matches) == 0 {
		matches = everyRequest
	}
	for i := range matches {
		match, refusal := parseMatch(fmt.Sprintf("%s.matches[%d]", field, i), &matches[i])
		if refusal != nil {
			return parsed, refusal
		}
		parsed.matches = append(parsed.matches, match)
	}
	if refusal = parseRuleFilters(field, rule, &parsed); refusal != nil {
		return parsed, refusal
	}
	if refusal = parseTimeouts(field+".timeouts", rule.Timeouts, &parsed.actions); refusal != nil {
		return parsed, refusal
	}
	for i := range rule.BackendRefs {
		backend, refusal := parseBackend(fmt.Sprintf("%s.backendRefs[%d]", field, i), &rule.BackendRefs[i])
		if refusal != nil {
			return parsed, refusal
		}
		if backend.weight > 0 {
			parsed.backends = append(parsed.backends, backend)
		}
	}
	return parsed, nil
}

// maxBackendWeight is Gateway API's bound on a backendRef's weight.
const maxBackendWeight = 1_000_000

func parseBackend(field string, ref *gatewayv1.HTTPBackendRef) (parsed parsedBackend, refusal *refusal) {
	parsed = parsedBackend{ref: ref.BackendObjectReference, field: field, weight: 1}
	if ref.Weight != nil {
		if *ref.Weight < 0 || *ref.Weight > maxBackendWeight {
			return parsed, unsupported(field+".weight", "%d; expected 0 to %d", *ref.Weight, maxBackendWeight)
		}
		parsed.weight = uint32(*ref.Weight)
	}
	if (ref.Kind == nil || *ref.Kind == source.KindService) && ref.Port == nil {
		return parsed, unsupported(field+".port", "is missing; expected a port of the Service")
	}
	return parsed, parseBackendFilters(field, ref.Filters, &parsed)
}

// parseTimeouts reads GEP-1742 timeouts. Zero turns a timeout off.
func parseTimeouts(field string, timeouts *gatewayv1.HTTPRouteTimeouts, r *Route) (refusal *refusal) {
	r.Timeout = -1
	if timeouts == nil {
		return nil
	}
	if timeouts.Request != nil {
		if r.Timeout, refusal = parseDuration(field+".request", *timeouts.Request); refusal != nil {
			return refusal
		}
	}
	if timeouts.BackendRequest != nil {
		if r.BackendTimeout, refusal = parseDuration(field+".backendRequest", *timeouts.BackendRequest); refusal != nil {
			return refusal
		}
	}
	if r.Timeout > 0 && r.BackendTimeout > r.Timeout {
		return unsupported(field+".backendRequest", "%s; expected at most the request timeout, %s",
			*timeouts.BackendRequest, *timeouts.Request)
	}
	return nil
}

// parseDuration reads a duration of GEP-2257: one to four numbers of up to five digits, each with the
// unit h, m, s or ms.
func parseDuration(field string, text gatewayv1.Duration) (time.Duration, *refusal) {
	if !gep2257.MatchString(string(text)) {
		return 0, unsupported(field, "%.80q; expected a duration such as 500ms, 10s or 1h30m", text)
	}
	d, err := time.ParseDuration(string(text))
	if err != nil {
		return 0, unsupported(field, "%.80q; expected a duration such as 500ms, 10s or 1h30m", text)
	}
	return d, nil
}

func unsupported(field, format string, args ...any) *refusal {
	return refuse(ReasonUnsupportedValue, field, format, args...)
}

// routes are the rules as the catalog shows them, for the listener of the port.
func (p *parsedRoute) routes(port uint32, backends [][]Backend) []Route {
	var routes []Route
	for i := range p.rules {
		rule := &p.rules[i]
		for m := range rule.matches {
			r := rule.actions
			r.Name = strings.Join([]string{p.ref.Namespace, p.ref.Name, rule.name, strconv.Itoa(m)}, "/")
			r.Match = rule.matches[m]
			r.Redirect = r.Redirect.at(port)
			r.Backends = backends[i]
			routes = append(routes, r)
		}
	}
	return routes
}

// rule is the name of the rule in r's name.
func (r *Route) rule() string {
	parts := strings.Split(r.Name, "/")
	return parts[len(parts)-2]
}

// ruleNamed is the index of the rule of that name.
func (p *parsedRoute) ruleNamed(name string) int {
	return slices.IndexFunc(p.rules, func(r parsedRule) bool { return r.name == name })
}

// sectionOf is the name that the rule has in the object, "" for none.
func (p *parsedRoute) sectionOf(rule int) string {
	if rule < len(p.object.Spec.Rules) && p.object.Spec.Rules[rule].Name != nil {
		return string(*p.object.Spec.Rules[rule].Name)
	}
	return ""
}

// serviceNames are the names of the Services of a rule, those that get no requests now included.
func (p *parsedRoute) serviceNames(rule int) (names []string) {
	if rule < len(p.object.Spec.Rules) {
		for _, b := range p.object.Spec.Rules[rule].BackendRefs {
			names = append(names, string(b.Name))
		}
	}
	return names
}
