package admit

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func (c *checks) httpRoute(route *gatewayv1.HTTPRoute) {
	path := field.NewPath("spec")
	c.parentRefs(path.Child("parentRefs"), route.Spec.ParentRefs)
	c.atMost(path.Child("hostnames"), len(route.Spec.Hostnames), 16)
	for i, name := range route.Spec.Hostnames {
		c.hostname(path.Child("hostnames").Index(i), string(name))
	}
	rules := path.Child("rules")
	c.between(rules, len(route.Spec.Rules), 1, 16)
	names := map[gatewayv1.SectionName]bool{}
	matches := 0
	for i := range route.Spec.Rules {
		at, rule := rules.Index(i), &route.Spec.Rules[i]
		if rule.Name != nil {
			c.sectionName(at.Child("name"), rule.Name)
			if names[*rule.Name] {
				c.duplicate(at.Child("name"), *rule.Name)
			}
			names[*rule.Name] = true
		}
		matches += len(rule.Matches)
		c.rule(at, rule)
	}
	if matches > 128 {
		c.invalid(rules, field.OmitValueType{}, "must have at most 128 matches in all")
	}
}

func (c *checks) parentRefs(path *field.Path, refs []gatewayv1.ParentReference) {
	c.atMost(path, len(refs), 32)
	type parent struct{ group, kind, namespace, name string }
	type part struct {
		section gatewayv1.SectionName
		port    gatewayv1.PortNumber
	}
	seen := map[parent][]part{}
	for i, ref := range refs {
		at := path.Index(i)
		c.group(at.Child("group"), ref.Group)
		c.kind(at.Child("kind"), ref.Kind)
		c.namespace(at.Child("namespace"), ref.Namespace)
		c.objectName(at.Child("name"), ref.Name)
		c.sectionName(at.Child("sectionName"), ref.SectionName)
		c.optionalPort(at.Child("port"), ref.Port)

		to := parent{string(*ref.Group), string(*ref.Kind), string(value(ref.Namespace)), string(ref.Name)}
		this := part{value(ref.SectionName), value(ref.Port)}
		for _, other := range seen[to] {
			if this == other {
				c.duplicate(at, ref.Name)
				break
			}
			if (this.section == "") != (other.section == "") || (this.port == 0) != (other.port == 0) {
				c.invalid(at, field.OmitValueType{}, "must say sectionName or port exactly where the other references to the same parent do")
				break
			}
		}
		seen[to] = append(seen[to], this)
	}
}

// value is *p, or the zero value for nil.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func (c *checks) rule(path *field.Path, rule *gatewayv1.HTTPRouteRule) {
	c.atMost(path.Child("matches"), len(rule.Matches), 64)
	for i := range rule.Matches {
		c.match(path.Child("matches").Index(i), &rule.Matches[i])
	}
	onePrefix := len(rule.Matches) == 1 && *rule.Matches[0].Path.Type == gatewayv1.PathMatchPathPrefix
	c.filters(path.Child("filters"), rule.Filters, onePrefix)
	backends := path.Child("backendRefs")
	c.atMost(backends, len(rule.BackendRefs), 16)
	for i := range rule.BackendRefs {
		at, b := backends.Index(i), &rule.BackendRefs[i]
		c.backend(at, &b.BackendObjectReference)
		if *b.Weight < 0 || *b.Weight > 1_000_000 {
			c.invalid(at.Child("weight"), *b.Weight, "must be between 0 and 1000000")
		}
		c.filters(at.Child("filters"), b.Filters, onePrefix)
	}
	if len(rule.BackendRefs) > 0 && slices.ContainsFunc(rule.Filters, func(f gatewayv1.HTTPRouteFilter) bool { return f.RequestRedirect != nil }) {
		c.invalid(backends, field.OmitValueType{}, "must be left out in a rule that redirects")
	}
	if rule.Timeouts != nil {
		request := c.duration(path.Child("timeouts", "request"), rule.Timeouts.Request)
		attempt := c.duration(path.Child("timeouts", "backendRequest"), rule.Timeouts.BackendRequest)
		if request > 0 && attempt > request {
			c.invalid(path.Child("timeouts", "backendRequest"), *rule.Timeouts.BackendRequest,
				"must be at most the timeout of the whole request, "+string(*rule.Timeouts.Request))
		}
	}
}

func (c *checks) match(path *field.Path, match *gatewayv1.HTTPRouteMatch) {
	c.pathMatch(path.Child("path"), match.Path)
	oneOf(c, path.Child("method"), match.Method,
		gatewayv1.HTTPMethodGet, gatewayv1.HTTPMethodHead, gatewayv1.HTTPMethodPost, gatewayv1.HTTPMethodPut, gatewayv1.HTTPMethodDelete,
		gatewayv1.HTTPMethodConnect, gatewayv1.HTTPMethodOptions, gatewayv1.HTTPMethodTrace, gatewayv1.HTTPMethodPatch)
	headers := path.Child("headers")
	c.atMost(headers, len(match.Headers), 16)
	names := map[gatewayv1.HTTPHeaderName]bool{}
	for i, h := range match.Headers {
		at := headers.Index(i)
		oneOf(c, at.Child("type"), h.Type, gatewayv1.HeaderMatchExact, gatewayv1.HeaderMatchRegularExpression)
		c.valueMatch(at, h.Name, h.Value, 4096, *h.Type == gatewayv1.HeaderMatchRegularExpression, names)
	}
	queries := path.Child("queryParams")
	c.atMost(queries, len(match.QueryParams), 16)
	names = map[gatewayv1.HTTPHeaderName]bool{}
	for i, q := range match.QueryParams {
		at := queries.Index(i)
		oneOf(c, at.Child("type"), q.Type, gatewayv1.QueryParamMatchExact, gatewayv1.QueryParamMatchRegularExpression)
		c.valueMatch(at, q.Name, q.Value, 1024, *q.Type == gatewayv1.QueryParamMatchRegularExpression, names)
	}
}

func (c *checks) pathMatch(path *field.Path, match *gatewayv1.HTTPPathMatch) {
	at, value := path.Child("value"), *match.Value
	oneOf(c, path.Child("type"), match.Type, gatewayv1.PathMatchExact, gatewayv1.PathMatchPathPrefix, gatewayv1.PathMatchRegularExpression)
	if *match.Type == gatewayv1.PathMatchRegularExpression {
		c.regex(at, value)
		return
	}
	if len(value) > 1024 {
		c.errs = append(c.errs, field.TooLong(at, value, 1024))
		return
	}
	if !strings.HasPrefix(value, "/") {
		c.invalid(at, value, "must begin with /")
		return
	}
	for _, part := range []string{"//", "/./", "/../", "%2f", "%2F", "#"} {
		if strings.Contains(value, part) {
			c.invalid(at, value, "must not contain "+part)
			return
		}
	}
	if strings.HasSuffix(value, "/.") || strings.HasSuffix(value, "/..") {
		c.invalid(at, value, "must not end with /. or /..")
	} else if !pathCharacters.MatchString(value) {
		c.invalid(at, value, "must have only the characters of a URL path, others as %XX")
	}
}

func (c *checks) valueMatch(path *field.Path, name gatewayv1.HTTPHeaderName, value string, limit int, regex bool, taken map[gatewayv1.HTTPHeaderName]bool) {
	c.headerName(path.Child("name"), string(name))
	if taken[name] {
		c.duplicate(path.Child("name"), name)
	}
	taken[name] = true
	c.requiredText(path.Child("value"), value, limit)
	if regex {
		c.regex(path.Child("value"), value)
	}
}

func (c *checks) backend(path *field.Path, ref *gatewayv1.BackendObjectReference) {
	c.group(path.Child("group"), ref.Group)
	c.kind(path.Child("kind"), ref.Kind)
	c.objectName(path.Child("name"), ref.Name)
	c.namespace(path.Child("namespace"), ref.Namespace)
	c.optionalPort(path.Child("port"), ref.Port)
	if ref.Port == nil && *ref.Group == "" && *ref.Kind == "Service" {
		c.required(path.Child("port"), "must be the port of the Service")
	}
}
