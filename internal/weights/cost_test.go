package weights

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"evenkeel.io/controlplane/internal/signals"
)

// An endpoint's memory, its strings aside, is under 1 KB; what the working space of a tick holds besides is
// bounded. Neither grows, whatever happens, and a tick allocates no more than its Decisions.
func TestMemory(t *testing.T) {
	if size := unsafe.Sizeof(member{}); size > 1000 {
		t.Errorf("%d bytes an endpoint", size)
	}
	const n = 20
	p := newPlant(t, 100*n)
	p.noise = rand.New(rand.NewPCG(9, 9))
	for i := range n {
		_, s := p.add(fmt.Sprintf("10.0.1.%03d:80", i), 200)
		s.failing, s.hidden = float64(i%7)/10, float64(i%5)
	}
	p.members()
	step := func() {
		p.now = p.now.Add(Tick)
		for i := range p.read {
			r := &p.read[i]
			r.From, r.To = r.From.Add(Tick), p.now
			r.CPU = 0.2 + 0.6*p.noise.Float64()
			r.P50 = time.Duration(1 + p.noise.IntN(1e8))
		}
		p.noise.Shuffle(len(p.read), func(i, j int) { p.read[i], p.read[j] = p.read[j], p.read[i] })
		p.m.Step(p.now, p.svc, p.read)
	}
	p.tick()
	p.noise = rand.New(rand.NewPCG(9, 9))
	for range 100 {
		step()
	}
	held := func() int {
		s := &p.m.scratch
		return cap(p.m.members) + cap(p.m.gone) + cap(s.w) + cap(s.sorted) + cap(s.log) + cap(s.endpoints) + cap(s.addresses) + cap(s.bases) + cap(s.whose)
	}
	before := held()
	for range 10_000 {
		step()
	}
	if after := held(); after > before*5/4 {
		t.Errorf("after 10,000 steps it holds %d elements, before %d", after, before)
	}
	// The tick, its Decisions, their reasons, the words of a strain, and now and then those of a push.
	if allocations := testing.AllocsPerRun(1000, step); allocations > 14 {
		t.Errorf("%v allocations a step", allocations)
	}
}

// BenchmarkStep is a tick of a Service whose endpoints are well, and of one where most have something:
// failures, a hidden slowdown, no readings, a slow start, a base and a multiplier of their own.
func BenchmarkStep(b *testing.B) {
	const n = 1000
	for _, trouble := range []bool{false, true} {
		name := map[bool]string{false: "well", true: "trouble"}[trouble]
		b.Run(name, func(b *testing.B) {
			svc := Service{Name: shop, Config: DefaultConfig(), PickingWorkers: 4}
			readings := make([]signals.Reading, n)
			for i := range n {
				a := fmt.Sprintf("10.0.%d.%d:80", i>>8, i&255)
				svc.Endpoints = append(svc.Endpoints, Endpoint{Key: key(a), Base: 1, Multiplier: 1})
				readings[i] = reading(epoch, a, float64(50+i%100), 0.5)
				readings[i].Terms |= needsErrors | needsPressure
				readings[i].P50 = time.Duration(10+i%7) * time.Millisecond
			}
			m := NewMachine(shop)
			now := epoch
			step := func() {
				now = now.Add(Tick)
				for i := range readings {
					readings[i].From, readings[i].To = now.Add(-Tick), now
				}
				m.Step(now, svc, readings)
			}
			for range 100 {
				step()
			}
			for i := range n {
				if !trouble {
					break
				}
				switch e, r := &svc.Endpoints[i], &readings[i]; i % 6 {
				case 0:
					r.Failed = r.Done / 5
				case 1:
					r.P50 *= 3
				case 2:
					r.Endpoint.Service = "another"
				case 3:
					e.ReadySince = now
					e.Base = float64(1 + i%5)
				case 4:
					e.Multiplier = 2
				}
			}
			svc.Config.SlowStart = 15 * time.Minute
			b.ReportAllocs()
			for b.Loop() {
				step()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/endpoint")
		})
	}
}
