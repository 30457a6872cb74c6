package admit

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/internal/re2"
)

// Formats of Gateway API's own types, after the patterns of its CustomResourceDefinitions.
var (
	kindName       = regexp.MustCompile(`^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`)
	controllerName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+$`)
	protocolName   = regexp.MustCompile(`^([a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9]+)$`)
	headerName     = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+\\-.^_`|~]+$")
	pathCharacters = regexp.MustCompile(`^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+$`)
	// GEP-2257: what time.ParseDuration reads, less signs, fractions and small units.
	gatewayDuration = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)
)

// oneOf checks an enumeration. A nil value is absent.
func oneOf[T ~string](c *checks, path *field.Path, value *T, allowed ...T) {
	if value != nil && !slices.Contains(allowed, *value) {
		c.errs = append(c.errs, field.NotSupported(path, *value, allowed))
	}
}

func (c *checks) port(path *field.Path, port int32) {
	if port < 1 || port > 65535 {
		c.invalid(path, port, "must be between 1 and 65535")
	}
}

func (c *checks) optionalPort(path *field.Path, port *gatewayv1.PortNumber) {
	if port != nil {
		c.port(path, *port)
	}
}

// hostname is a DNS name, or one whose leftmost label is an asterisk.
func (c *checks) hostname(path *field.Path, name string) {
	if rest, wildcard := strings.CutPrefix(name, "*."); wildcard {
		if len(validation.IsDNS1123Subdomain(rest)) > 0 || len(name) > 253 {
			c.invalid(path, name, `must be a DNS name in lower case after the "*."`)
		}
	} else if strings.Contains(name, "*") {
		c.invalid(path, name, `must have a wildcard only as its whole leftmost label, such as "*.example.com"`)
	} else {
		c.preciseHostname(path, name)
	}
}

func (c *checks) preciseHostname(path *field.Path, name string) {
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		c.invalid(path, name, `must be a DNS name in lower case, without port, such as "shop.example.com"`)
	}
}

func (c *checks) headerName(path *field.Path, name string) {
	if name == "" {
		c.required(path, "must be given")
	} else if !headerName.MatchString(name) || len(name) > 256 {
		c.invalid(path, name, "must be a name of at most 256 letters, digits and !#$%&'*+-.^_`|~")
	}
}

// text is a value that travels in an HTTP header or path as it is.
func (c *checks) text(path *field.Path, value string, limit int) {
	if len(value) > limit {
		c.errs = append(c.errs, field.TooLong(path, value, limit))
	} else if i := strings.IndexFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
		c.invalid(path, value, fmt.Sprintf("must have no control characters, has %q", value[i]))
	}
}

func (c *checks) requiredText(path *field.Path, value string, limit int) {
	if value == "" {
		c.required(path, "must be given")
	}
	c.text(path, value, limit)
}

func (c *checks) regex(path *field.Path, expression string) {
	if err := re2.Check(expression); err != nil {
		c.invalid(path, fmt.Sprintf("%.64s", expression), err.Error())
	}
}

// duration is the value of a GEP-2257 duration, 0 with a complaint if it is none.
func (c *checks) duration(path *field.Path, value *gatewayv1.Duration) time.Duration {
	if value == nil {
		return 0
	}
	d, err := time.ParseDuration(string(*value))
	if err != nil || !gatewayDuration.MatchString(string(*value)) {
		c.invalid(path, *value, `must be a duration in whole h, m, s and ms, such as "1m30s" or "500ms"`)
		return 0
	}
	return d
}

func (c *checks) group(path *field.Path, group *gatewayv1.Group) {
	if group != nil && *group != "" {
		c.format(path, string(*group), validation.IsDNS1123Subdomain)
	}
}

func (c *checks) kind(path *field.Path, kind *gatewayv1.Kind) {
	switch {
	case kind == nil:
	case *kind == "":
		c.required(path, "must be given")
	case !kindName.MatchString(string(*kind)) || len(*kind) > 63:
		c.invalid(path, *kind, "must be at most 63 letters, digits and -, beginning with a letter")
	}
}

func (c *checks) namespace(path *field.Path, namespace *gatewayv1.Namespace) {
	if namespace != nil {
		c.format(path, string(*namespace), validation.IsDNS1123Label)
	}
}

func (c *checks) sectionName(path *field.Path, name *gatewayv1.SectionName) {
	if name != nil {
		c.format(path, string(*name), validation.IsDNS1123Subdomain)
	}
}

// objectName is the name of an object of any kind.
func (c *checks) objectName(path *field.Path, name gatewayv1.ObjectName) {
	if name == "" {
		c.required(path, "must be given")
	} else if len(name) > 253 {
		c.errs = append(c.errs, field.TooLong(path, name, 253))
	}
}
