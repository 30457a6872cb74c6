package admit

import (
	"k8s.io/apimachinery/pkg/util/validation/field"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// filters checks the filters of a rule or of a backend. onePrefix: the rule has one match, of a path
// prefix, so that a prefix can be replaced.
func (c *checks) filters(path *field.Path, filters []gatewayv1.HTTPRouteFilter, onePrefix bool) {
	c.atMost(path, len(filters), 16)
	seen := map[gatewayv1.HTTPRouteFilterType]bool{}
	for i := range filters {
		at, f := path.Index(i), &filters[i]
		c.filter(at, f, onePrefix)
		switch f.Type {
		case gatewayv1.HTTPRouteFilterRequestMirror, gatewayv1.HTTPRouteFilterExtensionRef:
		default:
			if seen[f.Type] {
				c.duplicate(at.Child("type"), f.Type)
			}
		}
		seen[f.Type] = true
	}
	if seen[gatewayv1.HTTPRouteFilterRequestRedirect] && seen[gatewayv1.HTTPRouteFilterURLRewrite] {
		c.invalid(path, field.OmitValueType{}, "must not both redirect and rewrite")
	}
}

func (c *checks) filter(path *field.Path, f *gatewayv1.HTTPRouteFilter, onePrefix bool) {
	variants := []struct {
		kind gatewayv1.HTTPRouteFilterType
		key  string
		set  bool
	}{
		{gatewayv1.HTTPRouteFilterRequestHeaderModifier, "requestHeaderModifier", f.RequestHeaderModifier != nil},
		{gatewayv1.HTTPRouteFilterResponseHeaderModifier, "responseHeaderModifier", f.ResponseHeaderModifier != nil},
		{gatewayv1.HTTPRouteFilterRequestMirror, "requestMirror", f.RequestMirror != nil},
		{gatewayv1.HTTPRouteFilterRequestRedirect, "requestRedirect", f.RequestRedirect != nil},
		{gatewayv1.HTTPRouteFilterURLRewrite, "urlRewrite", f.URLRewrite != nil},
		{gatewayv1.HTTPRouteFilterCORS, "cors", f.CORS != nil},
		{gatewayv1.HTTPRouteFilterExternalAuth, "externalAuth", f.ExternalAuth != nil},
		{gatewayv1.HTTPRouteFilterExtensionRef, "extensionRef", f.ExtensionRef != nil},
	}
	kinds := make([]gatewayv1.HTTPRouteFilterType, len(variants))
	for i, v := range variants {
		kinds[i] = v.kind
		switch {
		case v.kind == f.Type && !v.set:
			c.required(path.Child(v.key), "must be given for the type "+string(f.Type))
		case v.kind != f.Type && v.set:
			c.invalid(path.Child(v.key), field.OmitValueType{}, "must be left out: the type is "+string(f.Type))
		}
	}
	if f.Type == "" {
		c.required(path.Child("type"), "must be given")
	} else {
		oneOf(c, path.Child("type"), &f.Type, kinds...)
	}
	c.headerFilter(path.Child("requestHeaderModifier"), f.RequestHeaderModifier)
	c.headerFilter(path.Child("responseHeaderModifier"), f.ResponseHeaderModifier)
	c.redirect(path.Child("requestRedirect"), f.RequestRedirect, onePrefix)
	if f.URLRewrite != nil {
		c.rewriteHostname(path.Child("urlRewrite", "hostname"), f.URLRewrite.Hostname)
		c.pathModifier(path.Child("urlRewrite", "path"), f.URLRewrite.Path, onePrefix)
	}
	c.mirror(path.Child("requestMirror"), f.RequestMirror)
	if ref := f.ExtensionRef; ref != nil {
		c.group(path.Child("extensionRef", "group"), &ref.Group)
		c.kind(path.Child("extensionRef", "kind"), &ref.Kind)
		c.objectName(path.Child("extensionRef", "name"), ref.Name)
	}
}

func (c *checks) headerFilter(path *field.Path, f *gatewayv1.HTTPHeaderFilter) {
	if f == nil {
		return
	}
	list := func(path *field.Path, headers []gatewayv1.HTTPHeader) {
		c.atMost(path, len(headers), 16)
		taken := map[gatewayv1.HTTPHeaderName]bool{}
		for i, h := range headers {
			c.valueMatch(path.Index(i), h.Name, h.Value, 4096, false, taken)
		}
	}
	list(path.Child("set"), f.Set)
	list(path.Child("add"), f.Add)
	c.atMost(path.Child("remove"), len(f.Remove), 16)
	taken := map[string]bool{}
	for i, name := range f.Remove {
		c.headerName(path.Child("remove").Index(i), name)
		if taken[name] {
			c.duplicate(path.Child("remove").Index(i), name)
		}
		taken[name] = true
	}
}

func (c *checks) redirect(path *field.Path, r *gatewayv1.HTTPRequestRedirectFilter, onePrefix bool) {
	if r == nil {
		return
	}
	oneOf(c, path.Child("scheme"), r.Scheme, "http", "https")
	c.rewriteHostname(path.Child("hostname"), r.Hostname)
	c.pathModifier(path.Child("path"), r.Path, onePrefix)
	c.optionalPort(path.Child("port"), r.Port)
	switch *r.StatusCode {
	case 301, 302, 303, 307, 308:
	default:
		c.errs = append(c.errs, field.NotSupported(path.Child("statusCode"), *r.StatusCode, []string{"301", "302", "303", "307", "308"}))
	}
}

func (c *checks) rewriteHostname(path *field.Path, name *gatewayv1.PreciseHostname) {
	if name != nil {
		c.preciseHostname(path, string(*name))
	}
}

func (c *checks) pathModifier(path *field.Path, m *gatewayv1.HTTPPathModifier, onePrefix bool) {
	if m == nil {
		return
	}
	full, prefix := gatewayv1.FullPathHTTPPathModifier, gatewayv1.PrefixMatchHTTPPathModifier
	oneOf(c, path.Child("type"), &m.Type, full, prefix)
	variant := func(name string, kind gatewayv1.HTTPPathModifierType, value *string) {
		at := path.Child(name)
		switch {
		case m.Type == kind && value == nil:
			c.required(at, "must be given for the type "+string(kind))
		case m.Type != kind && value != nil:
			c.invalid(at, *value, "must be left out: the type is "+string(m.Type))
		case value != nil:
			c.text(at, *value, 1024)
		}
	}
	variant("replaceFullPath", full, m.ReplaceFullPath)
	variant("replacePrefixMatch", prefix, m.ReplacePrefixMatch)
	if m.Type == prefix && !onePrefix {
		c.invalid(path.Child("type"), m.Type, "must be in a rule with exactly one match, of the type PathPrefix")
	}
}

func (c *checks) mirror(path *field.Path, m *gatewayv1.HTTPRequestMirrorFilter) {
	if m == nil {
		return
	}
	c.backend(path.Child("backendRef"), &m.BackendRef)
	if m.Percent != nil && m.Fraction != nil {
		c.invalid(path, field.OmitValueType{}, "must have at most one of percent and fraction")
	}
	if m.Percent != nil && (*m.Percent < 0 || *m.Percent > 100) {
		c.invalid(path.Child("percent"), *m.Percent, "must be between 0 and 100")
	}
	if f := m.Fraction; f != nil && (f.Numerator < 0 || *f.Denominator < 1 || f.Numerator > *f.Denominator) {
		c.invalid(path.Child("fraction"), field.OmitValueType{}, "must be between 0 and 1")
	}
}
