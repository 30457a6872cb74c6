package v1alpha1

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"evenkeel.io/controlplane/internal/celx"
	"evenkeel.io/controlplane/internal/re2"
)

// The kinds of a part of Limit.Key, before the colon or the slash.
const (
	partHeader    = "header"
	partClaim     = "claim"
	partQuery     = "query"
	partIP        = "ip"
	partMethod    = "method"
	partPath      = "path"
	partRoute     = "route"
	partNamespace = "namespace"
	partCEL       = "cel"
)

var (
	httpMethod = regexp.MustCompile(`^[A-Z]([A-Z_-]{0,30}[A-Z])?$`)
	// literalPath is a path as it stands in a request line, before its query.
	literalPath = regexp.MustCompile(`^/[!"$->@-~]*$`)
	headerName  = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$")
	queryName   = regexp.MustCompile(`^[!-~]{1,256}$`)
)

// framing are the headers that say where a message begins, ends or goes to, in lower case.
var framing = []string{"connection", "content-length", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}

func (w *When) validate(path *field.Path) (errs field.ErrorList) {
	if w == nil {
		return nil
	}
	for _, list := range []struct {
		name   string
		values []string
		check  func(*field.Path, string) field.ErrorList
	}{
		{"methods", w.Methods, validMethod},
		{"paths", w.Paths, validPath},
		{"backends", w.Backends, validBackend},
	} {
		at := path.Child(list.name)
		if len(list.values) > maxSelectors {
			errs = append(errs, field.TooMany(at, len(list.values), maxSelectors))
		}
		for i, value := range list.values {
			errs = append(errs, list.check(at.Index(i), value)...)
		}
	}
	headers := path.Child("headers")
	if len(w.Headers) > maxSelectors {
		errs = append(errs, field.TooMany(headers, len(w.Headers), maxSelectors))
	}
	errs = append(errs, headerNames(headers, w.Headers)...)
	for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
		errs = append(errs, validHeaderMatch(headers.Key(name), w.Headers[name])...)
	}
	if w.CEL != nil {
		errs = append(errs, described(path.Child("cel"), *w.CEL, celx.Condition(*w.CEL))...)
	}
	return errs
}

func validMethod(path *field.Path, method string) field.ErrorList {
	if httpMethod.MatchString(method) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, method, "must be a method in capitals, such as GET")}
}

func validPath(path *field.Path, value string) field.ErrorList {
	if expression, ok := strings.CutPrefix(value, "~"); ok {
		return described(path, value, re2.Check(expression))
	}
	switch literal := strings.TrimPrefix(value, "="); {
	case len(value) > maxText:
		return field.ErrorList{field.TooLong(path, value, maxText)}
	case !literalPath.MatchString(literal):
		return field.ErrorList{field.Invalid(path, value, `must be "/prefix", "=/exact" or "~expression", without a query; what is not ASCII is written with %`)}
	}
	return nil
}

func validBackend(path *field.Path, name string) (errs field.ErrorList) {
	for _, problem := range validation.IsDNS1123Label(name) {
		errs = append(errs, field.Invalid(path, name, "must be the name of a Service: "+problem))
	}
	return errs
}

func validHeaderMatch(path *field.Path, value string) field.ErrorList {
	if errs := plainText(path, value); errs != nil {
		return errs
	}
	if expression, regex := strings.CutPrefix(value, "~"); regex {
		return described(path, value, re2.Check(expression))
	}
	if strings.HasPrefix(value, "!") && value != "!*" {
		return field.ErrorList{field.Invalid(path, value, `must be a value, "*" (present), "!*" (absent) or "~expression"; a value that begins with ! is written "~!value"`)}
	}
	return nil
}

// headerNames checks the keys of a map by name of headers, which are the same in either case.
func headerNames[V any](path *field.Path, headers map[string]V) (errs field.ErrorList) {
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		if !headerName.MatchString(name) {
			errs = append(errs, field.Invalid(path.Key(name), name, "must be the name of a header: at most 256 letters, digits and !#$%&'*+-.^_`|~"))
		}
		if other, twice := seen[strings.ToLower(name)]; twice {
			errs = append(errs, field.Invalid(path.Key(name), name, "must be given once; it is the same header as "+other))
		}
		seen[strings.ToLower(name)] = name
	}
	return errs
}

// plainText is what may stand in a header as it is.
func plainText(path *field.Path, value string) field.ErrorList {
	switch {
	case value == "":
		return field.ErrorList{field.Required(path, "must not be empty")}
	case utf8.RuneCountInString(value) > maxText:
		return field.ErrorList{field.Invalid(path, fmt.Sprintf("%.64s...", value), "must have at most 1024 characters")}
	case !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return field.ErrorList{field.Invalid(path, value, "must be UTF-8 without control characters")}
	}
	return nil
}

func described(path *field.Path, value string, err error) field.ErrorList {
	if err == nil {
		return nil
	}
	return field.ErrorList{field.Invalid(path, value, err.Error())}
}

func validateKey(path *field.Path, key []string) (errs field.ErrorList) {
	if len(key) > maxKeyParts {
		errs = append(errs, field.TooMany(path, len(key), maxKeyParts))
	}
	for i, part := range key {
		errs = append(errs, validPart(path.Index(i), part)...)
		if slices.ContainsFunc(key[:i], func(other string) bool { return samePart(other, part) }) {
			errs = append(errs, field.Duplicate(path.Index(i), part))
		}
	}
	return errs
}

// samePart tells whether two parts are the same: names of headers are in either case.
func samePart(a, b string) bool {
	return a == b || strings.HasPrefix(a, partHeader+":") && strings.HasPrefix(b, partHeader+":") && strings.EqualFold(a, b)
}

func validPart(path *field.Path, part string) field.ErrorList {
	invalid := func(expected string) field.ErrorList { return field.ErrorList{field.Invalid(path, part, expected)} }
	kind, name, named := strings.Cut(part, ":")
	switch {
	case part == partIP || part == partMethod || part == partPath || part == partRoute:
		return nil
	case strings.HasPrefix(part, partIP+"/"):
		if bits, err := strconv.Atoi(part[len(partIP)+1:]); err != nil || bits < 8 || bits > 32 || strconv.Itoa(bits) != part[len(partIP)+1:] {
			return invalid("must have 8 to 32 bits of an IPv4 address, such as ip/24; of IPv6 it is always the /64")
		}
		return nil
	case !named:
	case kind == partHeader:
		if !headerName.MatchString(name) {
			return invalid("must name a header: at most 256 letters, digits and !#$%&'*+-.^_`|~")
		}
		return nil
	case kind == partQuery:
		if !queryName.MatchString(name) {
			return invalid("must name a parameter of the query: at most 256 printable characters of ASCII")
		}
		return nil
	case kind == partNamespace:
		for _, problem := range validation.IsQualifiedName(name) {
			return invalid("must name a label of the namespace: " + problem)
		}
		return nil
	case kind == partCEL:
		return described(path, part, celx.Value(name))
	case kind == partClaim:
		return invalid("must not be a claim: tokens are not verified here, and an unverified claim is whatever the client says; use a header that whoever verifies the token sets")
	}
	return invalid("must be header:NAME, query:NAME, ip, ip/N, method, path, route, namespace:LABEL or cel:EXPRESSION")
}
