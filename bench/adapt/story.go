package main

import (
	"fmt"
	"io"
	"time"
)

// lost is what came of a loss. Latencies are p99 of admitted requests, as parts of what it is when
// little is asked for at half of the speed.
type lost struct {
	followed          float64 // s from the loss until the bound was at 0.6 of what is configured or lower
	unloaded          float64 // p99 in s
	first, next, long float64 // in the 20 s after that, the 20 s after these, and the 5 min after these
	admitted          float64 // requests/s in those 5 min
	well              float64 // s from the loss until p99 of the 20 s that begin then is under 2
	idle              float64 // the factor after two minutes in which little was asked for
	rush              float64 // p99 in the 20 s after that, with as many requests as before
	back              float64 // s from the recovery until the factor is 0.9
}

const (
	asked  = 1.2 * all / 2
	little = 0.1 * all
	view   = 20 * time.Second
)

// lose has all servers lose half of what they can do while they are asked for more than that, be asked for
// little, for as much again, and recover.
func lose(k kind, hidden bool, hold time.Duration, seed uint64, trace io.Writer) lost {
	w := newWorld(k, permitted, hold, seed)
	w.trace(trace)
	w.offer(little)
	w.run(time.Minute)
	w.offer(asked)
	w.run(2 * time.Minute)

	w.lose(hidden, 0.5)
	w.admitted = nil
	began := w.now
	for w.last.Value > 0.6 && w.now-began < time.Minute {
		w.run(gridStep)
	}
	followed := w.now
	w.run(2*view + 5*time.Minute)
	during := w.admitted
	over := w.now

	w.offer(little)
	w.run(10 * time.Second)
	w.admitted = nil
	quiet := w.now
	w.run(2 * time.Minute)
	l := lost{followed: (followed - began).Seconds(), idle: w.last.Value}
	l.unloaded, _ = p99(w.admitted, quiet, w.now)

	w.admitted = nil
	w.offer(asked)
	rush := w.now
	w.run(2 * view)
	l.rush, _ = p99(w.admitted, rush, rush+view)
	l.first, _ = p99(during, followed, followed+view)
	l.next, _ = p99(during, followed+view, followed+2*view)
	l.long, l.admitted = p99(during, followed+2*view, over)
	for _, p := range []*float64{&l.rush, &l.first, &l.next, &l.long} {
		*p /= l.unloaded
	}
	for well := began; ; well += gridStep {
		if p, _ := p99(during, well, well+view); p < 2*l.unloaded || well+view > over {
			l.well = (well - began).Seconds()
			break
		}
	}

	w.lose(hidden, 1)
	began = w.now
	for w.last.Value < 0.9 && w.now-began < 30*time.Minute {
		w.run(time.Second)
	}
	l.back = (w.now - began).Seconds()
	return l
}

// beBusy has servers that lose nothing asked for a part of what they can do, under a limit of all that they
// can, which follows them or stands. It is how many requests/s it admits, and the lowest factor.
func beBusy(k kind, load float64, follows bool, hold time.Duration, seed uint64, trace io.Writer) (perSecond, lowest float64) {
	w := newWorld(k, all, hold, seed)
	w.trace(trace)
	if !follows {
		*w.adapts.Floor = 1
	}
	w.offer(0.5 * all)
	w.run(2 * time.Minute)
	w.offer(load * all)
	w.run(view)
	w.admitted, lowest = nil, 1
	began, told := w.now, w.told
	w.told = func() {
		lowest = min(lowest, w.last.Value)
		if told != nil {
			told()
		}
	}
	w.run(10 * time.Minute)
	_, perSecond = p99(w.admitted, began, w.now)
	return perSecond, lowest
}

// trace tells each tick, if there is somebody to tell it.
func (w *world) trace(to io.Writer) {
	if to == nil {
		return
	}
	w.told = func() {
		inFlight := 0
		for _, s := range w.servers {
			inFlight += s.inFlight()
		}
		fmt.Fprintf(to, "%5.0f s  %3.0f/s asked  %4d in flight  %s\n", w.now.Seconds(), w.load, inFlight, w.last.Describe())
	}
}
