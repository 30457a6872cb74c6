package kube

import (
	"context"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/source/admit"
)

// backoff is how often an API server is asked that does not answer, or does not have the kind: soon
// enough to be back within seconds, and seldom enough for one that many wait for.
func backoff() *wait.Backoff {
	return &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Cap: 2 * time.Second, Steps: 10, Jitter: 0.5}
}

// reading lists one kind and watches it from there on, again and again: a Reflector whose store hands
// everything on as events, and keeps nothing. Which of the Reflector's calls it was is the evidence.
type reading struct {
	table  *table
	kind   *kind
	client *client
	events chan<- event
	ctx    context.Context // ends the reading
	cancel context.CancelFunc

	// Of the Reflector's goroutine.
	consistent bool   // the next list is to be
	last       string // resource version of the last event
}

// event is one thing that a reading tells. Exactly one of the fields after version says which.
type event struct {
	from    *reading
	version string // resource version of what is put or removed

	list     *list
	put      *item
	removed  *source.Ref
	watching bool  // a watch was established
	alive    bool  // the watch is, though nothing happens
	disorder bool  // the watch told of what was before what it told last
	err      error // a list or a watch was refused, or did not get through
}

// list is all objects of a kind. consistent: as of when it was asked for, whatever caches there are.
type list struct {
	items      []item
	version    string // resource version of the whole
	consistent bool
}

// item is an object as it is kept, and what is wrong with it.
type item struct {
	object source.Object
	errs   field.ErrorList
}

func newReading(ctx context.Context, t *table, c *client, events chan<- event, consistent bool) *reading {
	r := &reading{table: t, kind: t.kind, client: c, events: events, consistent: consistent}
	r.ctx, r.cancel = context.WithCancel(klog.NewContext(ctx, logr.Discard())) // events say it all
	return r
}

func (r *reading) run() {
	requests := &cache.ListWatch{ListWithContextFunc: r.list, WatchFuncWithContext: r.watch}
	var from cache.ListerWatcher = requests
	if r.consistent {
		from = plainLists{requests}
	}
	discard := logr.Discard()
	reflector := cache.NewReflectorWithOptions(from, r.kind.object, r, cache.ReflectorOptions{
		Name: r.kind.name, Backoff: backoff(), Logger: &discard,
	})
	reflector.RunWithContext(r.ctx)
}

// plainLists makes the Reflector list in pages instead of streaming: a consistent list is to come another
// way than the one that it checks.
type plainLists struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is what the Reflector asks.
func (plainLists) IsWatchListSemanticsUnSupported() bool { return true }

func (r *reading) list(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	if r.consistent {
		options.ResourceVersion, options.ResourceVersionMatch = "", ""
	}
	objects, err := r.client.list(ctx, r.kind, options)
	if err != nil && !expected(err) {
		r.send(event{err: err})
	}
	return objects, err
}

func (r *reading) watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	w, err := r.client.watch(ctx, r.kind, options)
	streamed := options.SendInitialEvents != nil
	switch {
	case err == nil:
		r.send(event{watching: true})
	case expected(err), streamed && (apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)):
		// The Reflector goes on with a list.
	default:
		r.send(event{err: err})
	}
	return w, err
}

// expected errors are how an API server says that a resource version is not to be had any more, or not yet.
func expected(err error) bool {
	return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
}

// Replace takes a list.
func (r *reading) Replace(objects []any, resourceVersion string) error {
	l := &list{items: make([]item, len(objects)), version: resourceVersion, consistent: r.consistent}
	for i, obj := range objects {
		l.items[i] = keep(obj.(source.Object))
	}
	r.consistent, r.last = false, resourceVersion
	_ = r.send(event{list: l}) // fails at the end only; at an error the Reflector would leave its watch open
	return nil
}

// Add takes an event of a watch.
func (r *reading) Add(obj any) error { return r.Update(obj) }

// Update takes an event of a watch.
func (r *reading) Update(obj any) error {
	o := obj.(source.Object)
	if news, err := r.order(o); !news {
		return err
	}
	version, kept := o.GetResourceVersion(), keep(o)
	return r.send(event{version: version, put: &kept})
}

// Delete takes an event of a watch.
func (r *reading) Delete(obj any) error {
	o := obj.(source.Object)
	if news, err := r.order(o); !news {
		return err
	}
	return r.send(event{version: o.GetResourceVersion(), removed: new(source.RefOf(o))})
}

// Bookmark says that the watch is alive.
func (r *reading) Bookmark(resourceVersion string) error {
	if c, err := resourceversion.CompareResourceVersion(resourceVersion, r.last); err == nil && c > 0 {
		r.last = resourceVersion
	}
	return r.send(event{alive: true})
}

// Resync has nothing to do: the receiver of events has them all.
func (r *reading) Resync() error { return nil }

// Transformer trims what a streamed list gathers, before all of it is there.
func (r *reading) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return trim(obj.(source.Object)), nil }
}

// order tells whether an event is news. A watch tells of changes in their order: one that is told again
// is none, and after one that is out of order nobody knows what else is missing.
func (r *reading) order(o source.Object) (news bool, err error) {
	c, err := resourceversion.CompareResourceVersion(o.GetResourceVersion(), r.last)
	switch {
	case err != nil || c > 0: // versions that cannot be compared have no order
		r.last = o.GetResourceVersion()
		return true, nil
	case c == 0:
		return false, nil
	}
	return false, r.send(event{disorder: true})
}

func (r *reading) send(e event) error {
	e.from = r
	select {
	case r.events <- e:
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// keep is what is kept of an object, if it may be. What is built into the API server was validated by it.
// The definition of another kind may be older than ours, so that its defaults and checks are not those
// that we count on.
func keep(obj source.Object) item {
	if obj.GetResourceVersion() != "" { // else it was trimmed in a streamed list
		obj = trim(obj)
	}
	kept := item{object: obj}
	switch source.RefOf(obj).Kind {
	case source.KindGatewayClass, source.KindGateway, source.KindHTTPRoute, source.KindReferenceGrant, source.KindBalancePolicy, source.KindLimitPolicy:
		kept.errs = admit.Object(obj)
	}
	return kept
}

var (
	_ cache.TransformingStore      = (*reading)(nil)
	_ cache.ReflectorBookmarkStore = (*reading)(nil)
)
