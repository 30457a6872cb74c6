package apply

import (
	"context"
	"strconv"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/status"
)

const (
	// maxEvents is how many Events wait to be made; more are dropped and counted. The conditions say the same.
	maxEvents = 256
	// Of one object there are eventsAtOnce Events in a row, then one in eventsApart.
	eventsAtOnce = 5
	eventsApart  = time.Minute
	// maxTalkers bounds the objects of which it is remembered how many Events they had.
	maxTalkers = 1024
)

// versions are the kinds that an Event may be about.
var versions = map[string]string{
	source.KindGatewayClass:   gatewayv1.GroupVersion.String(),
	source.KindGateway:        gatewayv1.GroupVersion.String(),
	source.KindHTTPRoute:      gatewayv1.GroupVersion.String(),
	source.KindReferenceGrant: gatewayv1.GroupVersion.String(),
	source.KindBalancePolicy:  v1alpha1.GroupVersion.String(),
	source.KindLimitPolicy:    v1alpha1.GroupVersion.String(),
	source.KindService:        corev1.SchemeGroupVersion.String(),
	source.KindPod:            corev1.SchemeGroupVersion.String(),
	source.KindNamespace:      corev1.SchemeGroupVersion.String(),
	source.KindEndpointSlice:  discoveryv1.SchemeGroupVersion.String(),
}

// event is an Event that waits to be made.
type event struct {
	status.Event
	uid types.UID // "" of an object that is not in the Store: it was refused from the first
	at  time.Time
}

// announce has an Event made, if there is room.
func (t *term) announce(store *source.Store, e status.Event) {
	if versions[e.Object.Kind] == "" {
		return
	}
	made := event{Event: e, at: time.Now()}
	if o := store.Get(e.Object); o != nil {
		made.uid = o.GetUID()
	}
	select {
	case t.events <- made:
	default:
		t.metrics.events.WithLabelValues("dropped").Inc()
	}
}

// tell makes the Events that wait, one after the other.
func (t *term) tell() {
	talkers := map[source.Ref]*rate.Limiter{}
	said := false
	for {
		select {
		case <-t.ctx.Done():
			return
		case e := <-t.events:
			if !mayTalk(talkers, e.Object, time.Now()) {
				t.metrics.events.WithLabelValues("dropped").Inc()
				continue
			}
			err := t.server.makeEvent(t.ctx, e)
			switch {
			case err == nil:
				t.metrics.events.WithLabelValues("written").Inc()
			case apierrors.IsForbidden(err):
				t.metrics.events.WithLabelValues("forbidden").Inc()
				if !said {
					said = true
					t.options.Log.Error("no Events are made: a permission is missing; see manifests/base/rbac.yaml", "error", err)
				}
			default:
				t.metrics.events.WithLabelValues("failed").Inc()
				t.options.Log.Debug("an Event was not made", "object", e.Object.String(), "error", err)
			}
		}
	}
}

// mayTalk bounds the Events of one object.
func mayTalk(talkers map[source.Ref]*rate.Limiter, object source.Ref, now time.Time) bool {
	l := talkers[object]
	if l == nil {
		if len(talkers) >= maxTalkers {
			clear(talkers) // some may then have more Events than they should, once
		}
		l = rate.NewLimiter(rate.Every(eventsApart), eventsAtOnce)
		talkers[object] = l
	}
	return l.AllowN(now, 1)
}

func (s *server) makeEvent(ctx context.Context, e event) error {
	const longestName, longestSuffix = 253, 17
	name := e.Object.Name[:min(len(e.Object.Name), longestName-longestSuffix)] + "." + strconv.FormatInt(e.at.UnixNano(), 16)
	namespace := e.Object.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where Events of what has no namespace are
	}
	made := &eventsv1.Event{
		TypeMeta:            metav1.TypeMeta{APIVersion: eventsv1.SchemeGroupVersion.String(), Kind: "Event"},
		ObjectMeta:          metav1.ObjectMeta{Namespace: namespace, Name: name},
		EventTime:           metav1.MicroTime{Time: e.at},
		ReportingController: catalog.ControllerName,
		ReportingInstance:   s.instance,
		Action:              "Programming",
		Reason:              e.Reason,
		Note:                e.Note,
		Type:                corev1.EventTypeNormal,
		Regarding: corev1.ObjectReference{
			APIVersion: versions[e.Object.Kind], Kind: e.Object.Kind, Namespace: e.Object.Namespace, Name: e.Object.Name, UID: e.uid,
		},
	}
	if e.Warning {
		made.Type = corev1.EventTypeWarning
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(made)
	if err != nil {
		return err
	}
	_, err = s.client.Resource(eventsv1.SchemeGroupVersion.WithResource("events")).Namespace(namespace).
		Create(ctx, &unstructured.Unstructured{Object: content}, metav1.CreateOptions{FieldManager: fieldManager})
	return err
}
