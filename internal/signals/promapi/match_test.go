package promapi

import (
	"slices"
	"testing"

	"github.com/prometheus/common/model"
)

func TestMatch(t *testing.T) {
	endpoints := []Endpoint{
		0: {Address: "10.0.0.1:8080", Pod: "shop/cart-1"},
		1: {Address: "10.0.0.1:8081", Pod: "shop/cart-1"}, // a second address of the Pod
		2: {Address: "10.0.0.2:8080", Pod: "shop/cart-2"},
		3: {Address: "10.0.0.3:8080"}, // no Pods, two on one host
		4: {Address: "10.0.0.3:8081"},
		5: {Address: "10.0.0.4:8080"},
		6: {Address: "[fd00::1]:8080"},
	}
	m := newMatcher(endpoints)
	for _, test := range []struct {
		namespace, pod, instance model.LabelValue
		want                     []int
		by                       rank
		ambiguous                bool
	}{
		{"shop", "cart-1", "", []int{0, 1}, rankPod, false},
		{"shop", "cart-2", "10.0.0.4:8080", []int{2}, rankPod, false}, // the labels go before instance
		{"", "", "10.0.0.2:9090", []int{2}, rankHost, false},
		{"", "cart-1", "10.0.0.2:9090", []int{2}, rankHost, false}, // a pod without a namespace names none
		{"other", "cart-1", "10.0.0.4:9090", []int{5}, rankHost, false},
		{"shop", "agent", "10.0.0.2:9100", nil, rankNone, false}, // another Pod on the host's network
		{"shop", "agent", "10.0.0.2:8080", nil, rankNone, false},
		{"", "", "10.0.0.3:8081", []int{4}, rankAddress, false},
		{"", "", "10.0.0.3:9090", nil, rankNone, true},
		{"", "", "10.0.0.1:9090", nil, rankNone, true},
		{"", "", "10.0.0.4", []int{5}, rankHost, false},
		{"", "", "[fd00::1]:9090", []int{6}, rankHost, false},
		{"", "", "fd00:0::1", []int{6}, rankHost, false},
		{"", "", "[::ffff:10.0.0.4]:8080", []int{5}, rankAddress, false},
		{"", "", "10.0.0.9:8080", nil, rankNone, false},
		{"", "", "cart.example:8080", nil, rankNone, false},
		{"", "", "", nil, rankNone, false},
	} {
		labels := model.Metric{"namespace": test.namespace, "pod": test.pod, "instance": test.instance}
		got, by, ambiguous := m.match(labels)
		if !slices.Equal(got, test.want) || by != test.by || ambiguous != test.ambiguous {
			t.Errorf("%v: got %v, %v, %v; want %v, %v, %v", labels, got, by, ambiguous, test.want, test.by, test.ambiguous)
		}
	}
}
