package replica

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
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

// elect takes part in the election until ctx is done, and then gives the Lease up if it holds it.
func (r *Replica) elect(ctx context.Context) error {
	self := r.opts.Self.identity()
	lock := &observed{
		Interface: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: r.opts.Namespace, Name: r.opts.LeaseName},
			Client:     r.opts.Leases,
			LockConfig: resourcelock.ResourceLockConfig{Identity: self},
		},
		replica: r, ctx: ctx, self: self,
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:            lock,
		LeaseDuration:   r.opts.Duration,
		RenewDeadline:   r.opts.Duration * 10 / 15,
		RetryPeriod:     r.opts.Duration * 2 / 15,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) {}, // the lock has seen it
			OnStoppedLeading: func() {},
		},
		Name: r.opts.LeaseName,
	})
	if err != nil {
		return err
	}
	quiet := klog.NewContext(ctx, logr.Discard()) // the lock says what there is to say
	for ctx.Err() == nil {
		elector.Run(quiet) // ends when the Lease could not be renewed
	}
	return nil
}

// observed is a lock that tells the replica who holds it, in the order in which that is seen; callbacks of the
// elector come in any order.
type observed struct {
	resourcelock.Interface
	replica *Replica
	ctx     context.Context
	self    string
	failing bool
}

// Get implements resourcelock.Interface.
func (l *observed) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	l.outcome(err)
	if err == nil {
		l.saw(record.HolderIdentity)
	}
	return record, raw, err
}

// Create implements resourcelock.Interface.
func (l *observed) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	err := l.Interface.Create(ctx, record)
	l.outcome(err)
	if err == nil {
		l.saw(record.HolderIdentity)
	}
	return err
}

var errTooEarly = errors.New("this replica has just started and has not heard a leader yet")

// Update implements resourcelock.Interface. A replica that has just started does not take the Lease over from
// another: whoever heard that one knows the weights.
func (l *observed) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if !l.replica.mayLead(time.Now()) {
		return errTooEarly
	}
	err := l.Interface.Update(ctx, record)
	l.outcome(err)
	if err == nil {
		l.saw(record.HolderIdentity)
	}
	return err
}

// saw is told of every holder that was read or written.
func (l *observed) saw(holder string) {
	switch holder {
	case "": // given up: the next holder comes soon
	case l.self:
		l.replica.become(l.ctx, Role{Leads: true, Leader: l.replica.opts.Self})
	default:
		l.replica.become(l.ctx, Role{Leader: peerOf(holder)})
	}
}

// outcome logs once that the Lease cannot be had, and when it can again.
func (l *observed) outcome(err error) {
	failed := err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err)
	switch {
	case l.ctx.Err() != nil:
	case failed && !l.failing:
		l.replica.opts.Log.Warn("the Lease cannot be read or written; who leads goes on, and who follows keeps its weights", "error", err)
		l.failing = true
	case !failed && l.failing:
		l.replica.opts.Log.Info("the Lease can be read and written again")
		l.failing = false
	}
}

// mayLead says whether this replica may take the Lease: it holds it, or has heard the weights, or nobody is
// there to tell them.
func (r *Replica) mayLead(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.role.Leads || r.heard || now.Sub(r.began) >= Patience
}
