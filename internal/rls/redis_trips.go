package rls

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxTrips is how many trips to Redis are under way at a time.
	maxTrips = 2
	// maxTrip is how many calls go by one trip.
	maxTrip = 64
)

// noScript begins the error of a Redis that does not know the script, as after a restart.
const noScript = "NOSCRIPT"

// trips carry calls of one script to Redis. While as many are under way as may be, calls wait for the next one and go
// together: what a trip costs both sides in system calls is more than what a script costs, and nobody waits
// longer for it than until those before have come back.
type trips struct {
	client *redis.Client
	script *redis.Script
	time   time.Duration // that a trip may take
	report func(error)   // how a trip went, nil if well

	mu       sync.Mutex
	waiting  []*asked
	underWay int
}

// asked is one call of the script.
type asked struct {
	ctx  context.Context // of who waits
	keys []string
	args []any

	done    chan struct{} // closed when the rest is there
	answers []int64
	err     error
}

// ask runs the script. It gives the error of ctx when that is done.
func (t *trips) ask(ctx context.Context, keys []string, args []any) ([]int64, error) {
	a := &asked{ctx: ctx, keys: keys, args: args, done: make(chan struct{})}
	t.mu.Lock()
	t.waiting = append(t.waiting, a)
	goes := t.underWay < maxTrips
	if goes {
		t.underWay++
	}
	t.mu.Unlock()
	if goes {
		if first := t.next(); first != nil {
			t.travel(first)
			if more := t.next(); more != nil { // this call has its answer
				go t.travelOn(more)
			}
		}
	}
	select {
	case <-a.done:
		return a.answers, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// next are the calls that go by the next trip; nil: there is none to make.
func (t *trips) next() []*asked {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(t.waiting), maxTrip)
	if n == 0 {
		t.underWay--
		return nil
	}
	batch := t.waiting[:n:n]
	t.waiting = t.waiting[n:]
	return batch
}

// travelOn makes trips until nobody waits for one.
func (t *trips) travelOn(batch []*asked) {
	for ; batch != nil; batch = t.next() {
		t.travel(batch)
	}
}

// travel asks for all calls of a batch whose callers wait still, and wakes them.
func (t *trips) travel(batch []*asked) {
	ctx, cancel := context.WithTimeout(context.Background(), t.time)
	defer cancel()
	batch = slices.DeleteFunc(batch, func(a *asked) bool { return a.ctx.Err() != nil })
	if len(batch) == 0 {
		return
	}
	err := t.run(ctx, batch)
	if redis.HasErrorPrefix(err, noScript) { // of calls that have not run
		if err = t.script.Load(ctx, t.client).Err(); err == nil {
			err = t.run(ctx, slices.DeleteFunc(slices.Clone(batch), func(a *asked) bool { return !redis.HasErrorPrefix(a.err, noScript) }))
		}
	}
	t.report(err)
	for _, a := range batch {
		close(a.done)
	}
}

// run asks for all calls at once, and gives the first error of any.
func (t *trips) run(ctx context.Context, batch []*asked) error {
	commands := make([]*redis.Cmd, len(batch))
	_, err := t.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, a := range batch {
			commands[i] = t.script.EvalSha(ctx, p, a.keys, a.args...)
		}
		return nil
	})
	for i, a := range batch {
		a.answers, a.err = commands[i].Int64Slice()
	}
	return err
}
