// Package xds is the gRPC side: delta and state-of-the-world ADS over a snapshot.Cache, the registry of
// connected nodes with what each was sent, acknowledged and refused, whose fault a refusal is, load report
// streams, and the limits of a stream. It serves what snapshot made and decides nothing about its content.
// What one client is to be sent next is decided in xds/session.
package xds

import (
	"time"

	"evenkeel.io/controlplane/internal/translate"
)

// Proxy is a connected node.
type Proxy struct {
	Node string // node.id
	// Fleet is node.cluster: "<namespace>/<gateway>", or "eds:<namespace>" for an EDS-only client.
	Fleet       string
	Identity    string // the name in its certificate that lets it see the fleet, "" in plaintext
	Build       string // "1.40.0", or the user agent's version
	Agent       string // user_agent_name: "envoy", "gRPC Go" ...
	Zone        string
	Workers     int    // node.metadata "evenkeel.io/workers", 0 if it does not say
	Replica     string // of the control plane that it is connected to, "" if to this one
	Protocol    string // "delta" or "sotw"
	ConnectedAt time.Time
	Types       map[translate.Type]TypeState
	LastNack    *Nack
}

// SyncState says how far a node is with a type.
type SyncState string

// The states of a type on a node.
const (
	Synced        SyncState = "SYNCED"         // it acknowledged what we have
	Pending       SyncState = "PENDING"        // sent, no answer yet
	Nacked        SyncState = "NACKED"         // it refused the newest version; it runs an older one
	NotSubscribed SyncState = "NOT_SUBSCRIBED" // it never asked
	NoFleet       SyncState = "NO_FLEET"       // no Gateway (or namespace) of the name it gave
)

// TypeState is how far a node is with a type.
type TypeState struct {
	State SyncState
	// Version last acknowledged, "" before the first acknowledgement.
	Version string
	// SentVersion and SentAt belong to the last response.
	SentVersion string
	SentAt      time.Time
	AckedAt     time.Time
	// Sent, Acked and Nacked count responses of the stream.
	Sent, Acked, Nacked uint64
}

// Nack is a refusal.
type Nack struct {
	At      time.Time
	Node    string
	Fleet   string
	Type    translate.Type
	Nonce   string
	Version string // of the response that was refused
	Message string // the client's words, at most 4096 bytes
	// Resource and Source are the suspects where the message names one; Source is the object.
	Resource string
	Source   string
	// Instead says what is served in its place by now.
	Instead string
	// Count is how often in a row this version was refused.
	Count int

	of Case // zero without a suspect
}
