package replica

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
)

// identity is a holder of the Lease: the name and the address of a replica, and which process it is. One that
// was killed and started again is another: it does not know the weights, and those who do are to succeed it.
// No name of a host has "_".
func (p Peer) identity() string { return p.Name + "_" + p.Address + "_" + rand.Text()[:8] }

// peerOf is the inverse. A holder that is no replica of ours has no address.
func peerOf(identity string) Peer {
	parts := strings.Split(identity, "_")
	if len(parts) != 3 {
		return Peer{Name: identity}
	}
	return Peer{Name: parts[0], Address: parts[1]}
}

// election is a replica's part in the election. One goroutine owns it.
//
// Who holds the Lease renews it. The others read it. One that nobody holds, or that was not renewed for as long
// as its holder said since it was first seen as it is, by the clock of who sees it, is taken. Of several that
// write the API server refuses all but one: each names the version that it read.
type election struct {
	ctx     context.Context
	replica *Replica
	leases  rest.Interface
	self    string

	lease   *coordinationv1.Lease // as it was read or written last; without a resource version there is none
	since   time.Time             // it is as it is
	sure    bool                  // nothing went wrong since it was read or written
	failing bool
}

// elect takes part in the election until ctx is done, and then gives the Lease up if it holds it.
func (r *Replica) elect(ctx context.Context) error {
	leases, err := leaseClient(r.opts.Config)
	if err != nil {
		return fmt.Errorf("the API server of the Lease: %w", err)
	}
	e := &election{ctx: ctx, replica: r, leases: leases, self: r.opts.Self.identity(), lease: &coordinationv1.Lease{}}
	tick := time.NewTicker(r.opts.Duration * 2 / 15)
	defer tick.Stop()
	for {
		e.outcome(e.try())
		select {
		case <-tick.C:
		case <-ctx.Done():
			e.release()
			return nil
		}
	}
}

// leaseClient reads and writes Leases, and knows no other kind.
func leaseClient(config *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	utilruntime.Must(coordinationv1.AddToScheme(scheme))
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &coordinationv1.SchemeGroupVersion, "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.QPS = -1 // a request at each tick
	return rest.RESTClientFor(config)
}

// try renews the Lease, or takes it if it may.
func (e *election) try() error {
	ctx, cancel := context.WithTimeout(e.ctx, e.replica.opts.Duration/3)
	defer cancel()
	if !e.sure || e.holder() != e.self {
		if err := e.read(ctx); err != nil {
			return err
		}
	}
	if !e.mayWrite(time.Now()) {
		return nil
	}
	return e.write(ctx, e.self, e.replica.opts.Duration)
}

// mayWrite says whether the Lease is this replica's to write. One that has just started does not take it over from
// another: whoever heard that one knows the weights.
func (e *election) mayWrite(now time.Time) bool {
	switch e.holder() {
	case e.self:
		return true
	case "":
		return e.lease.ResourceVersion == "" || e.replica.mayLead(now)
	}
	var holds time.Duration
	if s := e.lease.Spec.LeaseDurationSeconds; s != nil {
		holds = time.Duration(*s) * time.Second
	}
	return now.Sub(e.since) > holds && e.replica.mayLead(now)
}

func (e *election) holder() string {
	if h := e.lease.Spec.HolderIdentity; h != nil {
		return *h
	}
	return ""
}

// read reads the Lease.
func (e *election) read(ctx context.Context) error {
	lease := &coordinationv1.Lease{}
	err := e.request(e.leases.Get()).Name(e.replica.opts.LeaseName).Do(ctx).Into(lease)
	if apierrors.IsNotFound(err) {
		lease, err = &coordinationv1.Lease{}, nil
	}
	if e.sure = err == nil; e.sure {
		e.saw(lease)
	}
	return err
}

// write makes a holder hold the Lease for so long from now, in whole seconds.
func (e *election) write(ctx context.Context, holder string, duration time.Duration) error {
	next := e.lease.DeepCopy()
	next.Namespace, next.Name = e.replica.opts.Namespace, e.replica.opts.LeaseName
	now := &metav1.MicroTime{Time: time.Now()}
	s := &next.Spec
	if e.holder() != holder || s.AcquireTime == nil {
		s.AcquireTime = now
	}
	if s.LeaseTransitions == nil {
		s.LeaseTransitions = new(int32(0))
	} else if holder != "" && e.holder() != holder {
		*s.LeaseTransitions++
	}
	s.HolderIdentity, s.LeaseDurationSeconds, s.RenewTime = &holder, new(int32(duration/time.Second)), now
	to := e.leases.Post()
	if next.ResourceVersion != "" {
		to = e.leases.Put().Name(next.Name)
	}
	written := &coordinationv1.Lease{}
	err := e.request(to).Body(next).Do(ctx).Into(written)
	if e.sure = err == nil; e.sure {
		e.saw(written)
	}
	return err
}

func (e *election) request(r *rest.Request) *rest.Request {
	return r.Namespace(e.replica.opts.Namespace).Resource("leases")
}

// saw is told of every Lease that was read or written, in the order in which that happened.
func (e *election) saw(lease *coordinationv1.Lease) {
	if e.since.IsZero() || lease.ResourceVersion != e.lease.ResourceVersion {
		e.since = time.Now()
	}
	e.lease = lease
	switch holder := e.holder(); holder {
	case "": // given up: the next holder comes soon
	case e.self:
		e.replica.become(e.ctx, Role{Leads: true, Leader: e.replica.opts.Self})
	default:
		e.replica.become(e.ctx, Role{Leader: peerOf(holder)})
	}
}

// release gives the Lease up, if it is held, so that its successor need not wait.
func (e *election) release() {
	ctx, cancel := context.WithTimeout(context.Background(), e.replica.opts.Duration*10/15)
	defer cancel()
	for e.holder() == e.self {
		err := e.write(ctx, "", time.Second)
		if apierrors.IsConflict(err) { // what was under way when ctx ended has come through
			err = e.read(ctx)
		}
		if err != nil {
			return
		}
	}
}

// outcome logs once that the Lease cannot be had, and when it can again.
func (e *election) outcome(err error) {
	failed := err != nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err)
	switch {
	case e.ctx.Err() != nil:
	case failed && !e.failing:
		e.replica.opts.Log.Warn("the Lease cannot be read or written; who leads goes on, and who follows keeps its weights", "error", err)
		e.failing = true
	case !failed && e.failing:
		e.replica.opts.Log.Info("the Lease can be read and written again")
		e.failing = false
	}
}

// mayLead says whether this replica may take the Lease: it holds it, or has heard the weights, or nobody is
// there to tell them.
func (r *Replica) mayLead(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.role.Leads || r.heard || now.Sub(r.began) >= Patience
}
