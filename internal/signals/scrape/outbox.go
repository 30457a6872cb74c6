package scrape

import (
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// batchDelay is how long a reading waits for others to travel with: the reader is spared an event
// per target, and two seconds between scrapes make the delay small.
const batchDelay = 50 * time.Millisecond

// outbox holds the readings that were not taken yet, the latest of each endpoint. It belongs to the
// Manager's loop.
type outbox struct {
	batch   []signals.Reading
	index   map[signals.Key]int
	readyAt time.Time // when batch may go
}

// add takes readings and says how many earlier ones they replaced.
func (o *outbox) add(readings []signals.Reading, now time.Time) (superseded int) {
	if len(o.batch) == 0 {
		o.readyAt = now.Add(batchDelay)
	}
	for _, r := range readings {
		if at, waiting := o.index[r.Endpoint]; waiting {
			o.batch[at] = r
			superseded++
			continue
		}
		o.index[r.Endpoint] = len(o.batch)
		o.batch = append(o.batch, r)
	}
	return superseded
}

// sent starts a new batch; the reader owns the old one.
func (o *outbox) sent() {
	o.batch = nil
	clear(o.index)
}
