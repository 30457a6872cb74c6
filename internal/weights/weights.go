// Package weights turns readings into weights. It is pure: a Machine is one Service's estimate, moved
// by Step(now, service, readings) and by nothing else; it holds no clock, no goroutine and no lock.
// Every Decision carries its reasons.
//
//	readings ─▶ strategy (Static | RTT | Capacity) ─▶ relative weight ─▶ clamp, blend, slew ─▶ integers ─▶ publish?
//
// A Machine is owned by one goroutine at a time. Equal inputs give equal outputs, bit for bit, in any
// order of endpoints and readings. Whatever the readings say, every weight is finite and in [1, 2^32),
// and the weights of a Service sum to less than 2^32.
//
// Reading metrics is not its business (signals), nor is sending weights (translate, xds).
package weights

import (
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// Mode says what is done with computed weights.
type Mode string

// The modes. They mean what BalancePolicy.spec.mode says.
const (
	Enforce Mode = "Enforce"
	Shadow  Mode = "Shadow"
	Equal   Mode = "Equal"
)

// Config is how one Service is balanced. DefaultConfig has the defaults.
type Config struct {
	Mode     Mode
	Strategy string // "Capacity", "RTT" or "Static"
	// Blend is the part of the computed weights in the weighted sum with the base weights, 0 to 1.
	Blend float64
	// SlowStart is how long a new endpoint grows to its whole weight; 0: at once.
	SlowStart time.Duration
	// Floor and Ceiling bound a weight relative to the mean.
	Floor, Ceiling float64
	// MaxRatio bounds a capacity relative to the median of its class.
	MaxRatio float64
	// MaxShed is the largest part of the requests that is refused while the endpoints cannot do what comes,
	// 0 to 0.9; 0: none ever is.
	MaxShed float64
	// Tilt is the exponent by which endpoints that answer faster get more than their capacity's share,
	// 0 to 1.
	Tilt float64
	// ConfiguredRequestsPerSecond is the reference of qps_decay_factor; 0: the endpoint's own peak.
	ConfiguredRequestsPerSecond float64

	// RTTQuantile (0.5 or 0.9), RTTAlpha and RTTWindow are the parameters of the strategy RTT.
	RTTQuantile float64
	RTTAlpha    float64
	RTTWindow   time.Duration

	// PublishInterval is the shortest time between two routine pushes.
	PublishInterval time.Duration
	// Deadband and Urgent are changes |d ln w|: below the first nothing is sent, above the second at once.
	Deadband, Urgent float64
	// Metadata says whether the endpoints' metadata is part of what is published.
	Metadata bool
}

// Service is what a Step is told of the Service: its configuration and its present endpoints.
type Service struct {
	Name   string
	Config Config
	// PickingWorkers is the number of Envoy worker threads that choose among the endpoints, over all
	// subscribers; 0 counts as 4.
	PickingWorkers int
	Endpoints      []Endpoint
}

// Endpoint is a member of the Service.
type Endpoint struct {
	Key signals.Key
	// Instance is the incarnation; a change of it is a new endpoint at an old address.
	Instance string
	// Base is the prior of its worth, > 0. Endpoints of equal Base are a class.
	Base float64
	// Multiplier scales the result of any strategy, > 0.
	Multiplier float64
	// ReadySince is zero where it is not known.
	ReadySince time.Time
}

// State says where an endpoint's weight comes from.
type State string

// The states of an endpoint.
const (
	Prior    State = "Prior"    // not measured yet
	Serving  State = "Serving"  // measured, fresh (under RTT: its response time is)
	Warming  State = "Warming"  // in slow start
	Stale    State = "Stale"    // measured, but its readings stopped
	NoSignal State = "NoSignal" // carries no metric that the strategy needs
	Frozen   State = "Frozen"   // held, because too few endpoints of the Service are fresh or someone said so
)

// Decisions is the outcome of a Step.
type Decisions struct {
	Service string
	At      time.Time
	// Endpoints has one Decision per endpoint, sorted by address.
	Endpoints []Decision
	// Publish says that Published integers (or metadata) differ from the last published ones and
	// should be sent. Cause says why, in a few words: "urgent: 10.0.0.7:8080 -34%".
	Publish bool
	Cause   string
	// Frozen is why the weights are held, "" if they are not.
	Frozen string
	// Overload is which endpoint would be used to more than 90 % of its capacity at its computed share,
	// and how much; "" if none would or it is not known. Slow start is then given up altogether.
	Overload string
	// Shed is the part of the requests that Envoys are to refuse, in [0, 0.9] in steps of 0.05, as last
	// published; Shedding is why, "" for 0.
	Shed     float64
	Shedding string
	// Strain is how much longer than usual all endpoints take to answer, and what they can do so; "" if they
	// do not. It lowers every qps_decay_factor and moves no weight.
	Strain string
	// Backlog is how long the endpoints will be busy with requests that piled up in them, 0 if none did.
	Backlog time.Duration
	// Rejected counts the readings that were refused since the Machine was made: not finite, negative,
	// CPU above 1.5, or from the future.
	Rejected uint64
}

// Decision is what one endpoint is worth now, and why.
type Decision struct {
	Key   signals.Key
	State State
	// Weight is the published integer, in [1, 2^32). It changes only in a Step that says Publish.
	Weight uint32
	// Computed is the weight of this moment relative to the mean of the Service (1 is average),
	// before damping by publication.
	Computed float64
	// HealthScore is in [0, 1], QPSDecayFactor in [0.1, 1], both in steps of 0.05, of this moment.
	HealthScore    float64
	QPSDecayFactor float64
	// PublishedHealthScore and PublishedQPSDecayFactor are what was last published, both 0 while
	// Config.Metadata is off.
	PublishedHealthScore    float64
	PublishedQPSDecayFactor float64
	// Reasons lead from the base to Computed, in order; their factors multiply to it.
	Reasons []Reason
}

// Reason is one stage of a Decision.
type Reason struct {
	// Term is the stage: "base", "refused" (a reading), "capacity", "pressure", "ceiling", "max-ratio",
	// "slow-start", "multiplier", "tilt", "errors", "overload", "strain", "mean", "clamp", "blend", "slew",
	// "hold", "snap", "freeze"; with RTT "rtt" and "health".
	Term string
	// Value and Unit are the quantity that decided.
	Value float64
	Unit  string
	// Factor is after/before of the stage.
	Factor float64
	// Text explains it to a person.
	Text string
}
