package pipeline

import (
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/signals"
)

// TestQuiet walks through bursts: each entry is a change, in milliseconds, and when what is pending
// is then due.
func TestQuiet(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	type change struct{ at, due int }
	for name, bursts := range map[string][][]change{ // a burst ends when it is built, at its last due time
		"a single change is due at once":         {{{5000, 5000}}},
		"one soon after another waits for quiet": {{{5000, 5000}}, {{5300, 5350}}},
		"a burst waits for its end":              {{{5000, 5000}}, {{5300, 5350}, {5340, 5390}, {5380, 5430}}},
		"a change that is due stays due":         {{{5000, 5000}, {5010, 5000}}},
		"after a quiet second at once again":     {{{5000, 5000}}, {{6000, 6000}}},
		"an endless burst is cut after 500 ms":   {{{5000, 5000}}, {{5100, 5150}, {5140, 5190}, {5180, 5230}, {5220, 5270}, {5260, 5310}, {5300, 5350}, {5340, 5390}, {5380, 5430}, {5420, 5470}, {5460, 5510}, {5500, 5550}, {5540, 5590}, {5580, 5600}, {5599, 5600}}},
	} {
		t.Run(name, func(t *testing.T) {
			var q quiet
			for _, burst := range bursts {
				for _, c := range burst {
					due := q.changed(start.Add(time.Duration(c.at) * time.Millisecond))
					if got := int(due.Sub(start) / time.Millisecond); got != c.due {
						t.Errorf("change at %d: due at %d, want %d", c.at, got, c.due)
					}
				}
				q.built()
			}
		})
	}
}

func TestBatchKeepsTheNewestReading(t *testing.T) {
	at := func(s int) signals.Reading {
		return signals.Reading{Endpoint: signals.Key{Service: "s", Address: "a"}, To: time.Unix(int64(s), 0)}
	}
	b := newBatch()
	b.add([]signals.Reading{at(2)})
	b.add([]signals.Reading{at(4), at(3)})
	if got := b.take(); len(got) != 1 || got[0].To != at(4).To {
		t.Errorf("took %v, want the reading of second 4 alone", got)
	}
	if got := b.take(); len(got) != 0 {
		t.Errorf("took %v again", got)
	}
}
