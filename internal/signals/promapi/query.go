package promapi

import (
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"evenkeel.io/controlplane/api/v1alpha1"
)

// term is what a query asks for, by the name that the policy has for it.
type term string

// The terms, in the order of v1alpha1.PrometheusQueries. cpuLimit is asked for where the catalog knows
// no limit of an endpoint, and has no place in a policy.
const (
	termCPU        term = "cpu"
	termCPULimit   term = "cpuLimit"
	termRequests   term = "requests"
	termErrors     term = "errors"
	termLatencyP50 term = "latencyP50"
	termLatencyP90 term = "latencyP90"
	termInFlight   term = "inFlight"
)

// query is one question to the server.
type query struct {
	term term
	text string
}

// familyGOMAXPROCS is the CPU limit that a Go program gives itself.
const familyGOMAXPROCS = "go_sched_gomaxprocs_threads"

// windowVariable stands for the span of a reading in the queries of a policy.
const windowVariable = "$window"

// queriesOf are the queries of a Service, and whether the CPU that they give is in cores.
func queriesOf(s Spec, span time.Duration) (queries []query, inCores bool) {
	window := model.Duration(span).String()
	given := v1alpha1.PrometheusQueries{}
	if s.Prometheus.Queries != nil {
		given = *s.Prometheus.Queries
	}
	families := v1alpha1.Terms{}
	if s.Prometheus.Preset != nil {
		families, _ = v1alpha1.Presets(*s.Prometheus.Preset)
	}
	about := selectorsOf(s)
	add := func(t term, given *v1alpha1.PromQL, usual func() string) {
		text := ""
		if given != nil {
			text = strings.ReplaceAll(string(*given), windowVariable, window)
		} else {
			text = usual()
		}
		if text != "" {
			queries = append(queries, query{t, text})
		}
	}
	add(termCPU, given.CPU, func() string {
		switch {
		case families.CPU == nil:
			return ""
		case families.CPU.Gauge != nil:
			return about.aggregate("avg", "avg_over_time(%s["+window+"])", *families.CPU.Gauge, "")
		}
		inCores = true
		return about.aggregate("sum", "rate(%s["+window+"])", *families.CPU.Counter, "")
	})
	if inCores && slices.ContainsFunc(s.Endpoints, func(e Endpoint) bool { return e.CPULimit <= 0 }) {
		add(termCPULimit, nil, func() string {
			return about.aggregate("sum", "last_over_time(%s["+window+"])", familyGOMAXPROCS, "")
		})
	}
	rate := "rate(%s[" + window + "])"
	add(termRequests, given.Requests, func() string {
		if families.Requests == nil {
			return ""
		}
		return about.aggregate("sum", rate, *families.Requests.Counter, "")
	})
	add(termErrors, given.Errors, func() string {
		if families.Requests == nil || len(families.Requests.Errors) == 0 {
			return ""
		}
		failed, labelled := errorMatchers(families.Requests.Errors)
		// A server that knows no failed request has no series of one. Where the labels are there at all,
		// that is a zero; where they are not, it is no answer.
		return about.aggregate("sum", rate, *families.Requests.Counter, failed) +
			" or 0 * (" + about.aggregate("sum", rate, *families.Requests.Counter, labelled) + ")"
	})
	quantile := func(q string) func() string {
		return func() string {
			if families.Latency == nil {
				return ""
			}
			return "histogram_quantile(" + q + ", " + about.aggregate("sum", rate, *families.Latency.Histogram+"_bucket", "", "le") + ")"
		}
	}
	add(termLatencyP50, given.LatencyP50, quantile("0.5"))
	add(termLatencyP90, given.LatencyP90, quantile("0.9"))
	add(termInFlight, given.InFlight, func() string {
		if families.InFlight == nil {
			return ""
		}
		// A bare selector would give a value for five minutes after the last scrape.
		return about.aggregate("sum", "last_over_time(%s["+window+"])", *families.InFlight.Gauge, "")
	})
	return queries, inCores
}

// selectors pick the series of a Service's endpoints: those with the labels of its Pods, and those
// without such labels whose instance is at one of its addresses.
type selectors struct {
	pods      string // label matchers; "" for none
	instances string
}

func selectorsOf(s Spec) selectors {
	var namespace string
	pods, hosts := map[string]bool{}, map[string]bool{}
	for _, e := range s.Endpoints {
		if ns, name, ok := strings.Cut(e.Pod, "/"); ok {
			namespace = ns // an EndpointSlice names Pods of its own namespace
			pods[regexp.QuoteMeta(name)] = true
		}
		if host, _, err := net.SplitHostPort(e.Address); err == nil {
			quoted := regexp.QuoteMeta(host)
			if strings.Contains(host, ":") {
				quoted = `\[` + quoted + `\]`
			}
			hosts[quoted] = true
		}
	}
	about := selectors{instances: "instance=~" + strconv.Quote("(?:"+alternatives(hosts)+")(?::[0-9]+)?")}
	if len(pods) > 0 {
		about.pods = "namespace=" + strconv.Quote(namespace) + ",pod=~" + strconv.Quote(alternatives(pods))
		about.instances = `pod="",` + about.instances
	}
	return about
}

func alternatives(set map[string]bool) string {
	return strings.Join(slices.Sorted(maps.Keys(set)), "|")
}

// aggregate is a query over the family: shape is applied to the selection, %s in it, and aggregated per
// Pod, or else per instance, and by the labels keep.
func (s selectors) aggregate(operator, shape, family, matchers string, keep ...string) string {
	part := func(where string, by ...string) string {
		if matchers != "" {
			where += "," + matchers
		}
		return fmt.Sprintf("%s by (%s) (%s)", operator, strings.Join(append(by, keep...), ", "),
			fmt.Sprintf(shape, family+"{"+where+"}"))
	}
	byInstance := part(s.instances, "instance")
	if s.pods == "" {
		return byInstance
	}
	return part(s.pods, "namespace", "pod") + " or " + byInstance
}

// errorMatchers select the series of failed requests, and those that could be.
func errorMatchers(errors map[string]string) (failed, labelled string) {
	var matching, present []string
	for _, label := range slices.Sorted(maps.Keys(errors)) {
		matching = append(matching, label+"=~"+strconv.Quote(errors[label]))
		present = append(present, label+`!=""`)
	}
	return strings.Join(matching, ","), strings.Join(present, ",")
}
