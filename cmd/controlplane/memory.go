package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// restEvery is how often it is looked whether the program rests.
	restEvery = 10 * time.Second
	// restful is the part of what is in use that a program allocates at most between two looks while it rests.
	restful = 0.1
	// worthwhile is how much there must be to give back for a collection, which costs as much CPU as one that
	// the program's own work brings about.
	worthwhile = 8 << 20
)

// giveMemoryBack returns memory to the system whenever the program rests after work, until ctx is done. The
// runtime alone keeps what the work needed: it collects when the heap has doubled, which takes a program that
// rests for ever, and keeps free memory for the next time. While there is work nothing is done differently.
func giveMemoryBack(ctx context.Context) {
	tick := time.NewTicker(restEvery)
	defer tick.Stop()
	last := readHeap()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := readHeap()
		if now.rests(last) && now.spare() >= worthwhile {
			debug.FreeOSMemory()
			now = readHeap()
		}
		last = now
	}
}

// heap is what the runtime has from the system for objects, in bytes.
type heap struct {
	allocated uint64 // ever
	live      uint64 // objects that the last collection left
	objects   uint64 // with the garbage since
	free      uint64 // not given back
}

// rests tells whether little was allocated since.
func (h heap) rests(since heap) bool {
	return float64(h.allocated-since.allocated) <= restful*float64(h.live)
}

// spare is what could be given back.
func (h heap) spare() uint64 {
	if h.objects < h.live { // read while a collection was under way
		return h.free
	}
	return h.objects - h.live + h.free
}

func readHeap() heap {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	return heap{samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64(), samples[3].Value.Uint64()}
}
