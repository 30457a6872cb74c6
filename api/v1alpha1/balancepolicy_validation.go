package v1alpha1

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// maxRegexLength bounds a regular expression that a user gives, in bytes.
const maxRegexLength = 256

// maxErrorLabels bounds the labels of RequestsMetric.Errors.
const maxErrorLabels = 8

// maxQueryLength bounds a PromQL expression, in bytes.
const maxQueryLength = 4096

var allPresets = []Preset{PresetGo, PresetGRPCGo, PresetEnvoy, PresetNode, PresetVLLM}

// The formats of names in the Prometheus data model, and of a Percent.
var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	labelName  = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	percent    = regexp.MustCompile(`^(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)%$`)
)

// Fraction is the percentage as a number, 0 to 1.
func (p Percent) Fraction() (float64, error) {
	if !percent.MatchString(string(p)) {
		return 0, fmt.Errorf("%q: must be a number from 0 to 100 with a percent sign, such as \"8%%\"", string(p))
	}
	hundredths, err := strconv.ParseFloat(strings.TrimSuffix(string(p), "%"), 64)
	return hundredths / 100, err
}

// Validate says what of the policy an API server would refuse. It looks at this policy alone: what it
// leaves out is complete by the time it is merged.
func (p *BalancePolicy) Validate() field.ErrorList {
	spec := field.NewPath("spec")
	s := &p.Spec
	return slices.Concat(
		validateTargets(spec.Child("targetRefs"), s.TargetRefs),
		oneOf(spec.Child("mode"), s.Mode, ModeEnforce, ModeShadow, ModeEqual),
		oneOf(spec.Child("strategy"), s.Strategy, StrategyCapacity, StrategyRTT, StrategyStatic),
		validPercent(spec.Child("blend"), s.Blend),
		oneOf(spec.Child("base"), s.Base, BaseEqual, BaseCPURequest),
		s.Signals.validate(spec.Child("signals")),
		s.Capacity.validate(spec.Child("capacity")),
		s.RTT.validate(spec.Child("rtt")),
		s.Publish.validate(spec.Child("publish")),
	)
}

func validateTargets(path *field.Path, refs []gatewayv1.LocalPolicyTargetReference) (errs field.ErrorList) {
	if len(refs) == 0 {
		return field.ErrorList{field.Required(path, "must name the Services or Gateways that the policy is for")}
	}
	if len(refs) > 16 {
		errs = append(errs, field.TooMany(path, len(refs), 16))
	}
	seen := map[gatewayv1.LocalPolicyTargetReference]bool{}
	for i, ref := range refs {
		at := path.Index(i)
		switch {
		case ref.Group == "" && ref.Kind == "Service", ref.Group == gatewayv1.GroupName && ref.Kind == "Gateway":
		case ref.Kind == "Service":
			errs = append(errs, field.NotSupported(at.Child("group"), ref.Group, []string{""}))
		case ref.Kind == "Gateway":
			errs = append(errs, field.NotSupported(at.Child("group"), ref.Group, []string{gatewayv1.GroupName}))
		default:
			errs = append(errs, field.NotSupported(at.Child("kind"), ref.Kind, []string{"Gateway", "Service"}))
		}
		errs = append(errs, objectName(at.Child("name"), string(ref.Name))...)
		if seen[ref] {
			errs = append(errs, field.Duplicate(at, string(ref.Kind)+" "+string(ref.Name)))
		}
		seen[ref] = true
	}
	return errs
}

func (s *Signals) validate(path *field.Path) field.ErrorList {
	switch {
	case s == nil:
		return nil
	case s.Scrape != nil && s.Prometheus != nil:
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, "must have at most one of scrape and prometheus")}
	case s.Scrape != nil:
		return s.Scrape.validate(path.Child("scrape"))
	case s.Prometheus != nil:
		return s.Prometheus.validate(path.Child("prometheus"))
	}
	return nil
}

func (p *Prometheus) validate(path *field.Path) (errs field.ErrorList) {
	errs = prometheusServer(path.Child("server"), p.Server)
	errs = append(errs, between(path.Child("interval"), p.Interval, time.Second, 2*time.Minute)...)
	errs = append(errs, oneOf(path.Child("preset"), p.Preset, allPresets...)...)
	if q := p.Queries; q != nil {
		at := path.Child("queries")
		errs = slices.Concat(errs,
			promQL(at.Child("cpu"), q.CPU),
			promQL(at.Child("requests"), q.Requests),
			promQL(at.Child("errors"), q.Errors),
			promQL(at.Child("latencyP50"), q.LatencyP50),
			promQL(at.Child("latencyP90"), q.LatencyP90),
			promQL(at.Child("inFlight"), q.InFlight),
		)
	}
	return errs
}

func prometheusServer(path *field.Path, name string) (errs field.ErrorList) {
	if name == "" {
		return field.ErrorList{field.Required(path, "must be the NAME of a server given to serve --prometheus NAME=URL")}
	}
	for _, problem := range validation.IsDNS1123Label(name) {
		errs = append(errs, field.Invalid(path, name, problem))
	}
	return errs
}

// promQL checks what can be checked without the language: the server has the last word.
func promQL(path *field.Path, query *PromQL) field.ErrorList {
	if query == nil {
		return nil
	}
	switch text := string(*query); {
	case strings.TrimSpace(text) == "":
		return field.ErrorList{field.Required(path, "must be a PromQL expression")}
	case len(text) > maxQueryLength:
		return field.ErrorList{field.TooLong(path, text, maxQueryLength)}
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		return field.ErrorList{field.Invalid(path, field.OmitValueType{}, "must be UTF-8 without NUL")}
	}
	return nil
}

func (s *Scrape) validate(path *field.Path) (errs field.ErrorList) {
	errs = slices.Concat(
		between(path.Child("interval"), s.Interval, 500*time.Millisecond, time.Minute),
		oneOf(path.Child("preset"), s.Preset, allPresets...),
	)
	if timeout := path.Child("timeout"); s.Timeout != nil {
		if s.Timeout.Duration <= 0 {
			errs = append(errs, field.Invalid(timeout, s.Timeout.Duration.String(), "must be more than 0s"))
		} else if s.Interval != nil && s.Timeout.Duration > s.Interval.Duration {
			errs = append(errs, field.Invalid(timeout, s.Timeout.Duration.String(), "must be at most the interval, "+s.Interval.Duration.String()))
		}
	}
	if cpu := path.Child("cpu"); s.CPU != nil {
		if (s.CPU.Counter == nil) == (s.CPU.Gauge == nil) {
			errs = append(errs, field.Invalid(cpu, field.OmitValueType{}, "must have exactly one of counter and gauge"))
		}
		errs = append(errs, family(cpu.Child("counter"), s.CPU.Counter)...)
		errs = append(errs, family(cpu.Child("gauge"), s.CPU.Gauge)...)
	}
	if requests := path.Child("requests"); s.Requests != nil {
		if s.Requests.Counter == nil && s.Requests.Errors == nil {
			errs = append(errs, field.Required(requests.Child("counter"), "must name the counter of finished requests"))
		}
		errs = append(errs, family(requests.Child("counter"), s.Requests.Counter)...)
		errs = append(errs, labelExpressions(requests.Child("errors"), s.Requests.Errors)...)
	}
	if s.Latency != nil {
		errs = append(errs, requiredFamily(path.Child("latency", "histogram"), s.Latency.Histogram)...)
	}
	if s.InFlight != nil {
		errs = append(errs, requiredFamily(path.Child("inFlight", "gauge"), s.InFlight.Gauge)...)
	}
	return errs
}

func (c *CapacityParameters) validate(path *field.Path) field.ErrorList {
	if c == nil {
		return nil
	}
	return slices.Concat(
		between(path.Child("slowStart"), c.SlowStart, 0, 15*time.Minute),
		number(path.Child("floor"), c.Floor, "must be more than 0 and less than 1", func(v float64) bool { return v > 0 && v < 1 }),
		number(path.Child("ceiling"), c.Ceiling, "must be more than 1 and at most 100", func(v float64) bool { return v > 1 && v <= 100 }),
		number(path.Child("maxRatio"), c.MaxRatio, "must be between 1 and 100", func(v float64) bool { return v >= 1 && v <= 100 }),
		part(path.Child("maxShed"), c.MaxShed, 0.9),
		number(path.Child("tilt"), c.Tilt, "must be between 0 and 1", func(v float64) bool { return v >= 0 && v <= 1 }),
		number(path.Child("configuredRequestsPerSecond"), c.ConfiguredRequestsPerSecond, "must be 0 or more",
			func(v float64) bool { return v >= 0 && v <= math.MaxFloat64 }),
	)
}

func (r *RTTParameters) validate(path *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	return slices.Concat(
		number(path.Child("quantile"), r.Quantile, "must be 0.5 or 0.9", func(v float64) bool { return v == 0.5 || v == 0.9 }),
		number(path.Child("alpha"), r.Alpha, "must be between 0 and 10", func(v float64) bool { return v >= 0 && v <= 10 }),
		between(path.Child("window"), r.Window, 2*time.Second, 5*time.Minute),
	)
}

func (p *Publish) validate(path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	return slices.Concat(
		between(path.Child("interval"), p.Interval, 2*time.Second, 10*time.Minute),
		validPercent(path.Child("deadband"), p.Deadband),
		validPercent(path.Child("urgent"), p.Urgent),
		oneOf(path.Child("metadata"), p.Metadata, MetadataAuto, MetadataAlways, MetadataNever),
	)
}

func oneOf[T ~string](path *field.Path, value *T, allowed ...T) field.ErrorList {
	if value == nil || slices.Contains(allowed, *value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, *value, allowed)}
}

func between(path *field.Path, d *metav1.Duration, low, high time.Duration) field.ErrorList {
	if d == nil || low <= d.Duration && d.Duration <= high {
		return nil
	}
	return field.ErrorList{field.Invalid(path, d.Duration.String(), fmt.Sprintf("must be between %v and %v", low, high))}
}

func number(path *field.Path, value *float64, expected string, ok func(float64) bool) field.ErrorList {
	if value == nil || ok(*value) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, *value, expected)}
}

func validPercent(path *field.Path, p *Percent) field.ErrorList {
	if p == nil || percent.MatchString(string(*p)) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, *p, `must be a number from 0 to 100 with a percent sign, such as "8%"`)}
}

// part is a Percent of at most so much.
func part(path *field.Path, p *Percent, most float64) field.ErrorList {
	errs := validPercent(path, p)
	if p == nil || len(errs) > 0 {
		return errs
	}
	if f, _ := p.Fraction(); f > most {
		errs = append(errs, field.Invalid(path, *p, fmt.Sprintf("must be between 0%% and %.0f%%", 100*most)))
	}
	return errs
}

func requiredFamily(path *field.Path, name *string) field.ErrorList {
	if name == nil {
		return field.ErrorList{field.Required(path, "must be the name of a metric")}
	}
	return family(path, name)
}

func family(path *field.Path, name *string) field.ErrorList {
	if name == nil || metricName.MatchString(*name) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, *name, "must be the name of a metric: letters, digits, _ and :, not beginning with a digit")}
}

func labelExpressions(path *field.Path, expressions map[string]string) (errs field.ErrorList) {
	if len(expressions) > maxErrorLabels {
		return field.ErrorList{field.TooMany(path, len(expressions), maxErrorLabels)}
	}
	for _, label := range slices.Sorted(maps.Keys(expressions)) {
		at, expression := path.Key(label), expressions[label]
		if !labelName.MatchString(label) {
			errs = append(errs, field.Invalid(path, label, "must be the name of a label: letters, digits and _, not beginning with a digit"))
		}
		if len(expression) > maxRegexLength {
			errs = append(errs, field.TooLong(at, expression, maxRegexLength))
		} else if _, err := regexp.Compile(expression); err != nil {
			errs = append(errs, field.Invalid(at, expression, "must be an RE2 regular expression: "+strings.TrimPrefix(err.Error(), "error parsing regexp: ")))
		}
	}
	return errs
}
