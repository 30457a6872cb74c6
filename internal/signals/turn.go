package signals

import (
	"hash/fnv"
	"time"
)

// turnGrain is what phases are multiples of. To wake up for every one of hundreds of targets costs
// more than to read their pages: those of a grain share the waking.
const turnGrain = 40 * time.Millisecond

// NextTurn is the first time after now at which the phase of what has this name comes up. Names are
// spread over the interval by their hash, and a restart changes nobody's turn.
func NextTurn(name string, interval time.Duration, now time.Time) time.Time {
	h := fnv.New64a()
	h.Write([]byte(name))
	phase := time.Duration(mix(h.Sum64()) % uint64(interval)).Truncate(turnGrain)
	elapsed := time.Duration(now.UnixNano() % int64(interval))
	wait := phase - elapsed
	if wait <= 0 {
		wait += interval
	}
	return now.Add(wait)
}

// mix spreads every bit of h over all: FNV leaves names that differ in their last byte close
// together. It is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
