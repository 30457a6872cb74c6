package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// probe is what a server looks like from outside.
type probe struct {
	slower    float64 // than it should be; 0: no answer
	failed    bool
	cpu       float64 // share of one worker that it reports for the probe
	noCPU     bool
	dark      bool // no metrics
	restarted bool
}

// look sends every server one request and asks for its metrics before and after.
func look(t *testing.T, servers demo.Fleet) []probe {
	t.Helper()
	ask := func(b *demo.Backend, path string) *httptest.ResponseRecorder {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		w := httptest.NewRecorder()
		b.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
		if ctx.Err() != nil {
			w.Code = 0
		}
		return w
	}
	metric := func(page *httptest.ResponseRecorder, name string) (value float64, ok bool) {
		for line := range strings.Lines(page.Body.String()) {
			if _, err := fmt.Sscanf(line, name+" %g", &value); err == nil {
				return value, true
			}
		}
		return 0, false
	}
	probes := make([]probe, len(servers))
	var asked sync.WaitGroup
	for i, b := range servers {
		asked.Go(func() {
			p := &probes[i]
			before := ask(b, "/metrics")
			began := time.Now()
			answer := ask(b, "/")
			took := time.Since(began)
			after := ask(b, "/metrics")
			if answer.Code != 0 {
				p.slower = took.Seconds() * b.Config().Speed / b.Config().Work.Mean.Seconds()
			}
			p.failed = answer.Code == http.StatusInternalServerError
			p.dark = before.Body.Len() == 0
			from, known := metric(before, "process_cpu_seconds_total")
			to, _ := metric(after, "process_cpu_seconds_total")
			p.noCPU = !known && !p.dark
			p.cpu = (to - from) / took.Seconds()
			started, _ := metric(after, "process_start_time_seconds")
			p.restarted = !p.dark && started != float64(serversStarted.Unix())
		})
	}
	asked.Wait()
	return probes
}

// play runs what happens in a scenario's window on servers without a network, in virtual time, and looks
// at them once at each of the given times.
func play(t *testing.T, name string, see func(at time.Duration, servers []probe), at ...time.Duration) {
	t.Helper()
	s, err := scenarioNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var servers demo.Fleet
		for _, config := range s.topology().serverConfigs(0, 0) {
			config.Work = demo.Distribution{Shape: demo.Deterministic, Mean: 60 * time.Millisecond}
			b, err := demo.NewBackend(config)
			if err != nil {
				t.Fatal(err)
			}
			servers = append(servers, b)
		}
		ctx, end := context.WithCancel(t.Context())
		var window sync.WaitGroup
		if s.during != nil {
			window.Go(func() { s.during(ctx, stage{servers: servers, arm: &running{}}) })
		}
		began := time.Now()
		for _, moment := range at {
			time.Sleep(moment - time.Since(began))
			see(moment, look(t, servers))
		}
		end()
		window.Wait()
	})
}

func which(probes []probe, is func(probe) bool) []int {
	var list []int
	for i, p := range probes {
		if is(p) {
			list = append(list, i)
		}
	}
	return list
}

// TestFaultsFallOnWhomTheScenarioSaysAndWhen looks at the servers just before a fault, and after.
func TestFaultsFallOnWhomTheScenarioSaysAndWhen(t *testing.T) {
	const before, late = 4 * time.Second, 6 * time.Second
	slower := func(p probe) bool { return p.slower > 1.9 && p.slower < 2.1 }
	failed := func(p probe) bool { return p.failed }
	dark := func(p probe) bool { return p.dark }
	silent := func(p probe) bool { return p.slower == 0 }
	quarter, one, third, twoThirds := []int{1, 5, 9}, []int{6}, []int{0, 3, 6, 9}, []int{1, 2, 4, 5, 7, 8, 10, 11}
	for _, c := range []struct {
		name  string
		is    func(probe) bool
		want  []int
		until time.Duration // 0: for good
	}{
		{"visible", func(p probe) bool { return slower(p) && p.cpu > 0.95 }, quarter, 0},
		{"hidden", func(p probe) bool { return slower(p) && p.cpu < 0.55 }, quarter, 0},
		{"sinkhole", failed, one, 0},
		{"blackhole", silent, one, 25 * time.Second},
		{"dark", dark, twoThirds, 0},
		{"dark30", dark, third, 0},
		{"darkAll", dark, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			play(t, c.name, func(at time.Duration, servers []probe) {
				got := which(servers, c.is)
				want := c.want
				if at == before || c.until > 0 && at > c.until {
					want = nil
				}
				if !slices.Equal(got, want) {
					t.Errorf("at %v it shows on %v, want %v: %+v", at, got, want, servers)
				}
			}, before, late, 26*time.Second)
		})
	}
}

func TestLiarsLieFromTheStart(t *testing.T) {
	for name, share := range map[string]float64{"liar0": 0, "liar1": 0.01, "liar5": 0.05} {
		play(t, name, func(_ time.Duration, servers []probe) {
			lies := func(p probe) bool { return p.cpu > 2*share-1e-6 && p.cpu < 2*share+1e-6 }
			if got := which(servers, lies); !slices.Equal(got, []int{1}) {
				t.Errorf("%s: %v claim %v of two workers, want server 1: %+v", name, got, share, servers)
			}
		}, time.Second, 30*time.Second)
	}
}

func TestOneServerHasNoCPUMetric(t *testing.T) {
	play(t, "noCPU", func(_ time.Duration, servers []probe) {
		if got := which(servers, func(p probe) bool { return p.noCPU }); !slices.Equal(got, []int{6}) {
			t.Errorf("%v export no CPU, want server 6", got)
		}
	}, 0)
}

func TestRollingRestartsEveryServerOnceWithinTheWindow(t *testing.T) {
	var moments []time.Duration
	for at := 3 * time.Second; at < time.Minute; at += 4500 * time.Millisecond {
		moments = append(moments, at)
	}
	turn := 0
	play(t, "rolling", func(at time.Duration, servers []probe) {
		turn++
		for i, p := range servers {
			if wantRestarted := i < turn; p.restarted != wantRestarted {
				t.Errorf("at %v server %d restarted: %v", at, i, p.restarted)
			}
			// A second after a server has come back it is cold, and so is the one before it.
			if wantCold := i == turn-1 || i == turn-2; (p.slower > 1.9) != wantCold {
				t.Errorf("at %v server %d takes %.2f times as long, cold: want %v", at, i, p.slower, wantCold)
			}
		}
	}, moments[:12]...)
}

func TestNeighboursComeAndGo(t *testing.T) {
	var moments []time.Duration
	for at := 5 * time.Second; at < time.Minute; at += 5 * time.Second {
		moments = append(moments, at)
	}
	touched, hidden, visible := map[int]bool{}, 0, 0
	play(t, "neighbours", func(at time.Duration, servers []probe) {
		for i, p := range servers {
			if p.slower < 0.99 || p.slower > 3.01 {
				t.Errorf("at %v server %d takes %.2f times as long", at, i, p.slower)
			}
			if p.slower > 1.2 {
				touched[i] = true
				if p.cpu < 0.9 {
					hidden++
				} else {
					visible++
				}
			}
		}
		if n := len(which(servers, func(p probe) bool { return p.slower > 1.2 })); n > 6 {
			t.Errorf("at %v %d servers are slow at the same time", at, n)
		}
	}, moments...)
	if len(touched) < 6 || hidden == 0 || visible == 0 {
		t.Errorf("neighbours on %d servers, seen hidden %d times and visible %d times", len(touched), hidden, visible)
	}
}

func TestChaosHasASinkholeForTwentySecondsAndAThirdInTheDark(t *testing.T) {
	play(t, "chaos", func(at time.Duration, servers []probe) {
		failed := which(servers, func(p probe) bool { return p.failed })
		if want := at > 15*time.Second && at < 35*time.Second; (len(failed) == 1) != want {
			t.Errorf("at %v %v fail", at, failed)
		}
		if got := which(servers, func(p probe) bool { return p.dark }); len(got) != 4 && at > faultAfter {
			t.Errorf("at %v %v are dark", at, got)
		}
	}, 4*time.Second, 16*time.Second, 34*time.Second, 37*time.Second)
}

func TestKilledKillsAndRevivesWhereThereIsAControlPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log []string
		arm := &running{
			kill:   func() error { log = append(log, "killed"); return nil },
			revive: func(ctx context.Context) error { log = append(log, "revived"); return ctx.Err() },
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		killControlPlane(ctx, stage{arm: arm})
		if !slices.Equal(log, []string{"killed", "revived"}) {
			t.Errorf("%v", log)
		}
	})
}

func TestLoadsKeepTheirPromises(t *testing.T) {
	mean := 0.0
	const steps = 6000
	for i := range steps {
		factor := square(time.Duration(i) * time.Minute / steps)
		mean += factor / steps
		if factor*standard.load >= 1 {
			t.Fatalf("square asks for %v of the capacity", factor*standard.load)
		}
	}
	if mean < 0.999 || mean > 1.001 || square(-time.Second) != 1 {
		t.Errorf("square has a mean of %v in the window and is %v before, want 1", mean, square(-time.Second))
	}
	for at, want := range map[time.Duration]float64{-time.Second: 0.7, 4 * time.Second: 0.7, 5 * time.Second: 1.2, 19 * time.Second: 1.2, 20 * time.Second: 0.7} {
		if got := overload(at) * standard.load; got < want-1e-9 || got > want+1e-9 {
			t.Errorf("overload at %v: %v of the capacity, want %v", at, got, want)
		}
	}
}

func TestScenariosHaveNamesOfTheirOwnAndSayWhatHappens(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range scenarios {
		if seen[s.name] || s.about == "" || strings.HasSuffix(s.about, ".") {
			t.Errorf("%q: %q", s.name, s.about)
		}
		seen[s.name] = true
		for _, config := range s.topology().serverConfigs(2, 1) {
			if _, err := demo.NewBackend(config); err != nil {
				t.Errorf("%s: %v", s.name, err)
			}
		}
	}
}

func TestSpeedsGoFromOneToTheFastest(t *testing.T) {
	configs := topology{servers: 4, workers: 2, slowest: 1, fastest: 4, work: time.Millisecond}.serverConfigs(0, 1)
	for i, want := range []float64{1, 2, 3, 4} {
		if configs[i].Speed != want {
			t.Errorf("server %d has speed %v, want %v", i, configs[i].Speed, want)
		}
	}
}
