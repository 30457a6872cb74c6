package catalog

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/source"
)

// sliceReader reads the EndpointSlices of one Service.
type sliceReader struct {
	work  *serviceWork
	last  *serviceWork
	store *source.Store
	opts  Options
	// ofPods are the settings of the Pods seen so far.
	ofPods map[types.NamespacedName]*settings
}

// sliceGroup is an EndpointSlice in force with its sound endpoints.
type sliceGroup struct {
	slice     *discoveryv1.EndpointSlice
	endpoints []sliceEndpoint
}

// sliceEndpoint is one address of an endpoint in a slice.
type sliceEndpoint struct {
	addr     netip.Addr
	state    endpointState
	zone     string
	pod      *corev1.Pod
	settings *settings // of the Pod
	fallback *settings // of the slice
}

// endpointState is whether an endpoint may get traffic; the larger the better.
type endpointState int

const (
	out     endpointState = iota // neither ready nor serving
	serving                      // not ready, or terminating, but answers: used where none is ready
	ready
)

func stateOf(c discoveryv1.EndpointConditions) endpointState {
	isReady := c.Ready == nil || *c.Ready
	isServing := isReady
	if c.Serving != nil {
		isServing = *c.Serving
	}
	switch {
	case isReady && (c.Terminating == nil || !*c.Terminating):
		return ready
	case isServing:
		return serving
	}
	return out
}

func sliceRef(s *discoveryv1.EndpointSlice) source.Ref {
	return source.Ref{Kind: source.KindEndpointSlice, Namespace: s.Namespace, Name: s.Name}
}

// read gives the slices of the Service's address family.
//
// A slice that cannot be read as a whole stays in force as it was last accepted. An endpoint that
// cannot be used is left out by itself, whatever the slice held before: the rest of the slice may well
// say that an endpoint is gone, and that must not wait.
func (r *sliceReader) read() (groups []sliceGroup) {
	var inForce []*discoveryv1.EndpointSlice
	refused := map[string]*refusal{}
	for _, slice := range r.work.slices {
		if why := checkSlice(slice); why != nil {
			refused[slice.Name] = why
			slice = r.last.kept.slices[slice.Name]
		}
		if slice != nil {
			r.work.kept.slices[slice.Name] = slice
			inForce = append(inForce, slice)
		}
	}
	family := r.family(inForce)
	settingsWhy := map[string]*refusal{}
	settingsKept := map[string]bool{}
	for _, slice := range inForce {
		group := sliceGroup{slice: slice, endpoints: make([]sliceEndpoint, 0, len(slice.Endpoints))}
		fallback, why, kept := r.settings(sliceRef(slice), slice.Annotations)
		settingsWhy[slice.Name], settingsKept[slice.Name] = why, kept
		for i := range slice.Endpoints {
			why := r.readEndpoint(&group, i, fallback)
			if why != nil && refused[slice.Name] == nil {
				refused[slice.Name] = why
			}
		}
		if slice.AddressType == family {
			groups = append(groups, group)
		}
	}
	for _, slice := range r.work.slices {
		v := Verdict{Object: sliceRef(slice), Accepted: accepted(), ResolvedRefs: resolved()}
		force := r.work.kept.slices[slice.Name]
		switch why := refused[slice.Name]; {
		case why != nil && force == slice:
			v.Accepted = why.condition()
			v.Accepted.Message += "; the endpoint is left out, the others are used"
		case why != nil:
			v.Accepted = why.conditionKept(force != nil, noEffect)
		case settingsWhy[slice.Name] != nil:
			v.Accepted = settingsWhy[slice.Name].conditionKept(settingsKept[slice.Name], "the annotation is ignored")
		case slice.AddressType != family:
			v.Accepted.Message = fmt.Sprintf("not used: the first address family of Service %s is %s", r.work.object.Name, family)
		}
		r.work.verdicts = append(r.work.verdicts, v)
	}
	return groups
}

// checkSlice says why a slice cannot be read as a whole.
func checkSlice(slice *discoveryv1.EndpointSlice) *refusal {
	switch slice.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
	default:
		return refuse(ReasonUnsupportedValue, "addressType", "%.80q; expected IPv4 or IPv6", slice.AddressType)
	}
	for i, p := range slice.Ports {
		if p.Protocol != nil && !isTCP(*p.Protocol) {
			continue
		}
		field := fmt.Sprintf("ports[%d].port", i)
		if p.Port == nil {
			return refuse(ReasonUnsupportedValue, field, "is missing; expected 1 to 65535")
		}
		if *p.Port < 1 || *p.Port > 65535 {
			return refuse(ReasonUnsupportedValue, field, "%d; expected 1 to 65535", *p.Port)
		}
	}
	return nil
}

// family is the address type whose slices are used: the Service's first, and where it names none IPv4,
// unless there are only others.
func (r *sliceReader) family(inForce []*discoveryv1.EndpointSlice) discoveryv1.AddressType {
	if families := r.work.object.Spec.IPFamilies; len(families) > 0 {
		return discoveryv1.AddressType(families[0])
	}
	for _, slice := range inForce {
		if slice.AddressType == discoveryv1.AddressTypeIPv4 {
			return discoveryv1.AddressTypeIPv4
		}
	}
	if len(inForce) > 0 {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

// readEndpoint adds the addresses of the endpoint to the group and says what is wrong with the first bad one.
func (r *sliceReader) readEndpoint(group *sliceGroup, i int, fallback *settings) (first *refusal) {
	slice := group.slice
	endpoint := &slice.Endpoints[i]
	e := sliceEndpoint{state: stateOf(endpoint.Conditions), fallback: fallback}
	if endpoint.Zone != nil {
		e.zone = *endpoint.Zone
	}
	e.pod, e.settings = r.pod(slice, endpoint.TargetRef)
	for a, text := range endpoint.Addresses {
		addr, problem := parseAddress(text, slice.AddressType, r.opts)
		if problem != "" {
			if first == nil {
				first = refuse(ReasonUnsupportedValue, fmt.Sprintf("endpoints[%d].addresses[%d]", i, a), "%.80q %s", text, problem)
			}
			continue
		}
		e.addr = addr
		group.endpoints = append(group.endpoints, e)
	}
	return first
}

// parseAddress reads an address and refuses those that cannot be another machine's: they would turn a
// proxy, or our scraping, against itself.
func parseAddress(text string, family discoveryv1.AddressType, opts Options) (addr netip.Addr, problem string) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return addr, fmt.Sprintf("is no IP address; expected %s", family)
	}
	if addr = addr.Unmap(); addr.Is4() != (family == discoveryv1.AddressTypeIPv4) {
		return addr, fmt.Sprintf("is not of the slice's addressType; expected %s", family)
	}
	switch {
	case addr.IsLoopback() && !opts.AllowLoopback:
		return addr, "is a loopback address; expected one of another machine"
	case addr.IsLinkLocalUnicast():
		return addr, "is a link-local address; expected one that is routed"
	case addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return addr, "is a multicast address; expected that of one machine"
	case addr.IsUnspecified():
		return addr, "is unspecified; expected the address of a machine"
	}
	return addr, ""
}

// podName is that of an endpoint's Pod, in the slice's own namespace only.
func podName(slice *discoveryv1.EndpointSlice, ref *corev1.ObjectReference) (name types.NamespacedName, ok bool) {
	if ref == nil || ref.Kind != source.KindPod || ref.Namespace != "" && ref.Namespace != slice.Namespace {
		return name, false
	}
	return types.NamespacedName{Namespace: slice.Namespace, Name: ref.Name}, true
}

// pod finds the Pod of an endpoint.
func (r *sliceReader) pod(slice *discoveryv1.EndpointSlice, ref *corev1.ObjectReference) (*corev1.Pod, *settings) {
	name, ok := podName(slice, ref)
	if !ok {
		return nil, noSettings
	}
	pod := r.store.Pods[name]
	if pod == nil {
		return nil, noSettings
	}
	if s, seen := r.ofPods[name]; seen {
		return pod, s
	}
	object := source.Ref{Kind: source.KindPod, Namespace: name.Namespace, Name: name.Name}
	s, why, kept := r.settings(object, pod.Annotations)
	if why == nil && s.container != "" && findContainer(pod, s.container) == nil {
		why = refuse(ReasonUnsupportedValue, annotationField(ContainerAnnotation), "the Pod has no container %.80q", s.container)
	}
	if why != nil {
		r.work.verdicts = append(r.work.verdicts, Verdict{
			Object: object, Accepted: why.conditionKept(kept, "the annotation is ignored"), ResolvedRefs: resolved(),
		})
	}
	r.ofPods[name] = s
	return pod, s
}

// settings reads annotations. A bad one leaves those in force that the object had when it was last
// accepted; where it never was, the sound ones count.
func (r *sliceReader) settings(object source.Ref, annotations map[string]string) (s *settings, why *refusal, kept bool) {
	parsed, why := parseSettings(annotations)
	if s = noSettings; parsed != *noSettings {
		s = &parsed
	}
	if why != nil {
		if last, ok := r.last.kept.settings[object]; ok {
			s, kept = last, true
		}
	}
	if why == nil || kept {
		r.work.kept.settings[object] = s
	}
	return s, why, kept
}

// endpoints are those of a Service's port, sorted by address.
func (r *sliceReader) endpoints(groups []sliceGroup, port *corev1.ServicePort, s *Service) []Endpoint {
	found := map[netip.AddrPort]*sliceEndpoint{}
	best := out
	for _, g := range groups {
		number, ok := portNamed(g.slice, port.Name)
		if !ok {
			continue
		}
		for i := range g.endpoints {
			e := &g.endpoints[i]
			// Slices overlap while one is being replaced by another: the better state counts.
			at := netip.AddrPortFrom(e.addr, number)
			if other, twice := found[at]; !twice || e.state > other.state {
				found[at] = e
			}
			best = max(best, e.state)
		}
	}
	if best == out {
		return nil
	}
	list := make([]Endpoint, 0, len(found))
	requests := make(map[string]float64, len(found))
	for at, e := range found {
		if e.state != best {
			continue
		}
		endpoint := e.endpoint(at, s, r.opts)
		requests[endpoint.Address] = cpuRequest(e.pod)
		list = append(list, endpoint)
	}
	slices.SortFunc(list, func(a, b Endpoint) int { return strings.Compare(a.Address, b.Address) })
	if s.HasPolicy && *s.Policy.Base == v1alpha1.BaseCPURequest {
		setBases(list, requests)
	}
	return list
}

// portNamed is the number of the slice's TCP port of that name.
func portNamed(slice *discoveryv1.EndpointSlice, name string) (uint16, bool) {
	for i := range slice.Ports {
		p := &slice.Ports[i]
		portName := ""
		if p.Name != nil {
			portName = *p.Name
		}
		if portName == name && (p.Protocol == nil || isTCP(*p.Protocol)) {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

func (e *sliceEndpoint) endpoint(at netip.AddrPort, s *Service, opts Options) Endpoint {
	endpoint := Endpoint{
		Address:    at.String(),
		Zone:       e.zone,
		Base:       1,
		Multiplier: cmp.Or(e.settings.multiplier, e.fallback.multiplier, 1),
		CPULimit:   cmp.Or(e.settings.cpuLimit, e.fallback.cpuLimit),
	}
	scrape := e.fallback
	if e.settings.scrapeSet {
		scrape = e.settings
	}
	metricsPort := cmp.Or(scrape.port, at.Port())
	if s.HasPolicy && s.Policy.Signals != nil && s.Policy.Signals.Scrape != nil &&
		scrape.scrape && (opts.AllowLoopback || hasAddress(e.pod, at.Addr())) {
		endpoint.ScrapeURL = scrape.scheme + "://" + netip.AddrPortFrom(at.Addr(), metricsPort).String() + scrape.path
	}
	if e.pod != nil {
		container := relevantContainer(e.pod, e.settings.container, metricsPort)
		endpoint.Pod = nameOf(e.pod).String()
		endpoint.Instance = instance(e.pod, container)
		endpoint.ReadySince = readySince(e.pod)
		if endpoint.CPULimit == 0 {
			endpoint.CPULimit = cpuLimit(e.pod, container)
		}
	}
	return endpoint
}

// setBases puts each Base in proportion to the Pod's CPU request; 1 is the lower median, so that
// endpoints of one size have exactly 1. Where one has no request all stay equal: a missing number says
// nothing of the size. A request that is a slip of the pen does not leave the bounds of a Base.
func setBases(endpoints []Endpoint, requests map[string]float64) {
	sorted := make([]float64, 0, len(requests))
	for _, cores := range requests {
		sorted = append(sorted, cores)
	}
	slices.Sort(sorted)
	if len(sorted) == 0 || sorted[0] <= 0 {
		return
	}
	median := sorted[(len(sorted)-1)/2]
	for i := range endpoints {
		endpoints[i].Base = min(MaxBase, max(1/MaxBase, requests[endpoints[i].Address]/median))
	}
}
