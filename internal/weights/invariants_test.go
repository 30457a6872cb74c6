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
			rounded(t, p)
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

// rounded checks that integers published as a whole are Computed, 1000 for what the anchor is, but for
// their rounding.
func rounded(t rapid.TB, p *plant) {
	t.Helper()
	if !p.last.Publish || !p.stepped || !p.m.published.Equal(p.now) || p.m.mode != Enforce || p.m.snap.On || p.last.Frozen != "" {
		return
	}
	for _, d := range p.last.Endpoints {
		exact := unit * d.Computed * p.m.meanDamped() / p.m.anchor
		if math.Abs(max(1, exact)-float64(d.Weight)) > 0.5+1e-6 {
			t.Fatalf("%s: %d is published for %v", d.Key.Address, d.Weight, exact)
		}
	}
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

// Names decide nothing: endpoints that swap their addresses swap their weights. (Under RTT the hour's
// reference is in the weight, whose samples are taken at a time that the address decides.)
func TestRenamedEndpointsSwapWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawScenario(t, "slower", "faster", "silent", "heard", "no-cpu", "load", "failing", "hidden", "sheds")
		mirror := func(at int) int { return len(s.start) - 1 - at }
		mirrored := NewMachine(shop)
		s.play(t, func(p *plant) {
			p.svc.Config.Metadata = false // published with its own timing
			svc := p.svc
			svc.Endpoints = slices.Clone(svc.Endpoints)
			for i := range svc.Endpoints {
				svc.Endpoints[i].Key = p.svc.Endpoints[mirror(i)].Key
			}
			var d Decisions
			if p.stepped {
				readings := slices.Clone(p.read)
				for i := range readings {
					readings[i].Endpoint = p.svc.Endpoints[mirror(p.index(readings[i].Endpoint.Address))].Key
				}
				d = mirrored.Step(p.now, svc, readings)
			} else {
				d = mirrored.Members(p.now, svc)
			}
			for i, e := range p.last.Endpoints {
				if other := d.Endpoints[mirror(i)]; math.Abs(other.Computed/e.Computed-1) > 1e-6 || other.State != e.State {
					t.Fatalf("under another name\n%s\nis\n%s", e.Describe(), other.Describe())
				}
			}
		})
	})
}

// A reading that cannot be one says nothing: but for being counted, all is as if it had not come.
func TestRefusedReadingsSayNothing(t *testing.T) {
	spoilt := []func(*signals.Reading, float64){
		func(r *signals.Reading, v float64) { r.Done = v },
		func(r *signals.Reading, v float64) { r.Failed = v },
		func(r *signals.Reading, v float64) { r.CPU, r.Terms = v, r.Terms|signals.TermCPU },
		func(r *signals.Reading, v float64) { r.InFlight, r.Terms = v, r.Terms|signals.TermInFlight },
		func(r *signals.Reading, _ float64) { r.P50, r.Terms = -1, r.Terms|signals.TermLatency },
		func(r *signals.Reading, _ float64) { r.From = r.To },
		func(r *signals.Reading, _ float64) { r.To = r.To.Add(time.Hour) },
		func(r *signals.Reading, _ float64) { r.SourceInterval = 0 },
	}
	rapid.Check(t, func(t *rapid.T) {
		s := drawScenario(t)
		odds := rand.New(rand.NewPCG(s.seed, 3))
		told, spared := NewMachine(shop), NewMachine(shop)
		refused := uint64(0)
		s.play(t, func(p *plant) {
			var a, b Decisions
			for _, m := range []*Machine{told, spared} {
				if m.frozen = p.m.frozen; !p.stepped {
					a, b = b, m.Members(p.now, p.svc)
				}
			}
			if p.stepped {
				var bad, without []signals.Reading
				for _, r := range p.read {
					if odds.IntN(4) > 0 {
						bad, without = append(bad, r), append(without, r)
						continue
					}
					spoilt[odds.IntN(len(spoilt))](&r, []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1}[odds.IntN(4)])
					bad = append(bad, r)
					refused++
				}
				a, b = told.Step(p.now, p.svc, bad), spared.Step(p.now, p.svc, without)
			}
			sound(t, a)
			// A reading that is refused for its time, as all are once the clock has been set back, is counted
			// again when another one was refused in between.
			if a.Rejected > 2*refused+b.Rejected || a.Publish != b.Publish {
				t.Fatalf("%d of %d rejected; published %q and %q", a.Rejected, refused, a.Cause, b.Cause)
			}
			quiet := func(e Decision) Decision {
				e.Reasons = slices.DeleteFunc(slices.Clone(e.Reasons), func(r Reason) bool { return r.Term == "refused" })
				return e
			}
			for i, e := range a.Endpoints {
				if !reflect.DeepEqual(quiet(e), quiet(b.Endpoints[i])) {
					t.Fatalf("told of what is refused\n%s\nis without\n%s", e.Describe(), b.Endpoints[i].Describe())
				}
			}
		})
		if told.rejected == 0 && refused > 40 {
			t.Fatalf("none of %d was counted", refused)
		}
	})
}

// What was published when the process died is what the next one begins with.
func TestRestartPublishesTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawScenario(t).play(t, func(*plant) {})
		before, state := p.last, p.m.State()
		p.m = restarted(t, p.m, p.now)
		if restored := p.m.State(); !reflect.DeepEqual(restored, state) {
			t.Fatalf("the state\n%+v\ncomes back as\n%+v", state, restored)
		}
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
		cpu := rapid.Float64Range(0.05, 0.9).Draw(t, "cpu")
		hindered := rapid.Float64Range(1, 6).Draw(t, "hindered")
		for tick := range 45 {
			plain.now = plain.now.Add(Tick)
			var short, long []signals.Reading
			for i := range n {
				jitter := rapid.Float64Range(0.9, 1.1).Draw(t, "jitter")
				r := reading(plain.now, address(i), 100*float64(1+i)*jitter, min(1, cpu*jitter*jitter))
				r.Terms |= needsPressure
				r.P50 = time.Duration(20-2*i) * time.Millisecond
				if i == 0 && tick >= 35 {
					r.P50 = time.Duration(hindered * float64(r.P50))
				}
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

// Endpoints of which the same is said have the same integer, whatever is said of others.
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
			var readings []signals.Reading
			for i := range n - 1 {
				r := reading(p.now, address(i), rapid.Float64Range(0, 1000).Draw(t, "done"), rapid.Float64Range(0, 1).Draw(t, "cpu"))
				r.Terms |= needsErrors | needsPressure
				r.Failed = rapid.SampledFrom([]float64{0, 0, 20, 200}).Draw(t, "failed")
				r.P50 = time.Duration(rapid.IntRange(1, 500).Draw(t, "P50")) * time.Millisecond
				readings = append(readings, r)
			}
			twin := readings[n-2]
			twin.Endpoint = key(address(n - 1))
			d := p.m.Step(p.now, p.svc, append(readings, twin))
			if a, b := d.Endpoints[n-2].Weight, d.Endpoints[n-1].Weight; a != b {
				t.Fatalf("equal endpoints weigh %d and %d", a, b)
			}
		}
	})
}

// More CPU for the same work, above 5 %, never raises the weight of an endpoint, while
// nobody is under pressure.
func TestMoreCPUNeverRaises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawScenario(t, "slower", "faster", "silent", "heard", "load", "join", "leave").play(t, func(*plant) {})
		if len(p.servers) == 0 {
			return
		}
		low := rapid.Float64Range(0.05, 1).Draw(t, "cpu")
		high := rapid.Float64Range(low, 1.2).Draw(t, "more cpu")
		done := rapid.Float64Range(1, 1000).Draw(t, "done")
		at := rapid.IntRange(0, len(p.servers)-1).Draw(t, "endpoint")
		with := p.whatIf(at)
		a := with(func(r *signals.Reading) { r.Done, r.CPU = done, low })
		b := with(func(r *signals.Reading) { r.Done, r.CPU = done, high })
		if b.weight > a.weight*(1+1e-9) && !a.pressed && !b.pressed {
			t.Fatalf("CPU %v gives %v, CPU %v gives %v", low, a.weight, high, b.weight)
		}
	})
}

// outcome is what a reading makes of an endpoint: its weight in its own unit, not held against the mean
// (others' priors follow from its estimate too) and with all of its slow start, what errors leave of it,
// and whether anybody is under pressure.
type outcome struct {
	weight, trim float64
	pressed      bool
}

// whatIf serves another tick, and tells what would come of it if the endpoint's reading, of CPU and
// requests, were another.
func (p *plant) whatIf(at int) func(change func(*signals.Reading)) outcome {
	p.serve()
	p.now = p.now.Add(Tick)
	name := p.svc.Endpoints[at].Key.Address
	return func(change func(*signals.Reading)) outcome {
		readings := slices.DeleteFunc(p.readings(), func(r signals.Reading) bool { return r.Endpoint.Address == name })
		r := reading(p.now, name, 0, 0)
		change(&r)
		m := restarted(p.t, p.m, p.now)
		d := m.Step(p.now, p.svc, append(readings, r))
		o := outcome{weight: unslewed(d)[at], trim: m.members[at].trim()}
		for _, r := range d.Endpoints[at].Reasons {
			if r.Term == "overload" {
				o.weight /= r.Factor
			}
		}
		for _, e := range m.members {
			o.pressed = o.pressed || e.Sigma > pressed
		}
		return o
	}
}

// From tick to tick no weight moves by more than the slew allows, but for the fall of one that fails
// much of what it is sent.
func TestSlew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := map[string]EndpointState{}
		drawScenario(t, "slower", "faster", "silent", "heard", "load", "no-cpu", "freeze", "unfreeze", "strategy", "blend",
			"failing", "hidden", "sheds", "join", "leave", "restart").
			play(t, func(p *plant) {
				for _, now := range p.m.State().Endpoints {
					was, ok := before[now.Address]
					before[now.Address] = now
					if !ok {
						continue
					}
					move := math.Log(now.Damped / was.Damped)
					emergency := now.Trim > 0 && now.Trim < 0.7
					if move > slewUp+1e-9 || move < -slewDown-1e-9 && !emergency {
						t.Fatalf("%s moved by %v", now.Address, move)
					}
				}
			})
	})
}

// However slow an endpoint is, and however much it fails, it comes to rest no lower than the floor.
func TestFloorHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPlant(t, 0)
		p.svc.Config.Blend = rapid.SampledFrom([]float64{1, 0.25}).Draw(t, "blend")
		for i := range rapid.IntRange(2, 8).Draw(t, "endpoints") {
			e, s := p.add(address(i), math.Exp(rapid.Float64Range(0, 7).Draw(t, "ln capacity")))
			e.Multiplier = math.Exp(rapid.Float64Range(-1, 1).Draw(t, "ln multiplier"))
			s.failing = rapid.SampledFrom([]float64{0, 0, 0.2, 1}).Draw(t, "failing")
			s.hidden = rapid.SampledFrom([]float64{1, 1, 3}).Draw(t, "hidden")
			p.load += s.capacity / 2
		}
		p.members()
		p.run(2 * time.Minute)
		floor := p.svc.Config.Floor / (1 + p.svc.Config.Floor) // raising them to it raises the mean
		for _, d := range p.last.Endpoints {
			if d.Computed < floor*0.99 {
				t.Fatalf("%s is at %v, floor %v\n%s", d.Key.Address, d.Computed, floor, d.Describe())
			}
		}
	})
}

// While readings stay the same, there are few pushes and then none.
func TestConstantInputsFallSilent(t *testing.T) {
	const mostPushes = 60
	rapid.Check(t, func(t *rapid.T) {
		p := drawScenario(t).play(t, func(*plant) {})
		last, before := p.readings(), len(p.pushes)
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
		if pushes > before+mostPushes {
			t.Fatalf("%d pushes while readings stay the same", pushes-before)
		}
		constant(300, Tick)
		if len(p.pushes) > pushes {
			t.Fatalf("still pushing: %s", p.pushes[len(p.pushes)-1].Cause)
		}
	})
}

// While fewer than half of the endpoints are fresh nothing of what is sent moves, bit for bit, whatever the
// others say.
func TestFewFreshFreeze(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawScenario(t, "slower", "faster", "load", "multiplier", "base", "failing", "hidden", "sheds").play(t, func(*plant) {})
		p.run(30 * time.Second)
		n := len(p.servers)
		for i := range n/2 + 1 {
			p.servers[i].metrics = "off"
		}
		p.run(6 * time.Second) // 5 s is how long the last readings stay fresh
		pushes, before := len(p.pushes), p.last
		last := p.servers[n-1]
		for range 100 {
			last.capacity = rapid.Float64Range(1, 500).Draw(t, "capacity")
			last.failing = rapid.SampledFrom([]float64{0, 0, 1}).Draw(t, "failing")
			p.tick()
			if p.last.Frozen == "" {
				t.Fatal("not frozen")
			}
			for i, d := range p.last.Endpoints {
				was := before.Endpoints[i]
				if d.Weight != was.Weight || d.Computed != was.Computed ||
					d.PublishedHealthScore != was.PublishedHealthScore || d.PublishedQPSDecayFactor != was.PublishedQPSDecayFactor {
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
		victim := p.server(address(0))
		victim.capacity = capacity
		p.members()
		p.run(2 * time.Minute)
		victim.failing = rapid.SampledFrom([]float64{0, 0, 0.1, 1}).Draw(t, "failing")
		victim.hidden = rapid.Float64Range(1, 3).Draw(t, "hidden")
		p.run(time.Minute)
		victim.metrics = "off"
		p.run(6 * time.Second) // the last readings are on their way
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

// A million endpoints have integers that sum to less than 2^32, whatever their weights: at any scale that
// is kept, the mean is at most twice the anchor.
func TestMillionEndpointsFit(t *testing.T) {
	const million = 1_000_000
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) float64 {
			return math.Exp(rapid.Float64Range(-40, 40).Draw(t, "ln weight"))
		}), 2, 200).Draw(t, "weights")
		m := NewMachine(shop)
		m.anchor = math.Exp(rapid.Float64Range(-40, 40).Draw(t, "ln anchor"))
		tick := &tick{m: m, w: weights}
		anchor, sum := tick.anchored(), 0.0
		for _, w := range weights {
			sum += float64(integer(w, anchor))
		}
		if sum/float64(len(weights))*million > math.MaxUint32 {
			t.Fatalf("the mean of the integers is %v: a million sum to 2^32 or more", sum/float64(len(weights)))
		}
	})
}
