package promapi

import (
	"net"
	"net/netip"

	"github.com/prometheus/common/model"
)

// The labels by which results are matched.
const (
	labelNamespace = "namespace"
	labelPod       = "pod"
)

// matcher finds the endpoints that a result is about. It is immutable.
type matcher struct {
	byPod     map[string][]int // "<namespace>/<pod>" to indices of endpoints
	byAddress map[netip.AddrPort]int
	byHost    map[netip.Addr][]int
	hasPod    []bool
}

func newMatcher(endpoints []Endpoint) *matcher {
	m := &matcher{
		byPod:     map[string][]int{},
		byAddress: map[netip.AddrPort]int{},
		byHost:    map[netip.Addr][]int{},
		hasPod:    make([]bool, len(endpoints)),
	}
	for i, e := range endpoints {
		if e.Pod != "" {
			m.byPod[e.Pod] = append(m.byPod[e.Pod], i)
			m.hasPod[i] = true
		}
		if at, err := netip.ParseAddrPort(e.Address); err == nil {
			at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
			m.byAddress[at] = i
			m.byHost[at.Addr()] = append(m.byHost[at.Addr()], i)
		}
	}
	return m
}

// rank says how well a result names an endpoint; the best one counts.
type rank int

const (
	rankNone    rank = iota
	rankHost         // the host of instance is the endpoint's
	rankAddress      // instance is the endpoint's address
	rankPod          // the labels name the endpoint's Pod
)

// match gives the endpoints of a result: those of the Pod that its labels name, else the one at its
// instance. ambiguous: several endpoints share the host, and nothing says which one is meant.
func (m *matcher) match(labels model.Metric) (endpoints []int, by rank, ambiguous bool) {
	namespace, pod := labels[labelNamespace], labels[labelPod]
	named := namespace != "" && pod != ""
	if named {
		if found := m.byPod[string(namespace)+"/"+string(pod)]; found != nil {
			return found, rankPod, false
		}
	}
	// Pods on the host's network share its address: one that is known is found by its name or not at all.
	eligible := func(i int) bool { return !named || !m.hasPod[i] }

	instance := string(labels[model.InstanceLabel])
	if at, err := netip.ParseAddrPort(instance); err == nil {
		if i, ok := m.byAddress[netip.AddrPortFrom(at.Addr().Unmap(), at.Port())]; ok && eligible(i) {
			return []int{i}, rankAddress, false
		}
	}
	host := instance
	if h, _, err := net.SplitHostPort(instance); err == nil {
		host = h
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil, rankNone, false
	}
	for _, i := range m.byHost[addr.Unmap()] {
		if eligible(i) {
			endpoints = append(endpoints, i)
		}
	}
	switch len(endpoints) {
	case 0:
		return nil, rankNone, false
	case 1:
		return endpoints, rankHost, false
	}
	return nil, rankNone, true
}
