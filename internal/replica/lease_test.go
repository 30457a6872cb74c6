package replica

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	leases "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"evenkeel.io/controlplane/internal/kubetest"
)

// leaseOf is the Lease as anybody reads it.
func leaseOf(t *testing.T, server *kubetest.APIServer, namespace string) *coordinationv1.Lease {
	t.Helper()
	client, err := leases.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	lease, err := client.Leases(namespace).Get(t.Context(), "evenkeel", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

// candidate takes part in an election when the test says so.
func candidate(t *testing.T, server *kubetest.APIServer, namespace, name string) *election {
	t.Helper()
	o := newOne(t, name, func(o *Options) { o.Config, o.Namespace, o.Duration = server.Config(), namespace, 15*time.Second })
	client, err := leaseClient(o.opts.Config)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	go func() {
		for {
			select {
			case <-o.Replica.events:
			case <-ctx.Done():
				return
			}
		}
	}()
	return &election{ctx: ctx, replica: o.Replica, leases: client, self: o.opts.Self.identity(), lease: &coordinationv1.Lease{}}
}

// TestOneOfSeveralTakesTheLease: of those that read the same, one may write; the other reads who it was. What
// the Lease tells of its holder is what kubectl and other clients expect.
func TestOneOfSeveralTakesTheLease(t *testing.T) {
	server := kubetest.Shared(t)
	namespace := server.Namespace(t)
	a, b := candidate(t, server, namespace, "a"), candidate(t, server, namespace, "b")
	race := func(first, second *election) {
		t.Helper()
		for _, e := range []*election{first, second} {
			if err := e.read(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := first.write(t.Context(), first.self, 15*time.Second); err != nil {
			t.Fatal(err)
		}
		if err := second.write(t.Context(), second.self, 15*time.Second); !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			t.Errorf("the second may write too: %v", err)
		}
		if err := second.try(); err != nil || second.holder() != first.self {
			t.Errorf("held by %q, %v", second.holder(), err)
		}
		if !first.replica.Role().Leads || second.replica.Role().Leads {
			t.Errorf("roles %+v and %+v", first.replica.Role(), second.replica.Role())
		}
	}
	race(a, b)
	taken := leaseOf(t, server, namespace).Spec
	if err := a.try(); err != nil {
		t.Fatal(err)
	}
	renewed := leaseOf(t, server, namespace).Spec
	if !renewed.AcquireTime.Equal(taken.AcquireTime) || !renewed.RenewTime.After(taken.RenewTime.Time) || *renewed.LeaseTransitions != 0 || *renewed.LeaseDurationSeconds != 15 {
		t.Errorf("taken %+v, renewed %+v", taken, renewed)
	}
	race(b, a) // as if it had not been renewed
	if after := leaseOf(t, server, namespace).Spec; *after.LeaseTransitions != 1 || !after.AcquireTime.After(taken.AcquireTime.Time) {
		t.Errorf("taken over: %+v", after)
	}

	b.sure = false // a renewal was under way when it was told to stop
	if err := b.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	stale := b.lease.DeepCopy()
	if err := b.try(); err != nil {
		t.Fatal(err)
	}
	b.lease = stale
	b.release()
	if holder := *leaseOf(t, server, namespace).Spec.HolderIdentity; holder != "" {
		t.Errorf("still held by %q", holder)
	}
}

// TestWhoMayWriteTheLease: its holder, and others once it was given up, or was not renewed for as long as its holder
// said since they saw it: what the holder's clock says counts for nothing.
func TestWhoMayWriteTheLease(t *testing.T) {
	seen := time.Now()
	held := func(by string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "7"}, Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &by, LeaseDurationSeconds: new(int32(15)), RenewTime: &metav1.MicroTime{Time: seen.Add(-time.Hour)},
		}}
	}
	for name, c := range map[string]struct {
		lease *coordinationv1.Lease
		after time.Duration
		heard bool
		may   bool
	}{
		"there is none":                       {lease: &coordinationv1.Lease{}, may: true},
		"its own":                             {lease: held("self"), may: true},
		"its own, long not renewed":           {lease: held("self"), after: time.Hour, may: true},
		"another's":                           {lease: held("other"), after: 15 * time.Second, heard: true},
		"another's, not renewed":              {lease: held("other"), after: 15*time.Second + 1, heard: true, may: true},
		"another's, not renewed, not heard":   {lease: held("other"), after: 15*time.Second + 1},
		"given up":                            {lease: held(""), heard: true, may: true},
		"given up, not heard":                 {lease: held("")},
		"given up, not heard for long enough": {lease: held(""), after: Patience, may: true},
	} {
		r := New(Options{})
		r.began, r.heard = seen, c.heard
		if c.after > Patience && !c.heard {
			r.began = seen.Add(c.after)
		}
		e := &election{replica: r, self: "self", lease: c.lease, since: seen}
		if may := e.mayWrite(seen.Add(c.after)); may != c.may {
			t.Errorf("%s: %v, want %v", name, may, c.may)
		}
	}
}

func TestHolders(t *testing.T) {
	self := Peer{Name: "evenkeel-0", Address: "[fd00::1]:18000"}
	if got := peerOf(self.identity()); got != self {
		t.Errorf("%+v", got)
	}
	if one, other := self.identity(), self.identity(); one == other {
		t.Error("two processes of one name have one identity")
	}
	if got := peerOf("somebody else"); got.Address != "" || got.Name != "somebody else" {
		t.Errorf("%+v", got)
	}
}
