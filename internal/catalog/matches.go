package catalog

import (
	"fmt"
	"regexp"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/internal/re2"
)

var (
	gep2257    = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)
	headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$")
	// pathChars are the characters of a path in RFC 3986.
	pathChars = regexp.MustCompile(`^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+$`)
	methods   = map[gatewayv1.HTTPMethod]bool{
		gatewayv1.HTTPMethodGet: true, gatewayv1.HTTPMethodHead: true, gatewayv1.HTTPMethodPost: true,
		gatewayv1.HTTPMethodPut: true, gatewayv1.HTTPMethodDelete: true, gatewayv1.HTTPMethodOptions: true,
		gatewayv1.HTTPMethodTrace: true, gatewayv1.HTTPMethodPatch: true,
	}
)

func parseMatch(field string, match *gatewayv1.HTTPRouteMatch) (m Match, refusal *refusal) {
	if m.Path, refusal = parsePath(field+".path", match.Path); refusal != nil {
		return m, refusal
	}
	if match.Method != nil {
		// CONNECT has no path to match and needs an upgrade that we do not configure.
		if !methods[*match.Method] {
			return m, unsupported(field+".method", "%.80q; expected GET, HEAD, POST, PUT, DELETE, OPTIONS, TRACE or PATCH", *match.Method)
		}
		m.Method = string(*match.Method)
	}
	for i, h := range match.Headers {
		at := fmt.Sprintf("%s.headers[%d]", field, i)
		v, refusal := parseValue(at, string(h.Name), (*string)(h.Type), h.Value)
		if refusal != nil {
			return m, refusal
		}
		v.Name = strings.ToLower(v.Name)
		m.Headers = appendFirst(m.Headers, v)
	}
	for i, q := range match.QueryParams {
		at := fmt.Sprintf("%s.queryParams[%d]", field, i)
		v, refusal := parseValue(at, string(q.Name), (*string)(q.Type), q.Value)
		if refusal != nil {
			return m, refusal
		}
		m.Queries = appendFirst(m.Queries, v)
	}
	return m, nil
}

// appendFirst leaves a second match of one name out, as Gateway API rules.
func appendFirst(matches []ValueMatch, v ValueMatch) []ValueMatch {
	for _, m := range matches {
		if m.Name == v.Name {
			return matches
		}
	}
	return append(matches, v)
}

func parsePath(field string, path *gatewayv1.HTTPPathMatch) (PathMatch, *refusal) {
	typ, value := gatewayv1.PathMatchPathPrefix, "/"
	if path != nil && path.Type != nil {
		typ = *path.Type
	}
	if path != nil && path.Value != nil {
		value = *path.Value
	}
	switch typ {
	case gatewayv1.PathMatchExact, gatewayv1.PathMatchPathPrefix:
		if problem := pathProblem(value); problem != "" {
			return PathMatch{}, unsupported(field+".value", "%.80q %s", value, problem)
		}
		if typ == gatewayv1.PathMatchExact {
			return PathMatch{Type: Exact, Value: value}, nil
		}
		// A trailing slash of a prefix means nothing: "/a/" selects what "/a" does.
		if value != "/" {
			value = strings.TrimSuffix(value, "/")
		}
		return PathMatch{Type: Prefix, Value: value}, nil
	case gatewayv1.PathMatchRegularExpression:
		if problem := regexProblem(value); problem != "" {
			return PathMatch{}, unsupported(field+".value", "%.80q %s", value, problem)
		}
		return PathMatch{Type: Regex, Value: value}, nil
	}
	return PathMatch{}, unsupported(field+".type", "%.80q; expected Exact, PathPrefix or RegularExpression", typ)
}

// pathProblem says what is wrong with a literal path, "" if nothing is. Envoy normalises the path of a
// request before it matches, so a path that is not normal would never match.
func pathProblem(path string) string {
	switch {
	case !strings.HasPrefix(path, "/"):
		return "does not begin with /"
	case len(path) > 1024:
		return "is longer than 1024 bytes"
	case !pathChars.MatchString(path):
		return "has a character that no path has (RFC 3986); expected it as %XX"
	case strings.Contains(path, "//"), strings.Contains(path+"/", "/./"), strings.Contains(path+"/", "/../"),
		strings.Contains(strings.ToLower(path), "%2f"):
		return "is not normal; expected a path without //, /./, /../ and %2F"
	}
	return ""
}

// regexProblem says what is wrong with an expression that must match a whole value, "" if nothing is.
func regexProblem(expr string) string {
	if err := re2.Check(expr); err != nil {
		return err.Error()
	}
	return ""
}

// textProblem refuses what cannot stand in a header: it would end the line, or the string in Envoy.
func textProblem(text string) string {
	if strings.ContainsAny(text, "\r\n\x00") {
		return "has a line break or a NUL, which no header can hold"
	}
	return ""
}

func parseValue(field, name string, typ *string, value string) (ValueMatch, *refusal) {
	if !headerName.MatchString(name) {
		return ValueMatch{}, unsupported(field+".name", "%.80q; expected letters, digits and -_. as in the name of a header", name)
	}
	m := ValueMatch{Name: name, Type: Exact, Value: value}
	if typ != nil {
		m.Type = MatchType(*typ)
	}
	switch m.Type {
	case Exact:
		if problem := textProblem(value); problem != "" {
			return m, unsupported(field+".value", "%.80q %s", value, problem)
		}
		if value == "" || len(value) > 4096 {
			return m, unsupported(field+".value", "has %d bytes; expected 1 to 4096", len(value))
		}
	case "RegularExpression":
		m.Type = Regex
		if problem := regexProblem(value); problem != "" {
			return m, unsupported(field+".value", "%.80q %s", value, problem)
		}
	default:
		return m, unsupported(field+".type", "%.80q; expected Exact or RegularExpression", *typ)
	}
	return m, nil
}
