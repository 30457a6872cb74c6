package kube

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// TestTrimmedEndpoints: each keeps what the catalog reads, next to others that have more or less of it, and all
// of a slice are few objects in memory.
func TestTrimmedEndpoints(t *testing.T) {
	full := func(i int) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.0.0.%d", i), fmt.Sprintf("10.0.1.%d", i)}, Zone: new(fmt.Sprint("zone-", i%3)), NodeName: new("node"),
			Conditions: discoveryv1.EndpointConditions{Ready: new(true), Terminating: new(false)},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: fmt.Sprint("pod-", i), UID: "uid", ResourceVersion: "7"},
		}
	}
	trimmed := func(e discoveryv1.Endpoint) discoveryv1.Endpoint {
		e.NodeName = nil
		if e.TargetRef != nil {
			e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: e.TargetRef.Name}
		}
		return e
	}
	bare := discoveryv1.Endpoint{Addresses: []string{}}
	nobody := full(2)
	nobody.TargetRef, nobody.Zone = nil, nil
	read := []discoveryv1.Endpoint{full(0), bare, full(1), nobody, full(3)}
	var want []discoveryv1.Endpoint
	for _, e := range read {
		want = append(want, trimmed(e))
	}
	got := trimEndpoints(read)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got[0].Addresses = append(got[0].Addresses, "10.9.9.9"); got[2].Addresses[0] != "10.0.0.1" {
		t.Errorf("one endpoint's addresses went over into another's: %q", got[2].Addresses)
	}

	var many []discoveryv1.Endpoint
	for i := range 100 {
		many = append(many, full(i))
	}
	if n := testing.AllocsPerRun(10, func() { trimEndpoints(many) }); n > 30 {
		t.Errorf("%v allocations for %d endpoints", n, len(many))
	}
}
