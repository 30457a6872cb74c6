package catalog

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// The annotations that we read on a Pod, or on the EndpointSlice of endpoints that are no Pods.
const (
	WeightAnnotation       = "evenkeel.io/weight"
	CPULimitAnnotation     = "evenkeel.io/cpu-limit"
	ContainerAnnotation    = "evenkeel.io/container" // Pods only
	ScrapeAnnotation       = "prometheus.io/scrape"
	ScrapePortAnnotation   = "prometheus.io/port"
	ScrapePathAnnotation   = "prometheus.io/path"
	ScrapeSchemeAnnotation = "prometheus.io/scheme"
)

// The bounds of the annotation evenkeel.io/weight.
const (
	minMultiplier = 0.001
	maxMultiplier = 1000
)

// settings is what annotations say of an endpoint. Zero fields say nothing.
type settings struct {
	multiplier float64
	cpuLimit   float64 // cores
	container  string
	scrapeSet  bool
	scrape     bool
	port       uint16
	path       string
	scheme     string
}

// noSettings is shared by all objects whose annotations say nothing: most Pods.
var noSettings = &settings{}

func annotationField(name string) string { return "metadata.annotations[" + name + "]" }

// parseSettings reads annotations. With a refusal the rest of them is still read.
func parseSettings(annotations map[string]string) (s settings, first *refusal) {
	bad := func(name, expected string) {
		if first == nil {
			first = refuse(ReasonUnsupportedValue, annotationField(name), "%.80q; expected %s", annotations[name], expected)
		}
	}
	if text, ok := annotations[WeightAnnotation]; ok {
		weight, err := strconv.ParseFloat(text, 64)
		if err != nil || !(weight >= minMultiplier && weight <= maxMultiplier) {
			bad(WeightAnnotation, fmt.Sprintf("a number from %v to %v", minMultiplier, maxMultiplier))
		} else {
			s.multiplier = weight
		}
	}
	if text, ok := annotations[CPULimitAnnotation]; ok {
		quantity, err := resource.ParseQuantity(text)
		cores := quantity.AsApproximateFloat64()
		if err != nil || !(cores > 0) || math.IsInf(cores, 0) {
			bad(CPULimitAnnotation, "a number of cores such as 2 or 500m")
		} else {
			s.cpuLimit = cores
		}
	}
	s.container = annotations[ContainerAnnotation]
	text, ok := annotations[ScrapeAnnotation]
	if !ok {
		return s, first
	}
	scrape, err := strconv.ParseBool(text)
	if err != nil {
		bad(ScrapeAnnotation, "true or false")
		return s, first
	}
	s.scrapeSet, s.scrape = true, scrape
	s.path, s.scheme = "/metrics", "http"
	if !scrape {
		return s, first
	}
	if text, ok := annotations[ScrapePortAnnotation]; ok {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			bad(ScrapePortAnnotation, "a port from 1 to 65535")
			s.scrape = false
		}
		s.port = uint16(port)
	}
	if text, ok := annotations[ScrapePathAnnotation]; ok {
		if path, _, _ := strings.Cut(text, "?"); !pathChars.MatchString(path) || !strings.HasPrefix(path, "/") || !printable(text) {
			bad(ScrapePathAnnotation, "a path such as /metrics")
			s.scrape = false
		}
		s.path = text
	}
	if text, ok := annotations[ScrapeSchemeAnnotation]; ok {
		if text != "http" && text != "https" {
			bad(ScrapeSchemeAnnotation, "http or https")
			s.scrape = false
		}
		s.scheme = text
	}
	return s, first
}

// printable says whether a query can stand in a URL as it is.
func printable(text string) bool {
	return len(text) <= 1024 && !strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' || c == '#' })
}

func findContainer(pod *corev1.Pod, name string) *corev1.Container {
	if i := slices.IndexFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == name }); i >= 0 {
		return &pod.Spec.Containers[i]
	}
	return nil
}

// relevantContainer is the container whose CPU the metrics tell of: the one that is named, else the one
// with the port, else the only one; nil where none of these settles it.
func relevantContainer(pod *corev1.Pod, named string, port uint16) *corev1.Container {
	if named != "" {
		return findContainer(pod, named)
	}
	for i := range pod.Spec.Containers {
		for _, p := range pod.Spec.Containers[i].Ports {
			if p.ContainerPort == int32(port) {
				return &pod.Spec.Containers[i]
			}
		}
	}
	if len(pod.Spec.Containers) == 1 {
		return &pod.Spec.Containers[0]
	}
	return nil
}

func statusOf(pod *corev1.Pod, container string) *corev1.ContainerStatus {
	for i := range pod.Status.ContainerStatuses {
		if s := &pod.Status.ContainerStatuses[i]; s.Name == container {
			return s
		}
	}
	return nil
}

// instance tells incarnations of a Pod's server apart. Where it is not known which container serves,
// the restart of any is a new one.
func instance(pod *corev1.Pod, container *corev1.Container) string {
	var restarts int32
	if container != nil {
		if s := statusOf(pod, container.Name); s != nil {
			restarts = s.RestartCount
		}
	} else {
		for i := range pod.Status.ContainerStatuses {
			restarts += pod.Status.ContainerStatuses[i].RestartCount
		}
	}
	id := string(pod.UID)
	if id == "" {
		id = nameOf(pod).String()
	}
	return id + "/" + strconv.Itoa(int(restarts))
}

// cpuLimit in cores: of the container as it runs (a resize in place shows there first), as it is
// specified, of the whole Pod; 0 if none is set.
func cpuLimit(pod *corev1.Pod, container *corev1.Container) float64 {
	if container != nil {
		if s := statusOf(pod, container.Name); s != nil && s.Resources != nil {
			if c := cores(s.Resources.Limits); c > 0 {
				return c
			}
		}
		if c := cores(container.Resources.Limits); c > 0 {
			return c
		}
	}
	if pod.Spec.Resources != nil {
		return cores(pod.Spec.Resources.Limits)
	}
	return 0
}

// cpuRequest is what the Pod asks for, in cores: the Pod's own request, else the sum of its
// containers'; 0 for no Pod and where a container asks for nothing.
func cpuRequest(pod *corev1.Pod) (sum float64) {
	if pod == nil {
		return 0
	}
	if pod.Spec.Resources != nil {
		if c := cores(pod.Spec.Resources.Requests); c > 0 {
			return c
		}
	}
	for i := range pod.Spec.Containers {
		sum += cores(pod.Spec.Containers[i].Resources.Requests)
	}
	return sum
}

func cores(list corev1.ResourceList) float64 {
	q, ok := list[corev1.ResourceCPU]
	if !ok {
		return 0
	}
	return max(q.AsApproximateFloat64(), 0)
}

func readySince(pod *corev1.Pod) time.Time {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.UTC()
		}
	}
	return time.Time{}
}

// hasAddress says whether the address is one of the Pod's own.
func hasAddress(pod *corev1.Pod, addr netip.Addr) bool {
	if pod == nil {
		return false
	}
	same := func(text string) bool {
		a, err := netip.ParseAddr(text)
		return err == nil && a.Unmap() == addr
	}
	return same(pod.Status.PodIP) || slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return same(ip.IP) })
}
