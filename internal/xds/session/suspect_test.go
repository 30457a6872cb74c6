package session

import (
	"testing"

	"evenkeel.io/controlplane/internal/snapshot"
)

// The messages are what Envoy 1.40.0 says.
func TestSuspect(t *testing.T) {
	for _, c := range []struct {
		message string
		names   []string
		want    string
	}{
		{`Proto constraint validation failed (ClusterLoadAssignmentValidationError.Endpoints[0]: embedded message failed validation | caused by ...): goo.gle/debugproto   cluster_name: "shop/cart:80" endpoints { lb_endpoints { } }`,
			[]string{"shop/cart:80", "shop/pay:80"}, "shop/cart:80"},
		{`Proto constraint validation failed (RouteConfigurationValidationError...): goo.gle/debugonly  name: "shop/edge/80" virtual_hosts { name: "all" }`,
			[]string{"shop/edge/80"}, "shop/edge/80"},
		{`Error adding/updating cluster(s) shop/pay:80: cluster: ring hash is not supported`, []string{"shop/cart:80", "shop/pay:80"}, "shop/pay:80"},
		{`Error adding/updating listener(s) shop/edge/80: cannot bind '127.0.0.1:80': Permission denied`, []string{"shop/edge/80", "shop/edge/81"}, "shop/edge/80"},
		{`Unexpected EDS cluster (expecting shop/cart:80): shop/pay:80`, []string{"shop/cart:80", "shop/pay:80"}, "shop/pay:80"},
		{`malformed IP address: foo.bar`, []string{"shop/cart:80", "shop/pay:80"}, ""},
		{`cluster_name: "not ours"`, []string{"shop/cart:80", "shop/pay:80"}, ""},
	} {
		sent := map[string]*snapshot.Resource{}
		for _, name := range c.names {
			sent[name] = nil
		}
		if got, _ := suspect(c.message, sent); got != c.want {
			t.Errorf("%s: %q, want %q", c.message, got, c.want)
		}
	}
}
