// Package catalog resolves a Store into what the objects mean: fleets, listeners and routes, services
// with their endpoints and the policy in force, and a Verdict per object. It is pure: Build is a
// function of the Store and of the Catalog before it, from which it takes only each object's last good
// version and the values that have not changed.
//
// It does not make protos (translate), weigh endpoints (weights) or decide what is sent (snapshot).
package catalog

import (
	"time"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/rlsconfig"
	"evenkeel.io/controlplane/internal/source"
)

// ControllerName is the GatewayClass controller that we answer to.
const ControllerName = "evenkeel.io/controlplane"

// Catalog is what a Store means. Immutable. What did not change since the Catalog before is shared
// with it: equal *Fleet or *Service pointers mean equal content.
type Catalog struct {
	// Fleets by name, "<namespace>/<gateway>".
	Fleets map[string]*Fleet
	// Services by name, "<namespace>/<service>:<port>": every port of every Service, routed to or not.
	Services map[string]*Service
	// Verdicts on all objects, sorted by object, then parent.
	Verdicts []Verdict

	// memory is what the next Build takes over: each object's last accepted version, which stays in
	// force while a newer one is refused, and the results whose inputs may turn out unchanged.
	memory memory
}

// memory holds the stages of a Build, each with its inputs. The stages are in order: routing needs
// grants, balance and limits need routing, services need balance.
type memory struct {
	store    *source.Store
	opts     Options
	routing  *routing
	balance  *balance
	limits   *limits
	grants   *grants
	services *services
}

// Options are what the source of the objects permits.
type Options struct {
	// AllowLoopback says that the objects are the operator's own, a directory that he gave: endpoints
	// may have loopback addresses, and an endpoint that is no Pod may be scraped. In a cluster anyone
	// who may write an EndpointSlice would reach our own ports with it, so there it is off.
	AllowLoopback bool
}

// Build resolves a Store. prev is the Catalog before, nil for the first; the Store of prev may be any
// other, but the more objects the two share the less is computed.
//
// An object that is refused for a reason in itself stays in force as it was last accepted, if it ever
// was; nothing else in the result depends on it.
func Build(prev *Catalog, store *source.Store, opts Options) *Catalog {
	if prev == nil {
		prev = &Catalog{memory: memory{
			store: &source.Store{}, routing: &routing{}, balance: &balance{}, limits: &limits{}, grants: &grants{}, services: &services{},
		}}
	}
	was := prev.memory
	now := memory{store: store, opts: opts}
	now.grants = buildGrants(was.grants, store)
	now.routing = buildRouting(was.store, was.routing, store, now.grants)
	now.balance = buildBalance(was.store, was.balance, store, now.routing)
	now.limits = buildLimits(was.store, was.limits, store, now.routing)
	now.services = buildServices(was, now)
	return &Catalog{
		Fleets:   now.limits.fleets,
		Services: now.services.byName,
		Verdicts: joinVerdicts(prev, now),
		memory:   now,
	}
}

// Fleet is a Gateway: the Envoys whose node.cluster is its name.
type Fleet struct {
	Name      string // "<namespace>/<gateway>"
	Object    source.Ref
	Listeners []Listener // by port
	// Services are the names of the Services that routes of this fleet send to, sorted; each is a
	// cluster of the fleet.
	Services []string
	// Rules are the limits that hold on any route of the fleet, by ID, each once.
	Rules []*rlsconfig.Rule
	// Attached is how many HTTPRoutes each listener of the Gateway that works took, by its name.
	Attached map[string]int
}

// Listener is what a fleet does on one port. Several HTTP listeners of a Gateway on one port are one.
type Listener struct {
	Name         string // "<namespace>/<gateway>/<port>"
	Address      string // "" for the address that serve was given
	Port         uint32
	VirtualHosts []VirtualHost // most specific domain first
}

// VirtualHost is the routes of one domain. A request is answered by the most specific domain alone:
// where none of its routes match the answer is 404, whatever a less specific domain holds.
type VirtualHost struct {
	Domain string  // "shop.example.com", "*.example.com" or "*"
	Routes []Route // in order of precedence, the first match wins
}

// Route is one match of one rule.
type Route struct {
	Object source.Ref // the HTTPRoute
	Name   string     // "<namespace>/<route>/<rule>/<match>", rule by name or index, "#1" where another has the name "1"
	Match  Match

	// Exactly one of the following three acts: Redirect, Backends, or, both empty, a 500 as Gateway
	// API asks for a rule without (valid) backends.
	Redirect *Redirect
	Backends []Backend

	RequestHeaders  HeaderChange
	ResponseHeaders HeaderChange
	Rewrite         *Rewrite
	// Timeout of the whole request, 0: none. Negative: not set (the default, none either).
	Timeout time.Duration
	// BackendTimeout of one attempt, 0: none.
	BackendTimeout time.Duration

	// Limits that hold here, by the ID of their rule; none that is Off.
	Limits []RouteLimit
}

// RouteLimit is a limit on a route.
type RouteLimit struct {
	Rule *rlsconfig.Rule
	// Labels of the route's namespace that the key of the rule names, by label. A label that the namespace
	// does not have is not in it.
	Labels map[string]string
}

// Match selects requests. Zero fields select all.
type Match struct {
	Path    PathMatch
	Method  string
	Headers []ValueMatch
	Queries []ValueMatch
}

// MatchType is how a value is compared.
type MatchType string

// The match types. Prefix is by path element: "/a" matches "/a" and "/a/b" but not "/ab".
const (
	Exact  MatchType = "Exact"
	Prefix MatchType = "Prefix"
	Regex  MatchType = "Regex"
)

// PathMatch selects a path.
type PathMatch struct {
	Type  MatchType
	Value string
}

// ValueMatch selects a header or a query parameter.
type ValueMatch struct {
	Name  string
	Type  MatchType // Exact or Regex
	Value string
}

// Backend is a Service that gets a part of the requests of a route. A backend that cannot be
// resolved stays in the list with Service "" and answers 500 for its part.
type Backend struct {
	Service         string // a key of Catalog.Services, or ""
	Weight          uint32
	RequestHeaders  HeaderChange
	ResponseHeaders HeaderChange
}

// HeaderChange is what is done to headers.
type HeaderChange struct {
	Set, Add []Header
	Remove   []string
}

// Header is a name and a value, taken literally.
type Header struct{ Name, Value string }

// PathChange replaces a whole path or the matched prefix.
type PathChange struct {
	Full   *string
	Prefix *string
}

// Redirect answers with another location. Empty fields keep the request's.
type Redirect struct {
	Scheme   string
	Hostname string
	Port     uint32
	Path     *PathChange
	Code     int // 301, 302, 303, 307 or 308
}

// Rewrite changes the request before it is sent on.
type Rewrite struct {
	Hostname string
	Path     *PathChange
}

// Service is a port of a Service with its endpoints and the policy in force.
type Service struct {
	Name      string // "<namespace>/<service>:<port>"
	Namespace string
	Object    source.Ref
	PortName  string // "" for an unnamed port
	HTTP2     bool   // appProtocol kubernetes.io/h2c
	// Policy is complete: what no BalancePolicy says has its default. HasPolicy is false when none
	// reaches the Service: its endpoints are equal and nothing is scraped.
	Policy    v1alpha1.BalancePolicySpec
	HasPolicy bool
	// Policies are the BalancePolicies in force, the most specific first.
	Policies []source.Ref
	// Readers are the namespaces whose EDS-only clients may read the endpoints, besides its own.
	Readers []string
	// Endpoints that may get traffic, sorted by address, addresses unique.
	Endpoints []Endpoint
}

// MaxBase bounds the worth of an endpoint in relation to the others: the CPU requests of Pods may be as far
// apart as anybody writes.
const MaxBase = 1e9

// Endpoint is an address that may get traffic.
type Endpoint struct {
	Address string // "<ip>:<port>"
	Zone    string
	// Instance is the Pod's UID and restart count, "" for an endpoint that is no Pod.
	Instance string
	Pod      string // "<namespace>/<name>", "" if none
	// Base is the prior of the endpoint's worth before its multiplier, from 1/MaxBase to MaxBase.
	Base float64
	// Multiplier is the annotation evenkeel.io/weight, 1 without it.
	Multiplier float64
	// Ready since; zero where it is not known.
	ReadySince time.Time
	// CPULimit in cores, 0 where it is not known.
	CPULimit float64
	// ScrapeURL is where metrics are read, "" if they are not. Endpoints of one Pod share it.
	ScrapeURL string
}

// Verdict is what became of an object, per parent where it has several (a route's Gateways, a
// policy's targets).
type Verdict struct {
	Object source.Ref
	// Parent the verdict speaks for, zero where the object stands for itself. Section is the
	// listener of it, if one was named.
	Parent  source.Ref
	Section string
	// Port is the port of the parent, if one was named, else 0.
	Port uint32

	Accepted     Condition
	ResolvedRefs Condition
}

// Condition is a status with its reason, in the terms of the Kubernetes API.
type Condition struct {
	OK      bool
	Reason  string // a CamelCase word of Gateway API or of ours
	Field   string // of the object, where the reason is one field's
	Message string
	// Kept says of what was refused that its last accepted version stays in force.
	Kept bool
}
