package admit

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"evenkeel.io/controlplane/internal/source"
)

// endpointAnnotations are those of a Pod or of an EndpointSlice, with what is expected of each.
var endpointAnnotations = []struct {
	name, expected string
	ok             func(string) bool
}{
	{"evenkeel.io/cpu-limit", `must be a quantity of cores above 0, such as "2" or "500m"`, func(value string) bool {
		q, err := resource.ParseQuantity(value)
		return err == nil && q.Sign() > 0
	}},
	{"evenkeel.io/weight", "must be a number above 0 and at most 1000", func(value string) bool {
		w, err := strconv.ParseFloat(value, 64)
		return err == nil && w > 0 && w <= 1000
	}},
	{"evenkeel.io/container", "must be the name of a container", func(value string) bool {
		return len(validation.IsDNS1123Label(value)) == 0
	}},
	{"prometheus.io/path", "must begin with /", func(value string) bool { return strings.HasPrefix(value, "/") }},
	{"prometheus.io/port", "must be a port number, 1 to 65535", func(value string) bool {
		port, err := strconv.ParseUint(value, 10, 16)
		return err == nil && port > 0
	}},
	{"prometheus.io/scheme", `must be "http" or "https"`, func(value string) bool { return value == "http" || value == "https" }},
	{"prometheus.io/scrape", `must be "true" or "false"`, func(value string) bool { return value == "true" || value == "false" }},
}

func (c *checks) annotations(path *field.Path, kind string, annotations map[string]string) {
	if kind != source.KindPod && kind != source.KindEndpointSlice {
		return
	}
	for _, a := range endpointAnnotations {
		if value, ok := annotations[a.name]; ok && !a.ok(value) {
			c.invalid(path.Key(a.name), value, a.expected)
		}
	}
}
