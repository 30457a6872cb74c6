package main

import "container/heap"

// edf is Envoy's weighted schedule, earliest deadline first: the host with the earliest deadline is
// picked and put back at the present virtual time + 1/weight, its weight being taken at that moment.
//
// Source: source/common/upstream/edf_scheduler.h (EdfScheduler: pickAndAdd, createWithPicks).
type edf struct {
	now     float64
	order   uint64
	entries edfHeap
	weight  func(*host) float64
}

type edfEntry struct {
	deadline float64
	order    uint64
	host     *host
}

// newEDF is the schedule after the given number of picks at constant weights. Most of them are not
// made one by one: a host with weight w gets floor(picks * w / sum) of them at once.
func newEDF(hosts []*host, weight func(*host) float64, picks uint32) *edf {
	const (
		maxPicks = 429496729 // UINT_MAX/10
		epsilon  = 1e-13     // keeps multiples of one weight apart
	)
	picks %= maxPicks
	sum := 0.0
	for _, h := range hosts {
		sum += weight(h) + epsilon
	}
	e := &edf{weight: weight, order: uint64(len(hosts))}
	made := uint32(0)
	for i, h := range hosts {
		w := weight(h) + epsilon
		own := uint32(w * float64(picks) / sum)
		if own > 0 && float64(own)/w >= float64(picks)/sum {
			own--
		}
		e.entries = append(e.entries, edfEntry{float64(own+1) / w, uint64(i), h})
		e.now = max(e.now, float64(own)/w)
		made += own
	}
	heap.Init(&e.entries)
	for ; made < picks; made++ {
		e.pick()
	}
	return e
}

func (e *edf) pick() *host {
	first := &e.entries[0]
	e.now = first.deadline
	h := first.host
	*first = edfEntry{e.now + 1/e.weight(h), e.order, h}
	e.order++
	heap.Fix(&e.entries, 0)
	return h
}

// edfHeap orders by deadline; those of the same deadline come in the order of their insertion.
type edfHeap []edfEntry

func (h edfHeap) Len() int      { return len(h) }
func (h edfHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h edfHeap) Less(i, j int) bool {
	return h[i].deadline < h[j].deadline || h[i].deadline == h[j].deadline && h[i].order < h[j].order
}
func (h *edfHeap) Push(x any) { *h = append(*h, x.(edfEntry)) }
func (h *edfHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
