package catalog

import (
	"fmt"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func parseRuleFilters(field string, rule *gatewayv1.HTTPRouteRule, parsed *parsedRule) *refusal {
	seen := map[gatewayv1.HTTPRouteFilterType]bool{}
	for i := range rule.Filters {
		f, at := &rule.Filters[i], fmt.Sprintf("%s.filters[%d]", field, i)
		if seen[f.Type] {
			return refuse(ReasonIncompatibleFilters, at+".type", "a second %s in the rule; expected one", f.Type)
		}
		seen[f.Type] = true
		var refusal *refusal
		switch {
		case f.Type == gatewayv1.HTTPRouteFilterRequestRedirect && f.RequestRedirect != nil:
			parsed.actions.Redirect, refusal = parseRedirect(at+".requestRedirect", f.RequestRedirect, parsed.matches)
		case f.Type == gatewayv1.HTTPRouteFilterURLRewrite && f.URLRewrite != nil:
			parsed.actions.Rewrite, refusal = parseRewrite(at+".urlRewrite", f.URLRewrite, parsed.matches)
		default:
			refusal = parseHeaderFilter(at, f, &parsed.actions.RequestHeaders, &parsed.actions.ResponseHeaders)
		}
		if refusal != nil {
			return refusal
		}
	}
	if parsed.actions.Redirect != nil && parsed.actions.Rewrite != nil {
		return refuse(ReasonIncompatibleFilters, field+".filters", "RequestRedirect and URLRewrite in one rule; expected one of them")
	}
	if parsed.actions.Redirect != nil && len(rule.BackendRefs) > 0 {
		return unsupported(field+".backendRefs", "a rule with the filter RequestRedirect sends to no backend; expected none")
	}
	return nil
}

func parseBackendFilters(field string, filters []gatewayv1.HTTPRouteFilter, parsed *parsedBackend) *refusal {
	seen := map[gatewayv1.HTTPRouteFilterType]bool{}
	for i := range filters {
		f, at := &filters[i], fmt.Sprintf("%s.filters[%d]", field, i)
		if seen[f.Type] {
			return refuse(ReasonIncompatibleFilters, at+".type", "a second %s for the backend; expected one", f.Type)
		}
		seen[f.Type] = true
		switch f.Type {
		case gatewayv1.HTTPRouteFilterRequestRedirect, gatewayv1.HTTPRouteFilterURLRewrite:
			return unsupported(at+".type", "%s is supported on a rule, not on a backend", f.Type)
		}
		if refusal := parseHeaderFilter(at, f, &parsed.requestHeaders, &parsed.responseHeaders); refusal != nil {
			return refusal
		}
	}
	return nil
}

// parseHeaderFilter reads the two filters that rules and backends both have.
func parseHeaderFilter(field string, f *gatewayv1.HTTPRouteFilter, request, response *HeaderChange) *refusal {
	const known = "expected RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect or URLRewrite"
	switch f.Type {
	case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
		if f.RequestHeaderModifier != nil {
			return parseHeaderChange(field+".requestHeaderModifier", f.RequestHeaderModifier, request)
		}
	case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
		if f.ResponseHeaderModifier != nil {
			return parseHeaderChange(field+".responseHeaderModifier", f.ResponseHeaderModifier, response)
		}
	case gatewayv1.HTTPRouteFilterRequestRedirect, gatewayv1.HTTPRouteFilterURLRewrite:
	case gatewayv1.HTTPRouteFilterRequestMirror, gatewayv1.HTTPRouteFilterCORS,
		gatewayv1.HTTPRouteFilterExternalAuth, gatewayv1.HTTPRouteFilterExtensionRef:
		return unsupported(field+".type", "%s is not supported; %s", f.Type, known)
	default:
		return unsupported(field+".type", "%.80q; %s", f.Type, known)
	}
	name := strings.ToLower(string(f.Type[:1])) + string(f.Type[1:])
	if f.Type == gatewayv1.HTTPRouteFilterURLRewrite {
		name = "urlRewrite"
	}
	return unsupported(field+"."+name, "is missing; expected what the filter %s does", f.Type)
}

func parseHeaderChange(field string, f *gatewayv1.HTTPHeaderFilter, change *HeaderChange) (refusal *refusal) {
	if change.Set, refusal = parseHeaders(field+".set", f.Set); refusal != nil {
		return refusal
	}
	if change.Add, refusal = parseHeaders(field+".add", f.Add); refusal != nil {
		return refusal
	}
	for i, name := range f.Remove {
		if refusal := checkHeaderName(fmt.Sprintf("%s.remove[%d]", field, i), name); refusal != nil {
			return refusal
		}
		change.Remove = append(change.Remove, name)
	}
	return nil
}

func parseHeaders(field string, headers []gatewayv1.HTTPHeader) (parsed []Header, refusal *refusal) {
	for i, h := range headers {
		at := fmt.Sprintf("%s[%d]", field, i)
		if refusal := checkHeaderName(at+".name", string(h.Name)); refusal != nil {
			return nil, refusal
		}
		if problem := textProblem(h.Value); problem != "" {
			return nil, unsupported(at+".value", "%.80q %s", h.Value, problem)
		}
		if h.Value == "" || len(h.Value) > 4096 {
			return nil, unsupported(at+".value", "has %d bytes; expected 1 to 4096", len(h.Value))
		}
		parsed = append(parsed, Header{Name: string(h.Name), Value: h.Value})
	}
	return parsed, nil
}

// checkHeaderName refuses what is no header name, and Host: Envoy does not let header changes touch it.
func checkHeaderName(field, name string) *refusal {
	if !headerName.MatchString(name) {
		return unsupported(field, "%.80q; expected letters, digits and -_. as in the name of a header", name)
	}
	if strings.EqualFold(name, "host") {
		return unsupported(field, "Host cannot be changed here; expected another header, or the filter URLRewrite with hostname")
	}
	return nil
}

func parseRedirect(field string, f *gatewayv1.HTTPRequestRedirectFilter, matches []Match) (r *Redirect, refusal *refusal) {
	r = &Redirect{Code: 302}
	if f.Scheme != nil {
		if *f.Scheme != "http" && *f.Scheme != "https" {
			return nil, unsupported(field+".scheme", "%.80q; expected http or https", *f.Scheme)
		}
		r.Scheme = *f.Scheme
	}
	if r.Hostname, refusal = preciseHostname(field+".hostname", f.Hostname); refusal != nil {
		return nil, refusal
	}
	if f.Port != nil {
		if *f.Port < 1 || *f.Port > 65535 {
			return nil, unsupported(field+".port", "%d; expected 1 to 65535", *f.Port)
		}
		r.Port = uint32(*f.Port)
	}
	if f.StatusCode != nil {
		switch *f.StatusCode {
		case 301, 302, 303, 307, 308:
			r.Code = *f.StatusCode
		default:
			return nil, unsupported(field+".statusCode", "%d; expected 301, 302, 303, 307 or 308", *f.StatusCode)
		}
	}
	r.Path, refusal = parsePathChange(field+".path", f.Path, matches)
	return r, refusal
}

// at is the redirect as the listener of a port gives it. Gateway API derives a port that is left out:
// the scheme's own, or without a scheme the listener's. Envoy keeps the port of the request's Host, if
// the host stays, and puts none, if it is replaced; where that comes to the same, Port stays 0.
func (r *Redirect) at(port uint32) *Redirect {
	if r == nil || r.Port != 0 || port == 80 {
		return r
	}
	derived := *r
	switch {
	case r.Scheme == "" && r.Hostname != "":
		derived.Port = port
	case r.Scheme == "http" && r.Hostname == "":
		derived.Port = 80
	case r.Scheme == "https" && r.Hostname == "":
		derived.Port = 443
	}
	return &derived
}

func parseRewrite(field string, f *gatewayv1.HTTPURLRewriteFilter, matches []Match) (r *Rewrite, refusal *refusal) {
	r = &Rewrite{}
	if r.Hostname, refusal = preciseHostname(field+".hostname", f.Hostname); refusal != nil {
		return nil, refusal
	}
	r.Path, refusal = parsePathChange(field+".path", f.Path, matches)
	return r, refusal
}

func preciseHostname(field string, hostname *gatewayv1.PreciseHostname) (string, *refusal) {
	if hostname == nil {
		return "", nil
	}
	if strings.HasPrefix(string(*hostname), "*") {
		return "", unsupported(field, "%.80q; expected a name without a wildcard", *hostname)
	}
	if problem := hostnameProblem(string(*hostname)); problem != "" {
		return "", unsupported(field, "%.80q %s", *hostname, problem)
	}
	return string(*hostname), nil
}

func parsePathChange(field string, m *gatewayv1.HTTPPathModifier, matches []Match) (*PathChange, *refusal) {
	if m == nil {
		return nil, nil
	}
	switch {
	case m.Type == gatewayv1.FullPathHTTPPathModifier && m.ReplaceFullPath != nil:
		if problem := pathProblem(*m.ReplaceFullPath); problem != "" {
			return nil, unsupported(field+".replaceFullPath", "%.80q %s", *m.ReplaceFullPath, problem)
		}
		return &PathChange{Full: m.ReplaceFullPath}, nil
	case m.Type == gatewayv1.PrefixMatchHTTPPathModifier && m.ReplacePrefixMatch != nil:
		prefix := *m.ReplacePrefixMatch
		if prefix == "" {
			prefix = "/"
		}
		if problem := pathProblem(prefix); problem != "" {
			return nil, unsupported(field+".replacePrefixMatch", "%.80q %s", prefix, problem)
		}
		for _, match := range matches {
			if match.Path.Type != Prefix {
				return nil, unsupported(field+".replacePrefixMatch", "the rule matches a path by %s; expected matches by PathPrefix only", match.Path.Type)
			}
		}
		return &PathChange{Prefix: &prefix}, nil
	}
	return nil, unsupported(field+".type", "%.80q without its value; expected ReplaceFullPath with replaceFullPath, or ReplacePrefixMatch with replacePrefixMatch", m.Type)
}
