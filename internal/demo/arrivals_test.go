package demo

import (
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func times(n int, rate float64, shape func(time.Duration) float64) []time.Duration {
	a := newArrivals(rate, shape, 7)
	var list []time.Duration
	for range n {
		at, more := a.next()
		if !more {
			break
		}
		list = append(list, at)
	}
	return list
}

func TestArrivalsFollowTheirShape(t *testing.T) {
	const rate = 1000.0
	square := func(t time.Duration) float64 {
		if (t/time.Second)%2 == 0 {
			return 1.5
		}
		return 0.5
	}
	var counts [2]float64
	list := times(100_000, rate, square)
	for _, at := range list {
		if at < 98*time.Second {
			counts[(at/time.Second)%2]++
		}
	}
	within(t, "rate while high", counts[0]/49, 1.5*rate, 0.02)
	within(t, "rate while low", counts[1]/49, 0.5*rate, 0.02)
	var squares float64
	n := 0
	for i := 1; i < len(list); i++ {
		if from, to := list[i-1]/time.Second, list[i]/time.Second; from == to && from%2 == 0 {
			squares += math.Pow((list[i] - list[i-1]).Seconds(), 2)
			n++
		}
	}
	within(t, "mean squared gap while high", squares/float64(n), 2/(1.5*1.5*rate*rate), 0.05)
}

func TestShapeMovesTheSameRequests(t *testing.T) {
	plain := times(1000, 500, nil)
	shaped := times(1000, 250, func(time.Duration) float64 { return 2 })
	for i := range plain {
		if d := plain[i] - shaped[i]; d.Abs() > 10*time.Microsecond {
			t.Fatalf("request %d at %v, and at %v as twice half the rate", i, plain[i], shaped[i])
		}
	}
	late := times(1000, 500, func(t time.Duration) float64 {
		if t < 10*time.Second {
			return -1
		}
		return 1
	})
	for i := range plain {
		if d := late[i] - plain[i] - 10*time.Second; d.Abs() > 10*time.Microsecond {
			t.Fatalf("request %d at %v, want 10s after %v: there was nothing to send before", i, late[i], plain[i])
		}
	}
}

func TestLoadEndsWhenItsShapeAsksForNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := testBackend(t, quick)
		load := directLoad(t, b, LoadOptions{Rate: 100, Seed: 1, Shape: func(t time.Duration) float64 {
			return float64(1 - min(1, t/(10*time.Second)))
		}})
		load.Run(t.Context())
		if report := load.Report(0, time.Hour); report.Requests < 900 || report.Requests > 1100 || report.OK != report.Requests {
			t.Errorf("%d requests in 10 s of 100/s, %d ok", report.Requests, report.OK)
		}
	})
}

func TestSeveralURLsShareTheSameArrivals(t *testing.T) {
	var servers Fleet
	var urls []string
	for range 4 {
		b := startBackend(t, BackendConfig{Workers: 64, Speed: 1, Work: Distribution{Deterministic, time.Microsecond}})
		servers = append(servers, b)
		urls = append(urls, "http://"+b.Address().String()+"/")
	}
	options := LoadOptions{URLs: urls, Rate: 4000, Duration: 300 * time.Millisecond, Seed: 3}
	four, err := RunLoad(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	for i, u := range servers.Usage() {
		within(t, "requests of "+urls[i], float64(u.Served), float64(four.Requests)/4, 0.25)
	}
	options.URLs = urls[:1]
	single, err := RunLoad(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(arrivalTimes(four), arrivalTimes(single)) {
		t.Error("with other URLs the requests come at other times")
	}
}
