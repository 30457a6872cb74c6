// Package snapshot owns what is served: it validates and encodes resources once, versions them by a
// hash of the bytes that are sent, gathers them into immutable Snapshots (one per fleet, in the form
// that go-control-plane's cache serves), keeps the last generations and tells two of them apart.
//
// Nothing reaches a client that did not pass Encode: a real Envoy answers one bad endpoint with an
// outage of other clusters.
package snapshot

import (
	"time"

	"google.golang.org/protobuf/proto"

	"evenkeel.io/controlplane/internal/translate"
)

// Resource is a validated, encoded resource. Immutable.
type Resource struct {
	Type    translate.Type
	Name    string
	Version string // a hash of Bytes, hexadecimal; the same after a restart and on every replica
	Message proto.Message
	Bytes   []byte // deterministic encoding of Message
	// Refs are the names of resources that this one points at, by type: a route configuration's
	// clusters, a listener's route configurations, an EDS cluster's load assignment.
	Refs map[translate.Type][]string
	// Source is the object behind it, "HTTPRoute shop/web".
	Source string
}

// Generation is one entry of a fleet's history: something other than endpoints changed.
type Generation struct {
	Number   uint64 // rises by one per change of the fleet, from 1
	At       time.Time
	Why      string // which objects changed: "HTTPRoute shop/web changed (File edit)"
	Snapshot *Snapshot
}

// Push is one entry of a Service's history: its weights or endpoints were sent anew.
type Push struct {
	At      time.Time
	Why     string            // weights.Decisions.Cause, or the change of endpoints
	Weights map[string]uint32 // by address, after
}

// Change is one resource that differs between two Snapshots.
type Change struct {
	Type translate.Type
	Name string
	Op   string // "added", "changed" or "removed"
	// Text is a unified diff of the two as YAML.
	Text string
}
