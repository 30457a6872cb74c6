package snapshot

// Snapshot is everything a fleet is served. Immutable; it is a cache.ResourceSnapshot of go-control-plane.
type Snapshot struct{}
