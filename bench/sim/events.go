package main

import "time"

// clock is the simulated time and what is due. Events of the same moment happen in the order in which
// they were scheduled, so that a run depends on its seed alone.
type clock struct {
	now    time.Duration
	due    []event // a binary heap
	number uint64
}

type event struct {
	at     time.Duration
	number uint64
	do     func()
}

func (e event) before(other event) bool {
	return e.at < other.at || e.at == other.at && e.number < other.number
}

// at schedules do. A moment in the past is now.
func (c *clock) at(when time.Duration, do func()) {
	e := event{max(when, c.now), c.number, do}
	c.number++
	c.due = append(c.due, e)
	i := len(c.due) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !e.before(c.due[parent]) {
			break
		}
		c.due[i] = c.due[parent]
		i = parent
	}
	c.due[i] = e
}

func (c *clock) after(d time.Duration, do func()) { c.at(c.now+d, do) }

// every does it at from and then once per period, for ever.
func (c *clock) every(from, period time.Duration, do func()) {
	c.at(from, func() {
		do()
		c.every(c.now+period, period, do)
	})
}

// run lets happen what is due until end, and leaves the clock there.
func (c *clock) run(end time.Duration) {
	for len(c.due) > 0 && c.due[0].at <= end {
		e := c.pop()
		c.now = e.at
		e.do()
	}
	c.now = end
}

func (c *clock) pop() event {
	first := c.due[0]
	last := len(c.due) - 1
	e := c.due[last]
	c.due[last] = event{}
	c.due = c.due[:last]
	if last == 0 {
		return first
	}
	i := 0
	for {
		child := 2*i + 1
		if child >= last {
			break
		}
		if child+1 < last && c.due[child+1].before(c.due[child]) {
			child++
		}
		if !c.due[child].before(e) {
			break
		}
		c.due[i] = c.due[child]
		i = child
	}
	c.due[i] = e
	return first
}
