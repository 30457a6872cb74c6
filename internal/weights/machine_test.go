package weights

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"evenkeel.io/controlplane/internal/signals"
)

// A backend that becomes three times slower, its CPU showing it, loses more than a third of its
// published weight within 15 s; so it does with noise, under any load that it could serve before.
func TestSlowBackendLosesAThirdIn15Seconds(t *testing.T) {
	for seed := range uint64(30) {
		p := newPlant(t, 150+50*float64(seed%5))
		p.noise = rand.New(rand.NewPCG(seed, 0))
		p.svc.PickingWorkers = 2
		for i, speed := range []float64{1, 1.4, 1.8, 2.2, 2.6, 3} {
			p.add(address(i), 50*speed)
		}
		p.members()
		p.run(time.Minute)
		victim := address(int(seed % 6))
		before := p.weight(victim) / total(p)
		p.server(victim).capacity /= 3
		p.run(14 * time.Second)
		if after := p.weight(victim) / total(p); after > before*2/3 {
			t.Errorf("seed %d: share %.3f, after 14 s still %.3f", seed, before, after)
		}
	}
}

func total(p *plant) float64 {
	sum := 0.0
	for _, d := range p.last.Endpoints {
		sum += float64(d.Weight)
	}
	return sum
}

// Weights come to be as the capacities are, within 10 %, with noise and while all else is steady, and
// few pushes are made once they are there.
func TestConvergesToCapacity(t *testing.T) {
	p := newPlant(t, 400)
	p.noise = rand.New(rand.NewPCG(1, 1))
	speeds := []float64{50, 50, 70, 100, 120, 200}
	for i, c := range speeds {
		p.add(address(i), c)
	}
	p.members()
	p.run(time.Minute)
	for i, c := range speeds {
		if ratio := p.weight(address(i)) / p.weight(address(0)) / (c / speeds[0]); math.Abs(ratio-1) > 0.1 {
			t.Errorf("%s: weight %.0f for capacity %v", address(i), p.weight(address(i)), c)
		}
	}
	pushes := len(p.pushes)
	p.run(10 * time.Minute)
	if n := len(p.pushes) - pushes; n > 20 {
		t.Errorf("%d pushes in 10 min without anything happening", n)
	}
}

// Whatever delay the loop has, and however the quotient depends on the traffic, weights come to rest:
// a linear plant whose CPU goes as rate^elasticity, read up to ten ticks late, does not oscillate, after a
// start from equal weights or after one endpoint has become another.
func TestNoOscillation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		elasticity := rapid.Float64Range(0.2, 1.5).Draw(t, "elasticity")
		delay := rapid.IntRange(0, 10).Draw(t, "delay in ticks")
		// An endpoint that takes more than 3.3 times as long as the median is taken to be hindered, and probed.
		metrics := rapid.SampledFrom([]string{"on", "no-latency"}).Draw(t, "metrics")
		most := map[string]float64{"on": 110, "no-latency": 250}[metrics]
		capacities := rapid.SliceOfN(rapid.Float64Range(50, most), 2, 6).Draw(t, "capacities")
		p := newPlant(t, 0)
		for i, c := range capacities {
			_, s := p.add(address(i), c)
			s.elasticity, s.metrics = elasticity, metrics
			p.load += c
		}
		p.load *= rapid.Float64Range(0.2, 0.7).Draw(t, "load")
		p.members()
		var late [][]signals.Reading
		trails := make([][]float64, len(capacities))
		for tick := range 600 {
			if tick == 150 {
				p.servers[0].capacity *= rapid.Float64Range(0.6, 1.5).Draw(t, "change")
			}
			p.serve()
			p.now = p.now.Add(Tick)
			late = append(late, p.readings())
			old := slices.Clone(late[max(0, len(late)-1-delay)])
			for i := range old {
				length := old[i].To.Sub(old[i].From)
				old[i].To, old[i].From = p.now, p.now.Add(-length)
			}
			p.take(p.m.Step(p.now, p.svc, old))
			for i := range capacities {
				if tick >= 450 {
					trails[i] = append(trails[i], p.weight(address(i))/total(p))
				}
			}
		}
		for i, trail := range trails {
			if n := turns(trail); n > 1 {
				t.Fatalf("%s: %d turns of its share: between %.3f and %.3f", address(i), n, slices.Min(trail), slices.Max(trail))
			}
		}
	})
}

// turns is how often the values turn round after a way of more than 5 %.
func turns(values []float64) int {
	n, up, low, high := -1, false, values[0], values[0]
	for _, v := range values {
		low, high = min(low, v), max(high, v)
		if rises, falls := v > low*1.05, v < high/1.05; rises && (n < 0 || !up) || falls && (n < 0 || up) {
			n, up, low, high = n+1, rises, v, v
		}
	}
	return max(0, n)
}

// What cannot be a measurement is refused, counted once, and changes nothing.
func TestBadReadingsAreRefused(t *testing.T) {
	bad := map[string]func(*signals.Reading){
		"done NaN":          func(r *signals.Reading) { r.Done = math.NaN() },
		"done negative":     func(r *signals.Reading) { r.Done = -1 },
		"done infinite":     func(r *signals.Reading) { r.Done = math.Inf(1) },
		"failed NaN":        func(r *signals.Reading) { r.Failed = math.NaN() },
		"cpu NaN":           func(r *signals.Reading) { r.CPU = math.NaN() },
		"cpu negative":      func(r *signals.Reading) { r.CPU = -0.1 },
		"cpu above 1.5":     func(r *signals.Reading) { r.CPU = 1.51 },
		"in flight NaN":     func(r *signals.Reading) { r.Terms |= signals.TermInFlight; r.InFlight = math.NaN() },
		"P50 negative":      func(r *signals.Reading) { r.P50 = -time.Second },
		"empty window":      func(r *signals.Reading) { r.From = r.To },
		"no interval":       func(r *signals.Reading) { r.SourceInterval = 0 },
		"from the future":   func(r *signals.Reading) { r.To = r.To.Add(time.Hour) },
		"an absurdly short": func(r *signals.Reading) { r.From = r.To.Add(-1); r.Done = 1e6 },
	}
	for name, spoil := range bad {
		t.Run(name, func(t *testing.T) {
			p := newPlant(t, 200)
			p.add(address(0), 50)
			p.add(address(1), 100)
			p.add(address(2), 150)
			p.members()
			p.run(20 * time.Second)
			before := p.last
			readings := p.readings()
			p.now = p.now.Add(Tick)
			for i := range readings {
				readings[i].To = p.now
			}
			spoil(&readings[1])
			p.m.Step(p.now, p.svc, readings)
			d := p.m.Step(p.now, p.svc, readings)
			sound(t, d)
			if d.Rejected != 1 {
				t.Errorf("%d rejected, want 1", d.Rejected)
			}
			if d.Endpoints[1].Weight != before.Endpoints[1].Weight {
				t.Errorf("weight went from %d to %d", before.Endpoints[1].Weight, d.Endpoints[1].Weight)
			}
			if !strings.Contains(d.Endpoints[1].Describe(), "refused") {
				t.Errorf("no reason says so:\n%s", d.Endpoints[1].Describe())
			}
		})
	}
}

// CPU a little above its limit is what a burst looks like, and counts as all of it.
func TestCPUAboveLimit(t *testing.T) {
	if _, cpu, ok := informative(&signals.Reading{From: epoch, To: epoch.Add(time.Second), Terms: needsCapacity, Done: 100, CPU: 1.3}); !ok || cpu != fullCPU {
		t.Errorf("CPU %v, %v", cpu, ok)
	}
}

// One step that a single reading does not prove is believed when a later window repeats it, and not
// when the same requests are merely seen again.
func TestTwiceMeansTwoWindows(t *testing.T) {
	// Each deviates by 2 standard deviations.
	moved := func(window, every time.Duration, readings int) float64 {
		e := member{EndpointState: EndpointState{X: math.Log(100), P: 0.001, Measured: true}}
		at := epoch
		for range readings {
			at = at.Add(every)
			e.reading = &signals.Reading{From: at.Add(-window), To: at}
			e.update(2*math.Sqrt(e.P+0.01), 0.01)
		}
		return e.X - math.Log(100)
	}
	if apart, overlapping := moved(2*time.Second, 2*time.Second, 2), moved(6*time.Second, 2*time.Second, 2); apart < 3*overlapping {
		t.Errorf("two windows apart move x by %v, overlapping ones by %v", apart, overlapping)
	}
	if fourth, third := moved(6*time.Second, 2*time.Second, 4), moved(6*time.Second, 2*time.Second, 3); fourth < 2*third {
		t.Errorf("the fourth window, the first apart, moves x from %v to %v", third, fourth)
	}
}

// A backend's own word raises it to four times the median and no further.
func TestLiarIsBounded(t *testing.T) {
	p := newPlant(t, 400)
	for i := range 5 {
		p.add(address(i), 100)
	}
	p.server(address(4)).capacity = 4000 // it reports next to no CPU
	p.members()
	p.run(2 * time.Minute)
	if ratio := p.last.Endpoints[4].Computed / p.last.Endpoints[0].Computed; ratio < 3.9 || ratio > 4.01 {
		t.Errorf("the liar has %v times the others' weight, want 4", ratio)
	}
}

// The slowest endpoint keeps the floor, and with it the requests that may show that it recovered.
func TestFloor(t *testing.T) {
	p := newPlant(t, 2000)
	for i := range 5 {
		p.add(address(i), 1000)
	}
	p.server(address(4)).capacity = 5
	p.members()
	p.run(time.Minute)
	if c := p.last.Endpoints[4].Computed; math.Abs(c-0.02) > 0.001 {
		t.Errorf("computed %v, want 0.02\n%s", c, p.last.Endpoints[4].Describe())
	}
	p.server(address(4)).capacity = 1000
	p.run(time.Minute)
	if c := p.last.Endpoints[4].Computed; c < 0.9 {
		t.Errorf("recovered, computed %v", c)
	}
}

// A reading that tells of another process behind an unchanged endpoint begins anew: prior, slow start.
func TestProcessRestart(t *testing.T) {
	p := newPlant(t, 300)
	for i := range 3 {
		p.add(address(i), 100)
	}
	victim := p.server(address(2))
	victim.capacity, victim.instance = 300, "started at noon"
	p.members()
	p.run(time.Minute)
	victim.instance, victim.metrics = "started at one", "no-cpu" // its first readings say nothing of capacity
	p.tick()
	d := p.last.Endpoints[2]
	if d.State != Warming {
		t.Errorf("state %s", d.State)
	}
	product := 1.0
	for _, r := range d.Reasons[:3] {
		product *= r.Factor
	}
	if math.Abs(product/(0.1*100)-1) > 0.05 {
		t.Errorf("want a tenth of the others' capacity\n%s", d.Describe())
	}
}

// While the weights are frozen an endpoint in slow start goes on growing, no faster than the slew, to its
// whole weight.
func TestSlowStartWhileFrozen(t *testing.T) {
	p := newPlant(t, 200)
	p.svc.Config.SlowStart = 10 * time.Second
	p.add(address(0), 100)
	p.add(address(1), 100)
	p.members()
	p.run(time.Minute)
	p.m.Freeze("by hand")
	p.add(address(2), 100)
	p.members()
	for range 20 {
		before := p.m.members[2].Damped
		p.tick()
		if move := math.Log(p.m.members[2].Damped / before); move < 0 || move > slewUp+1e-9 {
			t.Errorf("moved by %v", move)
		}
	}
	if ratio := p.weight(address(2)) / p.weight(address(0)); math.Abs(ratio-1) > 0.05 {
		t.Errorf("through its slow start it has %v of the others' weight", ratio)
	}
}

// An endpoint that comes back within the hour, the same instance, goes on from what was known of it;
// another instance, or one an hour later, begins at the prior.
func TestComesBack(t *testing.T) {
	for _, c := range []struct {
		name     string
		away     time.Duration
		instance string
		known    bool
	}{
		{"soon", 10 * time.Minute, "a", true},
		{"another instance", 10 * time.Minute, "b", false},
		{"late", 2 * time.Hour, "a", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlant(t, 200)
			p.svc.Config.SlowStart = 0
			p.add(address(0), 100)
			p.add(address(1), 100)
			e, _ := p.add(address(2), 300)
			e.Instance = "a"
			p.members()
			p.run(time.Minute)
			p.remove(address(2))
			p.members()
			p.now = p.now.Add(c.away)
			p.run(10 * time.Second)
			e, _ = p.add(address(2), 300)
			e.Instance = c.instance
			p.members()
			ratio := p.weight(address(2)) / p.weight(address(0))
			if known := ratio > 2.5; known != c.known {
				t.Errorf("it begins with %.2f times the others' weight", ratio)
			}
		})
	}
}

// Scaled to zero and back within the hour, the new endpoints are not all the Service knows.
func TestPriorOutlivesTheEndpoints(t *testing.T) {
	p := newPlant(t, 200)
	p.add(address(0), 100)
	p.add(address(1), 100)
	p.members()
	p.run(time.Minute)
	p.remove(address(0))
	p.remove(address(1))
	p.members()
	p.run(10 * time.Minute)
	p.add(address(5), 100)
	d := p.members()
	for _, r := range d.Endpoints[0].Reasons {
		if r.Term == "capacity" && math.Abs(r.Value-100) > 5 {
			t.Errorf("prior of %v req/s, want about 100", r.Value)
		}
	}
	if d.Endpoints[0].Weight != unit {
		t.Errorf("a single endpoint weighs %d", d.Endpoints[0].Weight)
	}
}

func TestSingleEndpointWeighs1000(t *testing.T) {
	p := newPlant(t, 100)
	p.add(address(0), 50)
	p.add(address(1), 250)
	p.members()
	p.run(time.Minute)
	p.remove(address(0))
	kept := p.weight(address(1))
	if p.members(); p.weight(address(1)) != kept {
		t.Errorf("a leave gave the other %v, had %v", p.weight(address(1)), kept)
	}
	if p.tick(); p.weight(address(1)) != 1000 {
		t.Errorf("a single endpoint weighs %v", p.weight(address(1)))
	}
	pushes := len(p.pushes)
	if p.run(time.Minute); len(p.pushes) > pushes {
		t.Errorf("pushed again: %s", p.last.Cause)
	}
}

// Routine pushes wait until every worker has picked each endpoint ten times.
func TestIntervalWaitsForPicks(t *testing.T) {
	for _, c := range []struct {
		load    float64
		workers int
		want    time.Duration
	}{
		{1000, 1, 10 * time.Second},
		{8, 4, 20 * time.Second}, // 10 * 4 endpoints / (8/s / 4 workers)
		{8, 0, 20 * time.Second},
		{1, 16, time.Minute},
	} {
		p := newPlant(t, c.load)
		p.svc.PickingWorkers = c.workers
		for i := range 4 {
			p.add(address(i), 100)
		}
		p.members()
		p.run(10 * time.Second)
		if got := (&tick{m: p.m, cfg: p.svc.Config, workers: c.workers}).interval(); math.Abs(float64(got-c.want)) > float64(time.Second) {
			t.Errorf("%v requests/s, %d workers: %v, want %v", c.load, c.workers, got, c.want)
		}
	}
}

// Without metadata nothing of it is published; turned on it is, at once.
func TestMetadata(t *testing.T) {
	p := newPlant(t, 100)
	p.svc.Config.Metadata = false
	p.add(address(0), 100)
	p.add(address(1), 100)
	p.members()
	p.run(time.Minute)
	if d := p.last.Endpoints[0]; d.PublishedHealthScore != 0 || d.PublishedQPSDecayFactor != 0 {
		t.Errorf("published %v, %v", d.PublishedHealthScore, d.PublishedQPSDecayFactor)
	}
	p.svc.Config.Metadata = true
	if d := p.members(); !d.Publish || d.Cause != "metadata on" || d.Endpoints[0].PublishedHealthScore != 1 {
		t.Errorf("turned on: %s", d.Describe())
	}
}

// Many weights that move a little, none beyond the deadband, are worth a push when more than 3 % of the
// traffic moves.
func TestShareMoves(t *testing.T) {
	for _, c := range []struct {
		by   float64
		push bool
	}{{0.1, false}, {0.155, true}} {
		p := newPlant(t, 0)
		for i := range 8 {
			p.add(address(i), 1)
		}
		p.members()
		pushes := len(p.pushes)
		for range 30 {
			p.now = p.now.Add(Tick)
			var readings []signals.Reading
			for i := range 8 {
				done := 1e6
				if i%2 == 0 {
					done *= 1 + c.by
				}
				readings = append(readings, reading(p.now, address(i), done, 0.5))
			}
			p.take(p.m.Step(p.now, p.svc, readings))
		}
		// Half of the weights go up by sqrt(1+by) and half go down by it: by 4.9 % or 7.5 %, and with them
		// 2.4 % or 3.6 % of the traffic.
		if got := len(p.pushes) > pushes; got != c.push {
			t.Errorf("half of the endpoints %v%% faster: pushed is %v", 100*c.by, got)
		}
	}
}

// Of several readings of an endpoint in one tick the latest counts, in whatever order they come.
func TestLatestReadingCounts(t *testing.T) {
	p := newPlant(t, 0)
	p.add(address(0), 1)
	p.add(address(1), 1)
	p.members()
	p.now = p.now.Add(Tick)
	other := reading(p.now, address(1), 100, 0.5)
	late := reading(p.now, address(0), 200, 0.5)
	early := reading(p.now.Add(-Tick/2), address(0), 50, 0.5)
	for _, readings := range [][]signals.Reading{{early, late, other}, {late, early, other}} {
		d := restarted(t, p.m, p.now).Step(p.now, p.svc, readings)
		if c := d.Endpoints[0].Reasons[1].Value; math.Abs(c-200) > 1e-9 {
			t.Errorf("capacity %v req/s, want 200", c)
		}
	}
}

// The metadata of a Service whose weights do not move is published when its mean factor does: all
// endpoints become slower alike.
func TestDecayMoves(t *testing.T) {
	p := newPlant(t, 100)
	for i := range 4 {
		p.add(address(i), 100)
	}
	p.members()
	p.run(5 * time.Minute)
	pushes := len(p.pushes)
	for _, s := range p.servers {
		s.capacity = 50
	}
	p.run(time.Minute)
	if len(p.pushes) == pushes {
		t.Fatal("nothing published")
	}
	for _, d := range p.last.Endpoints {
		if d.Weight != 1000 || d.PublishedQPSDecayFactor > 0.55 {
			t.Errorf("%s: weight %d, qps_decay_factor %v", d.Key.Address, d.Weight, d.PublishedQPSDecayFactor)
		}
	}
}

// A user's base or multiplier may be anything; integers stay within what Envoy takes, whoever joins.
func TestManyExtremeEndpoints(t *testing.T) {
	values := []float64{1, 1e9, 1e-9, 1e300, -1, 0, math.NaN(), math.Inf(1)}
	var many []Endpoint
	for i := range 5000 {
		many = append(many, Endpoint{
			Key:  key(fmt.Sprintf("10.1%02d.%03d.%03d:80", i>>16, i>>8&255, i&255)),
			Base: values[i%len(values)], Multiplier: values[i/len(values)%len(values)],
		})
	}
	for _, mode := range []Mode{Enforce, Shadow, Equal} {
		p := newPlant(t, 0)
		p.svc.Config.Mode = mode
		p.add(address(0), 100)
		p.members()
		p.svc.Endpoints = append(p.svc.Endpoints, many...)
		sound(t, p.m.Members(p.now, p.svc))
	}
}

func TestRestoreRefuses(t *testing.T) {
	good := func() MachineState {
		p := newPlant(t, 100)
		p.add(address(0), 100)
		p.add(address(1), 100)
		p.members()
		p.run(20 * time.Second)
		return p.m.State()
	}
	for want, spoil := range map[string]func(*MachineState){
		"service:":            func(s *MachineState) { s.Service = "shop/other:80" },
		"prior, anchor:":      func(s *MachineState) { s.Anchor = -1 },
		"endpoints[1] 10.0":   func(s *MachineState) { s.Endpoints[1].X = 1e9 },
		"base, multiplier":    func(s *MachineState) { s.Endpoints[0].Base = 0 },
		"damped, weight":      func(s *MachineState) { s.Endpoints[0].Weight = 0 },
		"is there twice":      func(s *MachineState) { s.Endpoints[1].Address = s.Endpoints[0].Address },
		"requestsPerSecond":   func(s *MachineState) { s.Endpoints[0].RequestsPerSecond = -1 },
		"trim: 2":             func(s *MachineState) { s.Endpoints[0].Trim = 2 },
		"failures:":           func(s *MachineState) { s.Endpoints[0].Failures.Failed = -1 },
		"cpu:":                func(s *MachineState) { s.Endpoints[0].CPU[1] = 9 },
		"busy, ratio, sigma":  func(s *MachineState) { s.Endpoints[0].Sigma = -1 },
		"speed:":              func(s *MachineState) { s.Endpoints[0].Speed.Next = 99 },
		"ceiling:":            func(s *MachineState) { s.Endpoints[0].Ceiling.Ln = 1e9 },
		"healthScore, qpsDec": func(s *MachineState) { s.Endpoints[0].HealthScore = 2 },
	} {
		s := good()
		spoil(&s)
		m := NewMachine(shop)
		if err := m.Restore(s, epoch); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if len(m.members) > 0 {
			t.Errorf("%s: the machine was changed", want)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	c := DefaultConfig()
	c.Blend, c.Floor, c.PublishInterval, c.Strategy = math.NaN(), 1, 0, "PID"
	err := c.Validate()
	for _, want := range []string{"blend: NaN: want 0 to 1", "capacity.floor: 1: want", "publish.interval: 0s: want", "strategy: PID: want"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\n lacks %q", err, want)
		}
	}
	if err := c.usable().Validate(); err != nil {
		t.Errorf("not usable: %v", err)
	}
	if err := (Config{}).usable().Validate(); err != nil {
		t.Errorf("zero Config: %v", err)
	}
}

// FuzzStep feeds arbitrary readings: weights stay sound, and a state that was saved can be restored.
func FuzzStep(f *testing.F) {
	f.Add(100.0, 0.0, 0.5, int64(5e6), int64(2e9), int64(2e9), uint8(31))
	f.Add(math.Inf(1), math.NaN(), -1.0, int64(-1), int64(0), int64(-5e9), uint8(255))
	f.Add(1e-300, 1e300, 1e-300, int64(1)<<62, int64(1), int64(1)<<62, uint8(5))
	f.Fuzz(func(t *testing.T, done, failed, cpu float64, p50, window, interval int64, terms uint8) {
		p := newPlant(t, 100)
		p.add(address(0), 50)
		p.add(address(1), 100)
		p.add(address(2), 200)
		p.members()
		for i := range 8 {
			p.serve()
			p.now = p.now.Add(Tick)
			readings := p.readings()
			if i%2 == 0 {
				readings[0] = signals.Reading{
					Endpoint: key(address(0)), From: p.now.Add(-time.Duration(window)), To: p.now,
					SourceInterval: time.Duration(interval), Terms: signals.Terms(terms),
					Done: done, Failed: failed, CPU: cpu, InFlight: done,
					P50: time.Duration(p50), P90: time.Duration(p50),
				}
			}
			p.svc.Config.Strategy = []string{Capacity, RTT, Static}[i%3]
			p.take(p.m.Step(p.now, p.svc, readings))
			sound(t, p.last)
		}
		p.m = restarted(t, p.m, p.now)
		sound(t, p.members())
	})
}

// FuzzRestore feeds arbitrary states: what Restore accepts makes sound weights.
func FuzzRestore(f *testing.F) {
	p := newPlant(f, 100)
	p.add(address(0), 50)
	p.add(address(1), 100)
	p.members()
	p.run(3 * time.Minute)
	saved, err := json.Marshal(p.m.State())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(saved)
	f.Fuzz(func(t *testing.T, saved []byte) {
		var s MachineState
		if json.Unmarshal(saved, &s) != nil {
			return
		}
		p := newPlant(t, 100)
		p.add(address(0), 50)
		p.add(address(1), 100)
		if p.m.Restore(s, p.now) != nil {
			return
		}
		sound(t, p.members())
		for range 5 {
			sound(t, p.tick())
		}
	})
}
