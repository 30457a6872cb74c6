package weights

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"evenkeel.io/controlplane/internal/signals"
)

// Whatever happens: integers in [1, 2^32) that sum to less than 2^32, finite numbers within their
// bounds, endpoints sorted, reasons that multiply to Computed, and integers that change only in a
// decision that says Publish.
func TestDecisionsAreSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var before map[string]Decision
		drawScenario(t).play(t, func(p *plant) {
			sound(t, p.last)
			now := map[string]Decision{}
			for _, d := range p.last.Endpoints {
				now[d.Key.Address] = d
				was, ok := before[d.Key.Address]
				if !p.last.Publish && (!ok || was.Weight != d.Weight ||
					was.PublishedHealthScore != d.PublishedHealthScore || was.PublishedQPSDecayFactor != d.PublishedQPSDecayFactor) {
					t.Fatalf("%s changed without being published: %+v, then %+v", d.Key.Address, was, d)
				}
			}
			before = now
		})
	})
}

func sound(t rapid.TB, d Decisions) {
	t.Helper()
	sum := uint64(0)
	for i, e := range d.Endpoints {
		sum += uint64(e.Weight)
		if e.Weight < 1 {
			t.Fatalf("%s: weight 0", e.Key.Address)
		}
		if !(e.Computed > 0) || !finite(e.Computed) {
			t.Fatalf("%s: computed %v", e.Key.Address, e.Computed)
		}
		if i > 0 && d.Endpoints[i-1].Key.Address >= e.Key.Address {
			t.Fatalf("%s after %s", e.Key.Address, d.Endpoints[i-1].Key.Address)
		}
		if e.HealthScore < 0 || e.HealthScore > 1 || e.QPSDecayFactor < 0.1 || e.QPSDecayFactor > 1 {
			t.Fatalf("%s: health_score %v, qps_decay_factor %v", e.Key.Address, e.HealthScore, e.QPSDecayFactor)
		}
		product := 1.0
		for _, r := range e.Reasons {
			product *= r.Factor
		}
		if math.Abs(product/e.Computed-1) > 1e-6 {
			t.Fatalf("%s: reasons multiply to %v, computed is %v\n%s", e.Key.Address, product, e.Computed, e.Describe())
		}
	}
	if sum > math.MaxUint32 {
		t.Fatalf("weights sum to %d", sum)
	}
	if d.Publish == (d.Cause == "") {
		t.Fatalf("publish %v with cause %q", d.Publish, d.Cause)
	}
}

// A history played twice gives the same decisions, bit for bit, in any order of endpoints and readings, and with a
// restart of the process at any point: State and Restore lose nothing.
func TestReplayPermutationRestart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScenario(t)
		var want, got []Decisions
		s.play(t, func(p *plant) { want = append(want, p.last) })

		shuffle := rand.New(rand.NewPCG(s.seed, 2))
		restartAt := rapid.IntRange(0, 60).Draw(t, "restart at")
		var other *Machine
		s.play(t, func(p *plant) {
			// The other Machine sees what p.m just saw, in another order.
			if other == nil {
				other = NewMachine(shop)
			}
			if len(got) == restartAt {
				other = restarted(t, other, p.now)
			}
			if p.m.frozen != "" {
				other.Freeze(p.m.frozen)
			} else {
				other.Unfreeze()
			}
			svc := p.svc
			svc.Endpoints = slices.Clone(svc.Endpoints)
			shuffle.Shuffle(len(svc.Endpoints), func(i, j int) {
				svc.Endpoints[i], svc.Endpoints[j] = svc.Endpoints[j], svc.Endpoints[i]
			})
			var d Decisions
			if p.stepped {
				readings := slices.Clone(p.read)
				shuffle.Shuffle(len(readings), func(i, j int) { readings[i], readings[j] = readings[j], readings[i] })
				d = other.Step(p.now, svc, readings)
			} else {
				d = other.Members(p.now, svc)
			}
			got = append(got, d)
		})
		for i := range want {
			if !reflect.DeepEqual(got[i], want[i]) {
				t.Fatalf("decision %d differs (restart at %d):\n%+v\n%+v", i, restartAt, want[i], got[i])
			}
		}
	})
}

// What was published when the process died is what the next one begins with.
func TestRestartPublishesTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawScenario(t).play(t, func(*plant) {})
		before := p.last
		p.m = restarted(t, p.m, p.now)
		after := p.members()
		if after.Publish {
			t.Fatalf("published after a restart: %s", after.Cause)
		}
		for i, d := range after.Endpoints {
			was := before.Endpoints[i]
			if d.Weight != was.Weight || d.PublishedHealthScore != was.PublishedHealthScore || d.PublishedQPSDecayFactor != was.PublishedQPSDecayFactor {
				t.Fatalf("%s: %+v, then %+v", d.Key.Address, was, d)
			}
		}
	})
}

// Weights do not depend on the unit of requests/s: with all windows k times shorter and all else
// equal, every rate is k times as high and every weight the same.
func TestScaleInvariant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 6).Draw(t, "endpoints")
		k := rapid.Float64Range(0.01, 100).Draw(t, "k")
		plain, scaled := newPlant(t, 0), newPlant(t, 0)
		for i := range n {
			plain.add(address(i), 1)
			scaled.add(address(i), 1)
		}
		a, b := plain.members(), scaled.members()
		for range 10 {
			plain.now = plain.now.Add(Tick)
			var short, long []signals.Reading
			for i := range n {
				r := reading(plain.now, address(i), rapid.Float64Range(10, 1000).Draw(t, "done"), rapid.Float64Range(0.01, 1).Draw(t, "cpu"))
				r.From = r.To.Add(-time.Second)
				long = append(long, r)
				r.From = r.To.Add(-time.Duration(float64(time.Second) / k))
				// Whether windows overlap is what tells two deviations apart from one seen twice.
				r.SourceInterval = 2 * time.Second
				short = append(short, r)
			}
			if k < 0.5 {
				for i := range short {
					short[i].From = short[i].To.Add(-Tick)
					long[i].From = long[i].To.Add(-time.Duration(k * float64(Tick)))
				}
			}
			a = plain.m.Step(plain.now, plain.svc, long)
			b = scaled.m.Step(plain.now, scaled.svc, short)
		}
		for i := range a.Endpoints {
			if x, y := a.Endpoints[i].Computed, b.Endpoints[i].Computed; math.Abs(x/y-1) > 1e-6 {
				t.Fatalf("computed %v and %v for rates in the ratio 1:%v", x, y, k)
			}
		}
	})
}

func address(i int) string {
	return string([]byte{'1', '0', '.', '0', '.', '0', '.', byte('0' + i)}) + ":80"
}

// reading has a window of 2 s.
func reading(now time.Time, address string, done, cpu float64) signals.Reading {
	return signals.Reading{
		Endpoint: key(address), From: now.Add(-Tick), To: now, SourceInterval: Tick,
		Terms: needsCapacity, Done: done, CPU: cpu,
	}
}

// Endpoints of which the same is said have the same integer.
func TestEqualInputsEqualIntegers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, 9).Draw(t, "endpoints")
		p := newPlant(t, 0)
		for i := range n {
			p.add(address(i), 1)
		}
		p.members()
		for range 20 {
			p.now = p.now.Add(Tick)
			done, cpu := rapid.Float64Range(0, 1000).Draw(t, "done"), rapid.Float64Range(0, 1).Draw(t, "cpu")
			readings := []signals.Reading{reading(p.now, address(0), rapid.Float64Range(0, 1000).Draw(t, "other's done"), 0.5)}
			for i := 1; i < n; i++ {
				readings = append(readings, reading(p.now, address(i), done, cpu))
			}
			d := p.m.Step(p.now, p.svc, readings)
			for _, e := range d.Endpoints[2:] {
				if e.Weight != d.Endpoints[1].Weight {
					t.Fatalf("equal endpoints weigh %d and %d", d.Endpoints[1].Weight, e.Weight)
				}
			}
		}
	})
}

// More CPU for the same work, above 5 %, never raises the weight that an endpoint is moved towards.
func TestMoreCPUNeverRaises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScenario(t, "slower", "faster", "silent", "heard", "load", "join", "leave")
		p := s.play(t, func(*plant) {})
		if len(p.servers) == 0 {
			return
		}
		low := rapid.Float64Range(0.05, 1).Draw(t, "cpu")
		high := rapid.Float64Range(low, 1.2).Draw(t, "more cpu")
		done := rapid.Float64Range(1, 1000).Draw(t, "done")
		at := rapid.IntRange(0, len(p.servers)-1).Draw(t, "endpoint")
		name := p.svc.Endpoints[at].Key.Address

		p.serve()
		p.now = p.now.Add(Tick)
		with := func(cpu float64) float64 {
			readings := slices.DeleteFunc(p.readings(), func(r signals.Reading) bool { return r.Endpoint.Address == name })
			readings = append(readings, reading(p.now, name, done, cpu))
			d := restarted(t, p.m, p.now).Step(p.now, p.svc, readings)
			target := 1.0
			for _, r := range d.Endpoints[at].Reasons {
				if r.Term != "slew" && r.Term != "freeze" {
					target *= r.Factor
				}
			}
			return target
		}
		if a, b := with(low), with(high); b > a*(1+1e-9) {
			t.Fatalf("CPU %v gives %v, CPU %v gives %v", low, a, high, b)
		}
	})
}

// From tick to tick no weight moves by more than the slew allows, and none comes to rest below the floor.
func TestSlewAndFloor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var before []EndpointState
		p := drawScenario(t, "slower", "faster", "silent", "heard", "load", "no-cpu", "freeze", "unfreeze", "strategy", "blend").
			play(t, func(p *plant) {
				now := p.m.State().Endpoints
				for i := range before {
					move := math.Log(now[i].Damped / before[i].Damped)
					if move > slewUp+1e-9 || move < -slewDown-1e-9 {
						t.Fatalf("%s moved by %v", now[i].Address, move)
					}
				}
				before = now
			})
		p.m.Unfreeze()
		p.run(2 * time.Minute)
		floor := p.svc.Config.Floor / (1 + p.svc.Config.Floor)
		for _, d := range p.last.Endpoints {
			if p.last.Frozen == "" && d.Computed < floor*0.99 {
				t.Fatalf("%s is at %v, floor %v\n%s", d.Key.Address, d.Computed, floor, d.Describe())
			}
		}
	})
}

// While readings stay the same, pushes come to an end.
func TestConstantInputsFallSilent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawScenario(t).play(t, func(*plant) {})
		last := p.readings()
		constant := func(ticks int, every time.Duration) {
			for range ticks {
				p.now = p.now.Add(every)
				for i := range last {
					length := last[i].To.Sub(last[i].From)
					last[i].To, last[i].From = p.now, p.now.Add(-length)
					last[i].SourceInterval = every
				}
				p.take(p.m.Step(p.now, p.svc, last))
			}
		}
		constant(450, Tick)       // of few requests a window the filter takes long to be sure
		constant(65, time.Minute) // the reference of qps_decay_factor remembers for an hour
		constant(450, Tick)       // of few requests failures take long to fill up
		pushes := len(p.pushes)
		constant(60, Tick)
		if len(p.pushes) > pushes {
			t.Fatalf("still pushing: %s", p.pushes[len(p.pushes)-1].Cause)
		}
	})
}

// While fewer than half of the endpoints are fresh nothing moves, bit for bit.
func TestFewFreshFreeze(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawScenario(t, "slower", "faster", "load", "multiplier", "base").play(t, func(*plant) {})
		p.run(30 * time.Second)
		n := len(p.servers)
		for i := range n/2 + 1 {
			p.servers[i].metrics = "off"
		}
		p.run(6 * time.Second) // 5 s is how long the last readings stay fresh
		pushes, before := len(p.pushes), p.last
		for range 100 {
			p.servers[n-1].capacity = rapid.Float64Range(1, 500).Draw(t, "capacity")
			p.tick()
			for i, d := range p.last.Endpoints {
				was := before.Endpoints[i]
				if d.Weight != was.Weight || d.Computed != was.Computed || d.PublishedHealthScore != was.PublishedHealthScore {
					t.Fatalf("%s moved while frozen: %+v, then %+v", d.Key.Address, was, d)
				}
			}
		}
		if len(p.pushes) > pushes {
			t.Fatalf("pushed while frozen: %s", p.last.Cause)
		}
	})
}

// An endpoint that fell silent goes to the median and never away from it.
func TestStaleGoesToTheMedian(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.Float64Range(30, 300).Draw(t, "capacity")
		p := newPlant(t, 100)
		for i := range 5 {
			p.add(address(i), 100)
		}
		p.server(address(0)).capacity = capacity
		p.members()
		p.run(time.Minute)
		p.server(address(0)).metrics = "off"
		distance := math.Inf(1)
		for range 200 {
			p.tick()
			d := math.Abs(math.Log(p.last.Endpoints[0].Computed / p.last.Endpoints[1].Computed))
			if d > distance+1e-9 {
				t.Fatalf("from %v away to %v", distance, d)
			}
			distance = d
		}
		if distance > 0.01 {
			t.Fatalf("stays at a distance of %v", distance)
		}
	})
}

// Members publishes who joined, and gives the others no other integer than they had.
func TestMembersKeepTheOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawScenario(t, "slower", "faster", "load", "silent", "heard").play(t, func(*plant) {})
		before := map[string]uint32{}
		for _, d := range p.last.Endpoints {
			before[d.Key.Address] = d.Weight
		}
		p.remove(p.svc.Endpoints[0].Key.Address)
		joins := rapid.IntRange(0, 5).Draw(t, "joins")
		for i := range joins {
			e, _ := p.add("10.1.0."+string(rune('0'+i))+":80", 50)
			e.Base = rapid.Float64Range(0.1, 10).Draw(t, "base")
		}
		d := p.members()
		if !d.Publish {
			t.Fatal("a leave was not published")
		}
		for _, e := range d.Endpoints {
			if w, ok := before[e.Key.Address]; ok && w != e.Weight {
				t.Fatalf("%s had %d and got %d", e.Key.Address, w, e.Weight)
			}
		}
	})
}
