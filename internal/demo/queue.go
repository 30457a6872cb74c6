package demo

import "time"

// queue is a server of some workers that take requests first come, first served. It is a plain state
// machine over the time since the server started; whoever drives it brings the clock.
//
// A worker that ends a request takes the next one at the very moment the last one was due to end, not
// when a timer got round to noticing, so lateness of timers never adds up:
//
//	worker   |== job 1 ==|=== job 3 ===|
//	                     ^ due          the timer may fire later; job 3 still began here
//
// While it is not paused, requests wait only if all workers are busy.
type queue struct {
	workers int
	limit   int // requests that may wait

	speed      float64 // of a worker; work is divided by it
	hidden     float64 // >= 1: service takes so many times longer than its CPU time
	paused     bool
	pausedFrom time.Duration

	running []*job // at most one per worker
	waiting []*job

	// Of the jobs that ended.
	occupied, cpu time.Duration
}

type job struct {
	work       time.Duration // at speed 1
	start, end time.Duration // of service
	cpuShare   float64       // CPU time / service time
	done       chan struct{} // closed when service has ended
}

// arrive adds a request, or returns nil if too many are waiting already.
func (q *queue) arrive(now, work time.Duration) *job {
	q.advance(now)
	j := &job{work: work, done: make(chan struct{})}
	switch {
	case !q.paused && len(q.running) < q.workers:
		q.begin(j, now)
	case len(q.waiting) < q.limit:
		q.waiting = append(q.waiting, j)
	default:
		return nil
	}
	return j
}

func (q *queue) begin(j *job, at time.Duration) {
	j.start = at
	j.end = at + time.Duration(float64(j.work)/q.speed*q.hidden)
	j.cpuShare = 1 / q.hidden
	q.running = append(q.running, j)
}

// advance ends what was due to end by now, in the order in which it was due.
func (q *queue) advance(now time.Duration) {
	for {
		i, due := q.next()
		if i < 0 || due > now {
			return
		}
		j := q.running[i]
		q.running[i] = q.running[len(q.running)-1]
		q.running = q.running[:len(q.running)-1]
		q.occupied += j.end - j.start
		q.cpu += j.cpuOf(j.end - j.start)
		close(j.done)
		q.takeWaiting(due)
	}
}

func (q *queue) takeWaiting(at time.Duration) {
	for len(q.waiting) > 0 && len(q.running) < q.workers {
		j := q.waiting[0]
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		q.begin(j, at)
	}
}

// next returns the running job that is due first and when; -1 if nothing will end by itself.
func (q *queue) next() (index int, due time.Duration) {
	index = -1
	if q.paused {
		return index, 0
	}
	for i, j := range q.running {
		if index < 0 || j.end < due {
			index, due = i, j.end
		}
	}
	return index, due
}

// pause stops all workers in the middle of what they do, as a garbage collector or a frozen VM would;
// resuming moves what is left of their work to later. Requests that arrive meanwhile wait.
func (q *queue) pause(now time.Duration, paused bool) {
	if q.paused == paused {
		return
	}
	q.advance(now)
	q.paused = paused
	if paused {
		q.pausedFrom = now
		return
	}
	for _, j := range q.running {
		j.start += now - q.pausedFrom
		j.end += now - q.pausedFrom
	}
	q.takeWaiting(now)
}

// drop forgets all requests, running and waiting. What was done for them counts; they never end.
func (q *queue) drop(now time.Duration) {
	q.occupied, q.cpu = q.usage(now)
	q.running, q.waiting = nil, nil
}

// usage returns the worker time that requests have taken up to now, of running ones the part that is
// over, and the CPU time among it.
func (q *queue) usage(now time.Duration) (occupied, cpu time.Duration) {
	q.advance(now)
	if q.paused {
		now = q.pausedFrom
	}
	occupied, cpu = q.occupied, q.cpu
	for _, j := range q.running {
		occupied += now - j.start
		cpu += j.cpuOf(now - j.start)
	}
	return occupied, cpu
}

// inFlight counts the requests that are waiting or being served.
func (q *queue) inFlight() int { return len(q.running) + len(q.waiting) }

func (j *job) cpuOf(service time.Duration) time.Duration {
	return time.Duration(float64(service) * j.cpuShare)
}
