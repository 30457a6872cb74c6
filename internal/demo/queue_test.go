package demo

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func drawQueue(t *rapid.T) queue {
	return queue{
		workers: rapid.IntRange(1, 4).Draw(t, "workers"),
		limit:   rapid.IntRange(0, 20).Draw(t, "limit"),
		speed:   rapid.SampledFrom([]float64{0.5, 1, 3}).Draw(t, "speed"),
		hidden:  rapid.SampledFrom([]float64{1, 2}).Draw(t, "hidden"),
	}
}

func TestQueueKeepsItsInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := drawQueue(t)
		var now, lastOccupied, lastCPU time.Duration
		var accepted []*job
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			now += time.Duration(rapid.IntRange(0, 50).Draw(t, "gap")) * time.Millisecond
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				q.pause(now, !q.paused)
			case 1:
				q.advance(now)
			default:
				wasWaiting := len(q.waiting)
				work := time.Duration(rapid.IntRange(1, 100).Draw(t, "work")) * time.Millisecond
				if j := q.arrive(now, work); j != nil {
					accepted = append(accepted, j)
				} else if wasWaiting < q.limit {
					t.Fatalf("refused with %d of %d waiting", wasWaiting, q.limit)
				}
			}
			occupied, cpu := q.usage(now)
			switch {
			case len(q.running) > q.workers:
				t.Fatalf("%d running on %d workers", len(q.running), q.workers)
			case len(q.waiting) > q.limit:
				t.Fatalf("%d waiting, limit %d", len(q.waiting), q.limit)
			case !q.paused && len(q.waiting) > 0 && len(q.running) < q.workers:
				t.Fatal("a worker idles while requests wait")
			case occupied < lastOccupied || cpu < lastCPU:
				t.Fatalf("usage went back: occupied %v -> %v, cpu %v -> %v", lastOccupied, occupied, lastCPU, cpu)
			case occupied > now*time.Duration(q.workers):
				t.Fatalf("occupied %v in %v with %d workers", occupied, now, q.workers)
			case cpu > occupied:
				t.Fatalf("cpu %v, occupied only %v", cpu, occupied)
			case !slices.Equal(q.waiting, accepted[len(accepted)-len(q.waiting):]):
				t.Fatal("it is not the latest that wait, in the order of arrival")
			}
			lastOccupied, lastCPU = occupied, cpu
		}
		q.pause(now, false)
		q.advance(now + time.Hour)
		if n := q.inFlight(); n != 0 {
			t.Fatalf("%d requests never ended", n)
		}
		var service time.Duration
		for _, j := range accepted {
			service += time.Duration(float64(j.work) / q.speed * q.hidden)
		}
		if occupied, _ := q.usage(now + time.Hour); occupied != service {
			t.Fatalf("occupied %v, want the sum of the service times, %v", occupied, service)
		}
	})
}

func TestQueueDoesNotDependOnWhenItIsAdvanced(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prompt := drawQueue(t)
		late := prompt
		var now time.Duration
		var ofPrompt, ofLate []*job
		for range rapid.IntRange(1, 60).Draw(t, "arrivals") {
			for range rapid.IntRange(0, 3).Draw(t, "timers") {
				now += time.Duration(rapid.IntRange(0, 20).Draw(t, "gap")) * time.Millisecond
				prompt.advance(now)
			}
			work := time.Duration(rapid.IntRange(1, 100).Draw(t, "work")) * time.Millisecond
			a, b := prompt.arrive(now, work), late.arrive(now, work)
			if (a == nil) != (b == nil) {
				t.Fatal("one of the queues refused the request")
			}
			if a != nil {
				ofPrompt, ofLate = append(ofPrompt, a), append(ofLate, b)
			}
		}
		prompt.advance(now + time.Hour)
		late.advance(now + time.Hour)
		for i := range ofPrompt {
			if ofPrompt[i].end != ofLate[i].end {
				t.Fatalf("request %d ended at %v with prompt timers, at %v with late ones", i, ofPrompt[i].end, ofLate[i].end)
			}
		}
	})
}

func TestPauseMovesWhatIsLeftToLater(t *testing.T) {
	q := queue{workers: 1, limit: 5, speed: 1, hidden: 1}
	first := q.arrive(0, 100*time.Millisecond)
	q.pause(40*time.Millisecond, true)
	second := q.arrive(50*time.Millisecond, 10*time.Millisecond)
	if occupied, _ := q.usage(90 * time.Millisecond); occupied != 40*time.Millisecond {
		t.Errorf("occupied %v while paused since 40ms, want 40ms", occupied)
	}
	q.pause(240*time.Millisecond, false)
	q.advance(time.Second)
	if first.end != 300*time.Millisecond || second.end != 310*time.Millisecond {
		t.Errorf("ended at %v and %v, want 300ms and 310ms: a pause of 200ms in between", first.end, second.end)
	}
}
