// Package admin is the control plane's HTTP port: what operators look at (pages), what programs read
// (JSON on the same paths), what Prometheus scrapes, and the few actions an operator may take.
//
// It renders what others expose, through the small interfaces below, and decides nothing. GET changes
// nothing. An action needs the header X-Evenkeel-Action, which no page of another origin can send.
// Requests are answered only when their Host is an IP address, localhost or a name the operator
// allowed, so that no name rebound to a loopback address reaches it. There is no CORS.
//
// The JSON types are exported: the command line decodes them.
package admin

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"evenkeel.io/controlplane/internal/adapt"
	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/weights"
	"evenkeel.io/controlplane/internal/xds"
)

// Model is what the control plane knows at one moment. It is immutable, and so is what it returns.
type Model interface {
	// Ready is nil once the sources are synced and the first build is done; before that it says what
	// is waited for.
	Ready() error
	// LastKnownGood is when what is served was saved, while the objects cannot be read since the start; else
	// zero.
	LastKnownGood() time.Time
	// Store and Catalog are the ones in force, nil before there is one.
	Store() *source.Store
	Catalog() *catalog.Catalog
	// Decisions of the last step of a Service, false if none was made.
	Decisions(service string) (weights.Decisions, bool)
	// Reading is the last reading of an endpoint.
	Reading(signals.Key) (signals.Reading, bool)
	// Fleets that have a snapshot, sorted.
	Fleets() []string
	// Snapshot that a fleet is served, and the number of its generation; of "rls" what reference rate limit services
	// are served, which has none.
	Snapshot(fleet string) (current *snapshot.Snapshot, generation uint64, ok bool)
	// Pin is what a fleet is pinned to, nil if it is served its newest generation.
	Pin(fleet string) *snapshot.Pin
	// Generations of a fleet and pushes of a Service, the oldest first.
	Generations(fleet string) []snapshot.Generation
	Pushes(service string) []snapshot.Push
	// Refusals are the resources that did not pass validation and are not served.
	Refusals() []*snapshot.Refusal
}

// Proxies are the connected nodes and the refusals of late.
type Proxies interface {
	Proxies() []xds.Proxy
	Nacks() []xds.Nack
}

// Targets are what a collector reads.
type Targets interface {
	Targets() []signals.Target
}

// Actions are what an operator may change. A Service is named "<namespace>/<service>:<port>"; "" is
// all of them, those to come included. by is who asks, for the audit. An error says why the action was
// refused.
type Actions interface {
	Freeze(ctx context.Context, by, service string) error
	Unfreeze(ctx context.Context, by, service string) error
	Rollback(ctx context.Context, by, fleet string, generation uint64) (snapshot.Pin, error)
	Unpin(ctx context.Context, by, fleet string) error
	// Accept takes the removals of endpoints that are held because only a list told of them; "" takes all
	// that is held, of other objects too.
	Accept(ctx context.Context, by, service string) error
}

// Options say what New serves. All but AllowedHosts, Now and Version must be set.
type Options struct {
	// Model is asked once per request, so that everything in an answer is of one moment.
	Model   func() Model
	Proxies Proxies
	// Targets are shown together.
	Targets []Targets
	Actions Actions
	// Limits are those that are counted in this process; nil: there is no rate limit service in it.
	Limits Limits
	// Factors are why the limits of a fleet are multiplied with what they are, by rule; nil: nothing is known.
	Factors func(fleet string) map[string]adapt.Decision
	// Follows names the replica that computes the weights, "" if this one does; nil if there is no other.
	Follows func() string
	// Metrics is served on /metrics.
	Metrics prometheus.Gatherer
	// AllowedHosts are the names that requests may be addressed to besides IP addresses and localhost:
	// the DNS name of the Service or ingress in front of the port. No ports, no wildcards.
	AllowedHosts []string
	// Now is the clock that ages are reckoned by; time.Now if nil.
	Now func() time.Time
	// Version is shown at the foot of the pages.
	Version string
}

// server is the handler's state; it is not changed after New.
type server struct {
	Options
	routes []route
}

// route is one path. Its handler returns the value that is sent as JSON, or given to the page's
// template for a browser.
type route struct {
	pattern string // of http.ServeMux, without a method
	page    string // name of the template that shows the value, "" for the generic one
	live    bool   // the page refreshes itself
	action  bool   // POST with the action header instead of GET
	about   string // for the list of paths that an unknown one is answered with
	handle  func(moment, *http.Request) (any, error)
}

// moment is what one request sees.
type moment struct {
	*server
	model Model
	now   time.Time
}

func newServer(o Options) *server {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Follows == nil {
		o.Follows = func() string { return "" }
	}
	if o.Factors == nil {
		o.Factors = func(string) map[string]adapt.Decision { return nil }
	}
	o.Version = cmp.Or(o.Version, "development")
	return &server{Options: o}
}

func (s *server) moment() moment { return moment{s, s.Model(), s.Now()} }

// New is the handler of the admin port. The server around it owns the timeouts.
func New(o Options) http.Handler {
	s := newServer(o)
	s.routes = []route{
		{pattern: "/{$}", page: "overview", live: true, about: "overview", handle: moment.overview},
		{pattern: "/services", page: "services", live: true, about: "services with their weights", handle: moment.services},
		{pattern: "/services/{namespace}/{service}", page: "service", live: true, about: "one Service, <name>:<port>", handle: moment.service},
		{pattern: "/targets", page: "targets", live: true, about: "scrape targets", handle: moment.targets},
		{pattern: "/limits", page: "limits", live: true, about: "limits, their factors and who is refused", handle: moment.limits},
		{pattern: "/limits/explain", about: "what a limit makes of a key: ?fleet=&rule=&key=PART=VALUE", handle: moment.explainLimit},
		{pattern: "/proxies", page: "proxies", live: true, about: "connected proxies", handle: moment.proxies},
		{pattern: "/nacks", page: "nacks", live: true, about: "refusals by proxies", handle: moment.nacks},
		{pattern: "/snapshots", page: "snapshots", about: "what every fleet is served", handle: moment.snapshots},
		{pattern: "/snapshots/{namespace}/{gateway}", page: "snapshot", about: "what one fleet is served, or at -/rls reference rate limit services; ?client=grpc for its gRPC clients", handle: moment.snapshot},
		{pattern: "/snapshots/{namespace}/{gateway}/{type}", page: "resources", about: "its resources of a type; ?name= for one, ?client=grpc as above", handle: moment.resources},
		{pattern: "/history", page: "history", about: "generations and weight pushes; ?fleet= or ?service= for one", handle: moment.history},
		{pattern: "/diff", page: "diff", about: "two generations compared: ?fleet=&from=&to=", handle: moment.diff},
		{pattern: "/status", page: "status", about: "every object with its conditions", handle: moment.status},
		{pattern: "/freeze", action: true, about: "POST: hold weights", handle: moment.freeze},
		{pattern: "/unfreeze", action: true, about: "POST: resume weight changes", handle: moment.unfreeze},
		{pattern: "/rollback", action: true, about: "POST: pin a fleet to an earlier generation", handle: moment.rollback},
		{pattern: "/unpin", action: true, about: "POST: serve a fleet its newest generation", handle: moment.unpin},
		{pattern: "/accept", action: true, about: "POST: take a removal that is held", handle: moment.accept},
	}

	mux := http.NewServeMux()
	for _, r := range s.routes {
		mux.Handle(r.pattern, s.serve(r))
	}
	s.monitoring(mux)
	profiles(mux)
	mux.Handle("/assets/", only(http.MethodGet, http.HandlerFunc(assets)))
	mux.HandleFunc("/", s.notFound)
	return guard(o.AllowedHosts, mux)
}

// NewMonitoring is the handler of /healthz, /readyz and /metrics alone, for a port that the kubelet and
// Prometheus reach while New's stays on loopback. Nothing on it tells of routes or takes an action.
func NewMonitoring(o Options) http.Handler {
	s := newServer(o)
	mux := http.NewServeMux()
	s.monitoring(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusNotFound, ErrorView{Error: "this port has /metrics, /healthz and /readyz; everything else is on the admin port"})
	})
	return guard(o.AllowedHosts, mux)
}

func (s *server) monitoring(mux *http.ServeMux) {
	mux.Handle("/healthz", only(http.MethodGet, http.HandlerFunc(s.healthz)))
	mux.Handle("/readyz", only(http.MethodGet, http.HandlerFunc(s.readyz)))
	mux.Handle("/metrics", only(http.MethodGet, promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{
		MaxRequestsInFlight: 8,
		EnableOpenMetrics:   true,
	})))
}

func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, ReadyView{Status: "ok"})
}

// readyz: a follower is as ready as its leader, and says whom it follows.
func (s *server) readyz(w http.ResponseWriter, _ *http.Request) {
	model := s.Model()
	if err := model.Ready(); err != nil {
		writeJSON(w, http.StatusServiceUnavailable, ReadyView{Status: "not ready", Reason: err.Error()})
		return
	}
	view := ReadyView{Status: "ok", Follows: s.Follows()}
	if at := model.LastKnownGood(); !at.IsZero() {
		view.Reason = lastKnownGood(at)
	}
	writeJSON(w, http.StatusOK, view)
}
