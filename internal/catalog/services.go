package catalog

import (
	"iter"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/source"
)

// services is the stage of Services, EndpointSlices and Pods.
type services struct {
	byObject map[types.NamespacedName]*serviceWork
	byName   map[string]*Service
	// slices of each Service, by name.
	slices map[types.NamespacedName][]*discoveryv1.EndpointSlice
	// orphans are the verdicts on EndpointSlices that belong to no Service, sorted.
	orphans []Verdict
}

// serviceWork is the result of one Service object and what it was made of.
type serviceWork struct {
	object    *corev1.Service
	slices    []*discoveryv1.EndpointSlice
	effective []*effective // per port, in the order of results
	readers   []string

	results  []*Service // per port
	verdicts []Verdict
	kept     keptParts
}

// keptParts are the last accepted versions of what a Service is made of.
type keptParts struct {
	slices   map[string]*discoveryv1.EndpointSlice
	settings map[source.Ref]*settings
}

// buildServices makes every Service again whose inputs changed. Stores share objects, so pointers tell.
func buildServices(was, now memory) *services {
	s := &services{byObject: was.services.byObject, byName: was.services.byName}
	first := s.byName == nil
	if first {
		s.byObject, s.byName = map[types.NamespacedName]*serviceWork{}, map[string]*Service{}
	}
	sameSlices := !first && sameObjects(was.store.EndpointSlices, now.store.EndpointSlices)
	if s.slices = was.services.slices; !sameSlices {
		s.slices = slicesByService(now.store.EndpointSlices)
	}
	if s.orphans = was.services.orphans; !sameSlices || !sameObjects(was.store.Services, now.store.Services) {
		s.orphans = judgeOrphans(now.store)
	}

	changed := map[types.NamespacedName]*serviceWork{}
	for name, object := range now.store.Services {
		last := was.services.byObject[name]
		if last == nil || was.opts != now.opts || !last.uses(object, s.slices[name], was, now) {
			changed[name] = &serviceWork{object: object, slices: s.slices[name]}
		}
	}
	gone := len(now.store.Services) < len(s.byObject)+added(s.byObject, changed)
	if len(changed) == 0 && !gone {
		return s
	}
	s.byObject, s.byName = maps.Clone(s.byObject), maps.Clone(s.byName)
	for name, last := range was.services.byObject {
		if changed[name] != nil || now.store.Services[name] == nil {
			delete(s.byObject, name)
			for _, r := range last.results {
				delete(s.byName, r.Name)
			}
		}
	}
	for name, work := range changed {
		last := was.services.byObject[name]
		if last == nil {
			last = &serviceWork{}
		}
		work.build(last, name, now)
		s.byObject[name] = work
		for _, r := range work.results {
			s.byName[r.Name] = r
		}
	}
	return s
}

func added(known, changed map[types.NamespacedName]*serviceWork) (n int) {
	for name := range changed {
		if known[name] == nil {
			n++
		}
	}
	return n
}

// uses says whether w was made of these objects and of the stages of now.
func (w *serviceWork) uses(object *corev1.Service, group []*discoveryv1.EndpointSlice, was, now memory) bool {
	if w.object != object || !slices.Equal(w.slices, group) {
		return false
	}
	if !sameMap(was.store.Pods, now.store.Pods) {
		for _, slice := range w.kept.slices {
			for i := range slice.Endpoints {
				name, ok := podName(slice, slice.Endpoints[i].TargetRef)
				if ok && was.store.Pods[name] != now.store.Pods[name] {
					return false
				}
			}
		}
	}
	if was.balance != now.balance {
		for i, r := range w.results {
			if now.balance.effective[r.Name] != w.effective[i] {
				return false
			}
		}
	}
	return was.grants == now.grants || slices.Equal(w.readers, now.grants.readers(nameOf(w.object)))
}

// slicesByService groups EndpointSlices by the Service that their label names.
func slicesByService(objects map[types.NamespacedName]*discoveryv1.EndpointSlice) map[types.NamespacedName][]*discoveryv1.EndpointSlice {
	groups := make(map[types.NamespacedName][]*discoveryv1.EndpointSlice, len(objects))
	for name, slice := range objects {
		service := types.NamespacedName{Namespace: name.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
		groups[service] = append(groups[service], slice)
	}
	for _, group := range groups {
		slices.SortFunc(group, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
	}
	return groups
}

func judgeOrphans(store *source.Store) (verdicts []Verdict) {
	for name, slice := range store.EndpointSlices {
		service := types.NamespacedName{Namespace: name.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
		if store.Services[service] != nil {
			continue
		}
		const field = "metadata.labels[" + discoveryv1.LabelServiceName + "]"
		why := refuse(ReasonTargetNotFound, field, "Service %s does not exist; the endpoints are not used until it does", service)
		if service.Name == "" {
			why = refuse(ReasonInvalid, field, "is missing; expected the name of the Service whose endpoints these are")
		}
		verdicts = append(verdicts, Verdict{Object: sliceRef(slice), Accepted: why.condition(), ResolvedRefs: resolved()})
	}
	slices.SortFunc(verdicts, compareVerdicts)
	return verdicts
}

func (s *services) sameVerdicts(was *services) bool {
	if len(s.byObject) != len(was.byObject) || !sameVerdicts(s.orphans, was.orphans) {
		return false
	}
	for name, work := range s.byObject {
		last := was.byObject[name]
		if last != work && (last == nil || !sameVerdicts(last.verdicts, work.verdicts)) {
			return false
		}
	}
	return true
}

// servicePorts are the ports of a Service that HTTP can use, by the name of each.
func servicePorts(object *corev1.Service) iter.Seq2[string, *corev1.ServicePort] {
	return func(yield func(string, *corev1.ServicePort) bool) {
		if object == nil || object.Spec.Type == corev1.ServiceTypeExternalName {
			return
		}
		for i := range object.Spec.Ports {
			if p := &object.Spec.Ports[i]; isTCP(p.Protocol) && !yield(serviceName(nameOf(object), p.Port), p) {
				return
			}
		}
	}
}

// defaultBalance is the policy of all Services that no BalancePolicy reaches.
var defaultBalance = v1alpha1.DefaultBalance()

// build fills in the results.
func (w *serviceWork) build(last *serviceWork, name types.NamespacedName, now memory) {
	w.readers = now.grants.readers(name)
	w.kept = keptParts{slices: map[string]*discoveryv1.EndpointSlice{}, settings: map[source.Ref]*settings{}}
	ref := source.Ref{Kind: source.KindService, Namespace: name.Namespace, Name: name.Name}
	verdict := Verdict{Object: ref, Accepted: accepted(), ResolvedRefs: resolved()}
	if w.object.Spec.Type == corev1.ServiceTypeExternalName {
		verdict.Accepted = unsupported("spec.type", "ExternalName; expected a Service with endpoints").condition()
	}
	w.verdicts = append(w.verdicts, verdict)

	reader := sliceReader{work: w, last: last, store: now.store, opts: now.opts, ofPods: map[types.NamespacedName]*settings{}}
	groups := reader.read()
	for portName, port := range servicePorts(w.object) {
		s := &Service{
			Name: portName, Namespace: name.Namespace, Object: ref,
			PortName: port.Name, HTTP2: speaksHTTP2(port.AppProtocol), Readers: w.readers,
		}
		e := now.balance.effective[portName]
		if e != nil {
			s.Policy, s.HasPolicy, s.Policies = e.spec, true, e.refs()
		} else {
			s.Policy = defaultBalance
		}
		s.Endpoints = reader.endpoints(groups, port, s)
		w.effective = append(w.effective, e)
		var prev *Service
		if i := slices.IndexFunc(last.results, func(r *Service) bool { return r.Name == portName }); i >= 0 {
			prev = last.results[i]
		}
		w.results = append(w.results, share(prev, s))
	}
	slices.SortFunc(w.verdicts, compareVerdicts)
}
