package admin

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/status"
	"evenkeel.io/controlplane/internal/weights"
	"evenkeel.io/controlplane/internal/xds"
)

// Duration is a time.Duration that reads and writes JSON as "18ms", rounded to what a person reads.
type Duration time.Duration

// String rounds to three or four digits: "18ms", "1.25s", "3m20s".
func (d Duration) String() string {
	v := time.Duration(d)
	for _, unit := range []time.Duration{time.Second, 10 * time.Millisecond, time.Millisecond, 10 * time.Microsecond, time.Microsecond} {
		if v.Abs() >= 100*unit {
			return v.Round(unit).String()
		}
	}
	return v.String()
}

// MarshalJSON writes String.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads what time.ParseDuration does.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("duration: %w", err)
	}
	*d = Duration(v)
	return nil
}

// number is v for JSON, rounded to six significant digits; nil, which JSON leaves out, if v is none.
func number(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	if v != 0 {
		scale := math.Pow(10, 5-math.Floor(math.Log10(math.Abs(v))))
		if rounded := math.Round(v*scale) / scale; !math.IsNaN(rounded) && !math.IsInf(rounded, 0) {
			v = rounded
		}
	}
	return &v
}

// timestamp is t for JSON; nil, which JSON leaves out, if t is zero.
func timestamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}

// ErrorView answers what failed; Error says what to do.
type ErrorView struct {
	Error string `json:"error"`
}

// ReadyView answers /healthz and /readyz. Status is "ok" or "not ready"; Reason says why not, or that what
// was saved is served because the objects cannot be read.
type ReadyView struct {
	Status  string `json:"status"`
	Reason  string `json:"reason,omitempty"`
	Follows string `json:"follows,omitempty"` // the replica that computes the weights, if another one does
}

// OverviewView answers /.
type OverviewView struct {
	Ready    bool          `json:"ready"`
	Reason   string        `json:"reason,omitempty"` // why not ready, or what is amiss
	Version  string        `json:"version"`
	Follows  string        `json:"follows,omitempty"` // as in ReadyView
	Fleets   []FleetView   `json:"fleets"`
	Services []ServiceView `json:"services"` // without endpoints
	// OutOfSync are the proxies that have refused something or have yet to acknowledge what they were sent.
	OutOfSync []ProxyView `json:"outOfSync"`
	Problems  []Problem   `json:"problems"` // conditions that should not be
	// TargetsDown of Targets scrape targets failed at their last scrape.
	Targets     int `json:"targets"`
	TargetsDown int `json:"targetsDown"`
}

// FleetView is a fleet in few words.
type FleetView struct {
	Name       string   `json:"name"`       // "<namespace>/<gateway>", or "eds:<namespace>" for EDS-only clients
	Generation uint64   `json:"generation"` // served
	Pin        *PinView `json:"pin,omitempty"`
	Proxies    int      `json:"proxies"` // connected
	InSync     int      `json:"inSync"`  // of them, those that acknowledged all they subscribed to
}

// PinView says that a fleet is served an earlier generation than its newest.
type PinView struct {
	Generation uint64     `json:"generation"`
	At         *time.Time `json:"at"`
	By         string     `json:"by"`
	// Objects are what was rolled back: if one of them changes what the fleet would be served, the pin ends.
	// AllObjects: it is not known which they are, and any does.
	Objects    []string `json:"objects"`
	AllObjects bool     `json:"allObjects,omitempty"`
	Held       []string `json:"held,omitempty"` // objects whose changes since wait for the end of the pin
	Gone       []string `json:"gone,omitempty"` // clusters without endpoints, because their Service is gone
}

// Problem is a condition that should not be.
type Problem struct {
	Object    string           `json:"object"` // "HTTPRoute shop/web"
	File      string           `json:"file,omitempty"`
	Line      int              `json:"line,omitempty"`
	Condition status.Condition `json:"condition"`
}

// ServicesView answers /services and, with one Service in it, /services/{namespace}/{name}:{port}.
type ServicesView struct {
	Follows  string        `json:"follows,omitempty"` // as in ReadyView
	Services []ServiceView `json:"services"`
}

// ServiceView is a Service: how it is balanced and how well.
type ServiceView struct {
	Name     string `json:"name"`     // "<namespace>/<service>:<port>"
	Mode     string `json:"mode"`     // Enforce, Shadow or Equal
	Strategy string `json:"strategy"` // Capacity, RTT or Static; "" where no policy applies
	// Imbalance is the highest CPU utilisation of an endpoint over the mean, 1 being perfectly even,
	// of the endpoints that have a fresh CPU reading; absent with fewer than two.
	Imbalance *float64 `json:"imbalance,omitempty"`
	// Frozen is why the weights are held, "" if they are not.
	Frozen string `json:"frozen,omitempty"`
	// Overload is who has more to do than the weights can spare it, "" if nobody has.
	Overload string `json:"overload,omitempty"`
	// Strain is how much longer than usual all endpoints take to answer, and what they can do so; "" if
	// they do not.
	Strain string `json:"strain,omitempty"`
	// Shed is the part of the requests that Envoys are to refuse, 0 to 0.9, and Shedding why; absent where
	// all are let in.
	Shed      float64        `json:"shed,omitempty"`
	Shedding  string         `json:"shedding,omitempty"`
	Policies  []string       `json:"policies"` // in force, the most specific first
	Fleets    []string       `json:"fleets"`   // that send to it
	DecidedAt *time.Time     `json:"decidedAt,omitempty"`
	Members   int            `json:"members"`             // number of endpoints
	Endpoints []EndpointView `json:"endpoints,omitempty"` // sorted by address
	Pushes    []PushView     `json:"pushes,omitempty"`    // the newest first; only where one Service was asked for
}

// EndpointView is an endpoint: what it is worth and why.
type EndpointView struct {
	Address string        `json:"address"` // "<ip>:<port>"
	Zone    string        `json:"zone,omitempty"`
	Pod     string        `json:"pod,omitempty"` // "<namespace>/<name>"
	State   weights.State `json:"state"`
	// Weight is the integer that was published; absent where no weight was ever decided and all are equal.
	Weight uint32 `json:"weight,omitempty"`
	// Share of the Service's requests by weight, 0 to 1.
	Share float64 `json:"share"`
	// Computed is the weight of this moment relative to the mean of the Service, before damping.
	Computed       *float64     `json:"computed,omitempty"`
	HealthScore    float64      `json:"healthScore"`    // 0 to 1
	QPSDecayFactor float64      `json:"qpsDecayFactor"` // 0.1 to 1
	Reading        *ReadingView `json:"reading,omitempty"`
	Reasons        []ReasonView `json:"reasons"` // in order, from the base to Computed
}

// ReadingView is what an endpoint did in its last window. What was not measured is absent.
type ReadingView struct {
	Age        Duration  `json:"age"`   // since the end of the window
	Stale      bool      `json:"stale"` // older than 2.5 scrape intervals
	RPS        *float64  `json:"rps,omitempty"`
	CPU        *float64  `json:"cpu,omitempty"` // of the limit, 0 to 1
	P50        *Duration `json:"p50,omitempty"`
	P90        *Duration `json:"p90,omitempty"`
	InFlight   *float64  `json:"inFlight,omitempty"`
	ErrorRatio *float64  `json:"errorRatio,omitempty"` // 0 to 1
	// LoadReports are what Envoys say of the same endpoint.
	LoadReports *ReportedView `json:"loadReports,omitempty"`
}

// ReportedView is what Envoys saw of an endpoint in their last window.
type ReportedView struct {
	Age   Duration `json:"age"`   // since the end of the window
	Stale bool     `json:"stale"` // older than 2.5 intervals
	// All: every node that takes the endpoint from us reports.
	All        bool     `json:"all"`
	RPS        *float64 `json:"rps"`
	Issued     *float64 `json:"issuedPerSecond"` // requests sent: 0 of one that Envoys have ejected
	InFlight   *float64 `json:"inFlight"`
	ErrorRatio *float64 `json:"errorRatio,omitempty"` // 0 to 1
	// Claim is how many times as many requests as these the endpoint itself counted over the same time.
	Claim *float64 `json:"claim,omitempty"`
}

// ReasonView is one stage between an endpoint's base and its weight. Where no quantity decided Value is absent.
type ReasonView struct {
	Term   string   `json:"term"`
	Value  *float64 `json:"value,omitempty"`
	Unit   string   `json:"unit,omitempty"`
	Factor *float64 `json:"factor,omitempty"` // after/before
	Text   string   `json:"text"`
}

// TargetsView answers /targets.
type TargetsView struct {
	Targets []TargetView `json:"targets"`
}

// TargetView is a page that is scraped, or a query that a Prometheus server is asked.
type TargetView struct {
	URL          string         `json:"url"`
	Query        string         `json:"query,omitempty"` // PromQL
	Owner        string         `json:"owner"`           // the Pod, or the address; of a query the Service and the term
	Services     []string       `json:"services"`
	State        signals.Health `json:"state"` // up, down or unknown
	LastScrape   *time.Time     `json:"lastScrape,omitempty"`
	LastDuration Duration       `json:"lastDuration"`
	LastError    string         `json:"lastError,omitempty"`
	Missing      []string       `json:"missing,omitempty"`  // terms the policy names and the target does not export
	Rejected     []string       `json:"rejected,omitempty"` // terms it has in a way that cannot be used, with the reason
	Samples      int            `json:"samples"`
}

// ProxiesView answers /proxies.
type ProxiesView struct {
	Proxies []ProxyView `json:"proxies"`
}

// ProxyView is a connected node.
type ProxyView struct {
	Node        string              `json:"node"`
	Fleet       string              `json:"fleet"`
	Identity    string              `json:"identity,omitempty"`
	Build       string              `json:"build"`
	Agent       string              `json:"agent,omitempty"`
	Zone        string              `json:"zone"`
	Workers     int                 `json:"workers,omitempty"`
	Protocol    string              `json:"protocol"`          // delta or sotw
	Replica     string              `json:"replica,omitempty"` // that it is connected to, if to another one
	ConnectedAt *time.Time          `json:"connectedAt,omitempty"`
	Types       map[string]TypeView `json:"types"` // by short name: cds, eds, lds, rds, ecds, rtds, rls
	LastNack    *NackView           `json:"lastNack"`
}

// TypeView is how far a node is with a resource type.
type TypeView struct {
	State   xds.SyncState `json:"state"`
	Version string        `json:"version"` // last acknowledged
	// Lag is how long the node has owed an acknowledgement, 0 if it owes none.
	Lag    Duration `json:"lag"`
	Sent   uint64   `json:"sent"` // responses on this stream, and of them
	Acked  uint64   `json:"acked"`
	Nacked uint64   `json:"nacked"`
}

// NacksView answers /nacks, the newest first.
type NacksView struct {
	Nacks []NackView `json:"nacks"`
}

// NackView is a refusal.
type NackView struct {
	At       *time.Time `json:"at,omitempty"`
	Node     string     `json:"node"`
	Fleet    string     `json:"fleet"`
	Type     string     `json:"type"`
	Nonce    string     `json:"nonce"`
	Version  string     `json:"version"`
	Message  string     `json:"message"`            // the client's words
	Resource string     `json:"resource,omitempty"` // suspected
	Source   string     `json:"source,omitempty"`   // the object behind it
	Instead  string     `json:"instead"`            // what is served in its place
	Count    int        `json:"count"`              // times in a row
}

// SnapshotsView answers /snapshots and, with one fleet in it, /snapshots/{namespace}/{gateway}.
type SnapshotsView struct {
	Snapshots []SnapshotView `json:"snapshots"`
}

// SnapshotView is what a fleet is served, without the resources' content.
type SnapshotView struct {
	Fleet      string             `json:"fleet"`            // or "rls"
	Client     string             `json:"client,omitempty"` // "grpc" for what its gRPC clients are served
	Generation uint64             `json:"generation"`       // served, 0 of "rls"
	Pin        *PinView           `json:"pin,omitempty"`
	Types      []SnapshotTypeView `json:"types"` // in make-before-break order, those that have resources
}

// SnapshotTypeView is a type of a snapshot.
type SnapshotTypeView struct {
	Type    string `json:"type"`
	Version string `json:"version"` // a hash of the content
	Count   int    `json:"count"`
	// Resources without their content; absent in the list of all fleets.
	Resources []ResourceView `json:"resources,omitempty"`
}

// ResourcesView answers /snapshots/{namespace}/{gateway}/{type}.
type ResourcesView struct {
	Fleet     string         `json:"fleet"`
	Client    string         `json:"client,omitempty"` // as of SnapshotView
	Type      string         `json:"type"`
	Version   string         `json:"version"`
	Resources []ResourceView `json:"resources"` // sorted by name
}

// ResourceView is a resource. Content is its protojson.
type ResourceView struct {
	Name    string              `json:"name"`
	Version string              `json:"version"`
	Source  string              `json:"source,omitempty"` // the object behind it, "HTTPRoute shop/web"
	Bytes   int                 `json:"bytes"`            // size on the wire
	Refs    map[string][]string `json:"refs,omitempty"`   // names of the resources it points at, by type
	Content json.RawMessage     `json:"content,omitempty"`
}

// HistoryView answers /history. Both lists have the newest first.
type HistoryView struct {
	Generations []GenerationView `json:"generations"`
	Pushes      []PushView       `json:"pushes"`
	// OmittedPushes are older than the 256 shown; ?service= shows all of one Service.
	OmittedPushes int `json:"omittedPushes,omitempty"`
}

// GenerationView is one generation of a fleet.
type GenerationView struct {
	Fleet  string     `json:"fleet"`
	Number uint64     `json:"generation"`
	At     *time.Time `json:"at,omitempty"`
	Why    string     `json:"why"`
	By     string     `json:"by,omitempty"` // who changed it, where it is known
	// State is Served, Pinned (served although it is not the newest), HeldBack (newer than what is pinned), or
	// "" of what was served before.
	State GenerationState `json:"state,omitempty"`
	// Changes of other than endpoints from the generation before, where that is still kept; without Text.
	Changes []ChangeView `json:"changes"`
}

// GenerationState says whether a generation is served.
type GenerationState string

// The states of generations that are served, or would be.
const (
	GenerationServed   GenerationState = "Served"
	GenerationPinned   GenerationState = "Pinned"
	GenerationHeldBack GenerationState = "HeldBack"
)

// PushView is one push of a Service's weights.
type PushView struct {
	Service string            `json:"service"`
	At      *time.Time        `json:"at,omitempty"`
	Why     string            `json:"why"`
	Weights map[string]uint32 `json:"weights"` // by address, after the push
	// Changes are from the push before, sorted by address; of the oldest push kept there are none.
	Changes []WeightChangeView `json:"changes"`
}

// WeightChangeView is an endpoint whose weight a push changed.
type WeightChangeView struct {
	Address string `json:"address"`
	Before  uint32 `json:"before"` // 0 if it joined
	After   uint32 `json:"after"`  // 0 if it left
}

// DiffView answers /diff.
type DiffView struct {
	Fleet   string       `json:"fleet"`
	From    uint64       `json:"from"`
	To      uint64       `json:"to"`
	Changes []ChangeView `json:"changes"`
}

// ChangeView is a resource that differs between two generations.
type ChangeView struct {
	Type string `json:"type"`
	Name string `json:"name"`
	Op   string `json:"op"`             // added, changed or removed
	Text string `json:"text,omitempty"` // unified diff of the two as YAML
}

// StatusView answers /status.
type StatusView struct {
	Objects []status.Object `json:"objects"`
	// Canaries by fleet, in the order of its routes.
	Canaries []CanaryView `json:"canaries"`
}

// CanaryView is a backend with a part of the traffic of a route and a quota of its own, as they are served.
type CanaryView struct {
	Fleet   string `json:"fleet"`
	Route   string `json:"route"`   // "<namespace>/<route>/<rule>/<match>"
	Backend string `json:"backend"` // "<namespace>/<service>:<port>"
	// Weight of the sum Of all weights of the route.
	Weight uint32 `json:"weight"`
	Of     uint32 `json:"of"`
	Limit  string `json:"limit"` // "<namespace>/<policy>/<limit>"
	// Requests in each Per are the quota.
	Requests int64    `json:"requests"`
	Per      Duration `json:"per"`
	// Together says that the quota stands in the route and changes in one version with the weight; if not, only
	// the rate limit service has it.
	Together bool `json:"together"`
	// Version of the fleet's route configurations; so many of the Envoys connected acknowledged it.
	Version      string `json:"version"`
	Envoys       int    `json:"envoys"`
	Acknowledged int    `json:"acknowledged"`
}

// ActionRequest is the body of an action; an empty body is an empty request.
type ActionRequest struct {
	// Service is "<namespace>/<service>:<port>", "" for all.
	Service string `json:"service"`
}

// RollbackRequest is the body of POST /rollback.
type RollbackRequest struct {
	Fleet      string `json:"fleet"` // "<namespace>/<gateway>"
	Generation uint64 `json:"generation"`
}

// UnpinRequest is the body of POST /unpin.
type UnpinRequest struct {
	Fleet string `json:"fleet"`
}

// ActionView answers an action that was taken.
type ActionView struct {
	Done string `json:"done"` // "weights of shop/cart:8080 are frozen"
}
