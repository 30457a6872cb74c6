package scrape

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestPhase: targets spread over the interval, and a restart leaves each its phase.
func TestPhase(t *testing.T) {
	const targets, bins = 1000, 10
	interval := 2 * time.Second
	var count [bins]int
	for i := range targets {
		id := identity{fmt.Sprintf("shop/cart-%d", i), fmt.Sprintf("http://10.0.0.%d:9090/metrics", i)}
		first := firstTurn(id, interval, start)
		later := firstTurn(id, interval, start.Add(12345*time.Millisecond))
		if later.Sub(first)%interval != 0 {
			t.Fatalf("%v: phase %v, after a restart %v", id, first, later)
		}
		if wait := first.Sub(start); wait <= 0 || wait > interval {
			t.Fatalf("%v: first turn in %v", id, wait)
		}
		count[first.Sub(start)*bins/(interval+1)]++
	}
	for bin, n := range count {
		if n < 60 || n > 140 { // 100 +- 4 standard deviations
			t.Errorf("%d of %d targets in bin %d of %d", n, targets, bin, bins)
		}
	}
}

// TestSchedule drives a schedule with scrapes of any length and checks what it promises.
func TestSchedule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(1, 6).Draw(t, "slots")
		s := &schedule{slots: slots}
		var all []*target
		lastBegan := map[*target]time.Time{}
		now := start
		add := func(i int) {
			tgt := &target{id: identity{owner: fmt.Sprint(i)}, plan: &plan{interval: 2 * time.Second}, turn: turn{position: -1}}
			s.put(tgt, now)
			all = append(all, tgt)
			lastBegan[tgt] = now
		}
		for i := range rapid.IntRange(1, 30).Draw(t, "targets") {
			add(i)
		}
		var running []*target
		for step := range rapid.IntRange(1, 150).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 1500).Draw(t, "ms")) * time.Millisecond)
			switch rapid.IntRange(0, 9).Draw(t, "change") {
			case 0:
				add(1000 + step)
			case 1:
				if len(all) > 1 {
					s.remove(all[0])
					all = all[1:]
				}
			}
			running = slices.DeleteFunc(running, func(tgt *target) bool {
				ends := rapid.Bool().Draw(t, "ends")
				if ends {
					s.finish(tgt, rapid.Bool().Draw(t, "timed out"))
				}
				return ends
			})
			began, _ := s.start(now)
			for _, tgt := range began {
				if slices.Contains(running, tgt) {
					t.Fatal("two scrapes of one target at once")
				}
				if !slices.Contains(all, tgt) {
					t.Fatal("a removed target is scraped")
				}
				running = append(running, tgt)
				lastBegan[tgt] = now
			}
			suspects := 0
			for _, tgt := range running {
				if tgt.turn.asSuspect {
					suspects++
				}
			}
			if len(running) > slots || suspects > max(1, slots/2) || len(running) != s.running || suspects != s.runningSuspects {
				t.Fatalf("%d run (%d), %d suspects (%d), %d slots", len(running), s.running, suspects, s.runningSuspects, slots)
			}
			if len(s.healthy) > 0 && len(running) < slots {
				t.Fatal("a target waits beside a free slot")
			}
			if next, ok := s.next(); ok && !next.After(now) {
				t.Fatal("a due target was left")
			}
		}
		// When all scrapes are short, each target has its turn within rounds of the slots.
		for rounds := len(all)/max(1, slots/2) + 2; rounds > 0; rounds-- {
			for _, tgt := range running {
				s.finish(tgt, tgt.turn.asSuspect)
			}
			now = now.Add(2 * time.Second)
			running, _ = s.start(now)
			for _, tgt := range running {
				lastBegan[tgt] = now
			}
		}
		for _, tgt := range all {
			last := lastBegan[tgt]
			if limit := time.Duration(len(all)/max(1, slots/2)+3) * 2 * time.Second; now.Sub(last) > limit {
				t.Fatalf("target %s has waited for %v, %d targets, %d slots", tgt.id.owner, now.Sub(last), len(all), slots)
			}
		}
	})
}

// TestPause: turns that passed while nothing ran are skipped, not made up for.
func TestPause(t *testing.T) {
	s := &schedule{slots: 1}
	tgt := &target{plan: &plan{interval: 2 * time.Second}, turn: turn{position: -1}}
	s.put(tgt, start)
	first := tgt.turn.at
	began, skipped := s.start(first.Add(7 * time.Second))
	if len(began) != 1 || skipped != 3 || !tgt.turn.queuedAt.Equal(first.Add(6*time.Second)) || !tgt.turn.at.Equal(first.Add(8*time.Second)) {
		t.Errorf("began %d, skipped %d, %+v", len(began), skipped, tgt.turn)
	}
}
