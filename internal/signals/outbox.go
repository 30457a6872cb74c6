package signals

import "time"

// BatchDelay is how long a reading waits for others to travel with: the reader is spared an event
// per target, and two seconds between scrapes make the delay small.
const BatchDelay = 50 * time.Millisecond

// Outbox holds the readings that were not taken yet, the latest of each endpoint. The zero Outbox is
// empty. It belongs to one goroutine.
type Outbox struct {
	batch   []Reading
	index   map[Key]int
	readyAt time.Time
}

// Add takes readings and says how many earlier ones they replaced.
func (o *Outbox) Add(readings []Reading, now time.Time) (superseded int) {
	if len(o.batch) == 0 {
		o.readyAt = now.Add(BatchDelay)
		o.index = map[Key]int{}
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

// Offer is what may be sent now, and where: to is up if there is anything, else nil, on which nothing is
// ever sent. Where something waits for others to travel with, ask again after wait; else that is 0.
func (o *Outbox) Offer(up chan<- []Reading, now time.Time) (to chan<- []Reading, batch []Reading, wait time.Duration) {
	switch {
	case len(o.batch) == 0:
		return nil, nil, 0
	case o.readyAt.After(now):
		return nil, nil, o.readyAt.Sub(now)
	}
	return up, o.batch, 0
}

// Sent starts a new batch; the reader owns the old one.
func (o *Outbox) Sent() { o.batch, o.index = nil, nil }
