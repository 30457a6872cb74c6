package main

import "slices"

// slot is what runs at the same time, one trial in each lane.
type slot []trial

// schedule puts the trials of a plan into slots.
//
//	lanes = 3   scenario uneven, 4 arms twice; then sinkhole, 2 arms
//
//	slot 1   uneven Capacity 1     uneven oracle 1          uneven LEAST_REQUEST 1
//	slot 2   uneven PID 1          uneven PID 2
//	slot 3   uneven oracle 2       uneven LEAST_REQUEST 2   uneven Capacity 2
//	slot 4   sinkhole Capacity 1   sinkhole LEAST_REQUEST 1
//
// The arms of one repetition run side by side, so that whatever else the machine does falls on all of them
// alike. Where there are more arms than lanes, the first as many do, and the others follow; in the next
// repetition they go first, and each has moved to another lane. Lanes that are free take the next that
// fits, never a part of what belongs together, unless it is to be dense: then no lane is free, and some arms
// run in the slot after that of the others.
func schedule(p plan, lanes int, dense bool) []slot {
	if dense {
		return slices.Collect(slices.Chunk(slices.Concat(groups(p, lanes)...), lanes))
	}
	var slots []slot
	for _, group := range groups(p, lanes) {
		free := slices.IndexFunc(slots, func(s slot) bool { return len(s)+len(group) <= lanes })
		if free < 0 {
			slots = append(slots, group)
			continue
		}
		slots[free] = append(slots[free], group...)
	}
	return slots
}

// groups are the trials that belong side by side, at most one for each lane.
func groups(p plan, lanes int) []slot {
	var all []slot
	for _, of := range p.parts {
		for _, scenario := range of.scenarios {
			repetitions := 0
			for _, e := range of.arms {
				repetitions = max(repetitions, e.repetitions)
			}
			for repetition := 1; repetition <= repetitions; repetition++ {
				var trials slot
				for _, e := range of.arms {
					if repetition <= e.repetitions {
						trials = append(trials, trial{scenario, e.arm, repetition})
					}
				}
				var turn []slot
				for group := range slices.Chunk(trials, lanes) {
					turn = append(turn, rotated(group, repetition-1))
				}
				all = append(all, rotated(turn, repetition-1)...)
			}
		}
	}
	return all
}

// rotated is the list from its n-th element on, then what was before that.
func rotated[S ~[]E, E any](list S, n int) S {
	n %= len(list)
	return append(slices.Clone(list[n:]), list[:n]...)
}

// without leaves out the trials that are done, and slots of which nothing is left.
func without(slots []slot, done map[trial]bool) []slot {
	var left []slot
	for _, s := range slots {
		s = slices.DeleteFunc(slices.Clone(s), func(t trial) bool { return done[t] })
		if len(s) > 0 {
			left = append(left, s)
		}
	}
	return left
}
