package weights

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"evenkeel.io/controlplane/internal/health"
	"evenkeel.io/controlplane/internal/signals"
)

// A server that begins to fail all requests at once, at 50 requests/s each, is at the floor within two
// ticks: it has a fiftieth of the mean, or of its capacity's share, whatever the others are. A minute after
// its recovery it has 90 % of it back.
func TestSinkhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPlant(t, 0)
		n := rapid.IntRange(3, 9).Draw(t, "endpoints")
		for i := range n {
			p.add(address(i), rapid.Float64Range(80, 160).Draw(t, "capacity"))
			p.load += 50
		}
		if seed := rapid.Uint64Range(0, 9).Draw(t, "noise"); seed > 0 {
			p.noise = rand.New(rand.NewPCG(seed, 0))
		}
		p.members()
		p.run(time.Minute)
		victim := rapid.IntRange(0, n-1).Draw(t, "victim")
		worth := func() float64 { // its weight, as a part of its capacity's share
			c := func(i int) float64 { return p.servers[i].capacity }
			others, capacity := 0.0, 0.0
			for i := range n {
				if i != victim {
					others, capacity = others+p.last.Endpoints[i].Computed, capacity+c(i)
				}
			}
			return p.last.Endpoints[victim].Computed / c(victim) * capacity / others
		}
		p.servers[victim].failing = 1
		p.run(2 * Tick)
		most := health.TrimFloor * 1.25
		if p.noise != nil {
			most = health.TrimFloor * 3
		}
		if w := worth(); w > most && p.last.Endpoints[victim].Computed > 1.01*p.svc.Config.Floor {
			t.Fatalf("two ticks after it began to fail it has %.4f of its share:\n%s", w, p.last.Describe())
		}
		p.run(time.Minute)
		p.servers[victim].failing = 0
		p.run(time.Minute)
		least := 0.9
		if p.noise != nil {
			least = 0.8
		}
		if w := worth(); w < least {
			t.Fatalf("a minute after its recovery it has %.2f of its share\n%s", w, p.last.Endpoints[victim].Describe())
		}
	})
}

// A server that Envoys ejected after a few failures is at the floor while they send it nothing, so that it
// gets little when they take it back; and as soon as it serves again it has its share again in less than
// a minute.
func TestEjectedEndpointsComeBackSmall(t *testing.T) {
	p := newPlant(t, 0)
	for i := range 5 {
		p.add(address(i), 100)
		p.load += 60
	}
	p.members()
	p.run(time.Minute)
	victim := p.servers[2]
	victim.failing = 0.1
	p.run(Tick)
	if e := p.m.State().Endpoints[2]; e.Trim != 0 && e.Trim <= health.TrimFloor {
		t.Fatalf("a tenth of the requests of two seconds put it at the floor at once: %+v", e)
	}
	victim.failing, victim.ejected = 1, true
	p.run(5 * Tick)
	if d := p.last.Endpoints[2]; d.Computed > 1.5*health.TrimFloor || d.Weight > 30 {
		t.Errorf("sent nothing since it failed, it has\n%s", d.Describe())
	}
	if text := p.last.Endpoints[2].Describe(); !strings.Contains(text, "Envoys send it none any more") {
		t.Errorf("the reasons do not say so:\n%s", text)
	}
	p.run(time.Minute)
	if d := p.last.Endpoints[2]; d.Weight > 30 {
		t.Errorf("a minute without requests lifted it:\n%s", d.Describe())
	}
	victim.failing, victim.ejected = 0, false
	p.run(time.Minute)
	if d := p.last.Endpoints[2]; d.Computed < 0.9 {
		t.Errorf("a minute after its recovery it has\n%s", d.Describe())
	}
}

// Who is sent nothing and did not fail is no worse for it: nobody has said a word against it.
func TestIdleIsNotEjected(t *testing.T) {
	p := newPlant(t, 0)
	for i := range 5 {
		p.add(address(i), 100)
		p.load += 60
	}
	p.members()
	p.run(time.Minute)
	p.servers[2].ejected = true
	p.run(time.Minute)
	if e := p.m.State().Endpoints[2]; e.Trim != 0 && e.Trim < 1 {
		t.Errorf("it is trimmed to %v", e.Trim)
	}
}

// A server that fails what it cannot serve is not trimmed for that, however suddenly it came to have too
// much to do.
func TestOverloadIsNoError(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 8).Draw(t, "endpoints")
		p := newPlant(t, 0)
		if seed := rapid.Uint64Range(0, 9).Draw(t, "noise"); seed > 0 {
			p.noise = rand.New(rand.NewPCG(seed, 4))
		}
		sum := 0.0
		for i := range n {
			_, s := p.add(address(i), rapid.Float64Range(20, 200).Draw(t, "capacity"))
			s.sheds = true
			sum += s.capacity
		}
		p.load = sum * rapid.Float64Range(0.3, 0.75).Draw(t, "load")
		p.members()
		p.run(time.Minute)
		for range 4 {
			victim := p.servers[rapid.IntRange(0, n-1).Draw(t, "victim")]
			victim.capacity *= rapid.Float64Range(0.3, 1).Draw(t, "slower")
			p.load *= rapid.Float64Range(0.7, 1.6).Draw(t, "change of load")
			for range rapid.IntRange(1, 30).Draw(t, "ticks") {
				p.tick()
				for _, e := range p.m.State().Endpoints {
					if e.Trim != 0 && e.Trim < 1 {
						t.Fatalf("%s is trimmed to %v, CPU %v", e.Address, e.Trim, e.CPU)
					}
				}
			}
		}
	})
}

// More requests that fail at once, beside as many that do not, never raise the weight of an
// endpoint; nor does it keep more of it when they are among as many requests.
func TestMoreErrorsNeverRaise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawScenario(t, "slower", "faster", "failing", "silent", "heard", "load", "join", "leave").play(t, func(*plant) {})
		if len(p.servers) == 0 {
			return
		}
		requests := rapid.Float64Range(1, 2000).Draw(t, "requests")
		few := rapid.Float64Range(0, 1).Draw(t, "failing")
		many := rapid.Float64Range(few, 1).Draw(t, "more")
		cpu := rapid.Float64Range(0.05, 0.9).Draw(t, "cpu")
		at := rapid.IntRange(0, len(p.servers)-1).Draw(t, "endpoint")
		with := p.whatIf(at)
		beside := func(failing float64) func(*signals.Reading) {
			return func(r *signals.Reading) {
				r.Done, r.CPU, r.Failed = requests, cpu, requests*failing
				r.Terms |= needsErrors
			}
		}
		among := func(failing float64) func(*signals.Reading) {
			return func(r *signals.Reading) {
				r.Done, r.CPU, r.Failed = requests*(1-failing), cpu*(1-failing), requests*failing
				r.Terms |= needsErrors
			}
		}
		a, b := with(beside(few)), with(beside(many))
		if b.weight > a.weight*(1+1e-9) && requests >= minRequests && !a.pressed && !b.pressed {
			t.Fatalf("beside %v, %v failing give %v, %v give %v", requests, few*requests, a.weight, many*requests, b.weight)
		}
		if a, b := with(among(few)), with(among(many)); b.trim > a.trim {
			t.Fatalf("%v failing is trimmed to %v, %v failing to %v", few, a.trim, many, b.trim)
		}
	})
}

// A trim rises with successes and not with time: x2 in 5 s at most.
func TestTrimRises(t *testing.T) {
	e := member{EndpointState: EndpointState{Trim: 0.02}}
	at := epoch
	step := func(done, failed float64) {
		e.since, at = Tick, at.Add(Tick)
		e.reading = &signals.Reading{From: at.Add(-6 * time.Second), To: at, Terms: needsErrors, Done: done, Failed: failed}
		w, _ := e.judges()
		e.trimTo(1, w)
	}
	if step(0, 10); e.Trim != 0.02 {
		t.Errorf("rose to %v without a success", e.Trim)
	}
	e.TrimTo = at
	for range 5 {
		step(30, 0)
	}
	if math.Abs(e.Trim/0.08-1) > 0.01 {
		t.Errorf("%v after 10 s of successes, want 0.08", e.Trim)
	}
	// One success is in three windows and counts in one.
	before := e.Trim
	for range 3 {
		step(1, 0)
	}
	if e.Trim > before*math.Exp2(6.0/5)*1.01 || e.Trim <= before {
		t.Errorf("from %v to %v by one success", before, e.Trim)
	}
}

// Failures that all have in common trim none; without an error counter nothing is said of errors but
// that.
func TestCommonFailures(t *testing.T) {
	p := newPlant(t, 300)
	for i := range 4 {
		p.add(address(i), 100)
		p.server(address(i)).failing = 0.3
	}
	p.server(address(3)).metrics = "no-errors"
	p.members()
	p.run(time.Minute)
	for i, e := range p.m.State().Endpoints {
		if i < 3 && e.Trim != 0 && e.Trim < 1 {
			t.Errorf("%s is trimmed to %v", e.Address, e.Trim)
		}
	}
	if !slices.ContainsFunc(p.last.Endpoints[3].Reasons, func(r Reason) bool { return r.Term == "errors" && r.Factor == 1 }) {
		t.Errorf("no reason says that errors are not known:\n%s", p.last.Endpoints[3].Describe())
	}
}

// An endpoint that failed and then fell silent keeps its health_score; its weight goes to the median.
func TestSilenceAfterFailures(t *testing.T) {
	p := newPlant(t, 300)
	for i := range 4 {
		p.add(address(i), 100)
	}
	p.server(address(3)).failing = 1
	p.members()
	p.run(time.Minute)
	p.server(address(3)).metrics = "off"
	p.run(10 * time.Minute)
	d := p.last.Endpoints[3]
	if d.HealthScore != 0 || d.PublishedHealthScore != 0 {
		t.Errorf("health_score %v by silence", d.HealthScore)
	}
	if math.Abs(d.Computed-1) > 0.05 {
		t.Errorf("not at the median:\n%s", d.Describe())
	}
	if health.TrimFloor != p.m.State().Endpoints[3].Trim {
		t.Errorf("the trim moved to %v", p.m.State().Endpoints[3].Trim)
	}
}
