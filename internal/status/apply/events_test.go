package apply

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/status"
)

func TestAnObjectMayHaveFiveEventsAtOnceAndThenOneAMinute(t *testing.T) {
	talkers := map[source.Ref]*rate.Limiter{}
	now := time.Unix(1000, 0)
	count := func(object source.Ref) (n int) {
		for range 100 {
			if mayTalk(talkers, object, now) {
				n++
			}
		}
		return n
	}
	if n := count(edge); n != 5 {
		t.Errorf("%d at once", n)
	}
	if n := count(wall); n != 5 {
		t.Errorf("%d of another object", n)
	}
	now = now.Add(2 * time.Minute)
	if n := count(edge); n != 2 {
		t.Errorf("%d after two minutes", n)
	}
	for i := range 10 * maxTalkers {
		mayTalk(talkers, source.Ref{Kind: source.KindPod, Name: fmt.Sprint(i)}, now)
	}
	if len(talkers) > maxTalkers {
		t.Errorf("%d objects are remembered", len(talkers))
	}
}

// TestEventsThatDoNotFitAreDropped: a term does not wait for Events, and makes none of what is no object.
func TestEventsThatDoNotFitAreDropped(t *testing.T) {
	metrics := prometheus.NewRegistry()
	term := &term{Writer: &Writer{metrics: newMetrics(metrics)}, events: make(chan event, maxEvents)}
	store := source.NewStore()
	for range maxEvents + 7 {
		term.announce(store, status.Event{Object: edge})
		term.announce(store, status.Event{Object: source.Ref{Kind: source.KindAPIServer, Name: "10.0.0.1"}})
	}
	families, err := metrics.Gather()
	if err != nil || len(families) != 1 || families[0].GetMetric()[0].GetCounter().GetValue() != 7 || len(term.events) != maxEvents {
		t.Errorf("%d wait; %v %v", len(term.events), families, err)
	}
}
