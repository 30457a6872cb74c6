package auth

import (
	"net/url"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"evenkeel.io/controlplane/internal/auth/authority"
	"evenkeel.io/controlplane/internal/auth/authtest"
)

// TestReplicasKnowEachOther: a replica is let in by the certificate that it serves with, and talks only to one
// whose certificate names a replica and is signed by an authority that it trusts, whatever its address.
func TestReplicasKnowEachOther(t *testing.T) {
	ours, theirs := newCA(t, "ours"), newCA(t, "theirs")
	named := func(c ca, name string) authority.Pair {
		return c.issue(func(r *authority.Request) {
			r.URI, _ = url.Parse(name)
			r.IPs, r.DNS, r.Server = nil, []string{"evenkeel.example"}, true
		})
	}
	const replica = "spiffe://cluster.local/replica"
	at := func(pair authority.Pair, trusted []byte) *port {
		dir := t.TempDir()
		authtest.Mount(t, dir, pair, trusted)
		return startPort(t, dir)
	}
	one := at(named(ours, replica), ours.pem)
	for what, test := range map[string]struct {
		server *port
		want   codes.Code
	}{
		"another replica":        {at(named(ours, replica), ours.pem), codes.OK},
		"another server of ours": {at(named(ours, "spiffe://cluster.local/fleet/shop/edge"), ours.pem), codes.Unavailable},
		"somebody else's":        {at(named(theirs, replica), ours.pem), codes.Unavailable},
		"one that trusts others": {at(named(ours, replica), theirs.pem), codes.Unavailable},
	} {
		err := call(t, test.server.dial(one.ReplicaCredentials()), "/grpc.health.v1.Health/Check")
		if status.Code(err) != test.want {
			t.Errorf("%s: %v, want %v", what, err, test.want)
		}
	}
}
