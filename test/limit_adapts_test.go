package test

import (
	"flag"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/demo"
)

// What the backends of TestALimitFollowsItsBackends can do, and what they are asked for.
const (
	allThey   = 300 // requests/s of both at their full speed
	permitted = 240 // of the limit
	overload  = 1.2 // of what they can do at half their speed

	step = 0.05 // of the example

	// learned is how long to wait until it is known what is usual, which a backlog is told by, and a loss that no
	// CPU shows.
	learned = 70 * time.Second
)

// The example's hold is 10 s.
var (
	hold  = flag.Duration("hold", 2*time.Second, "what the limit of TestALimitFollowsItsBackends holds before it rises by a step")
	phase = flag.Duration("phase", 3*time.Second, "how long TestALimitFollowsItsBackends measures each latency")
)

// TestALimitFollowsItsBackends has both backends of examples/limits/adaptive lose half of what they can do, while
// they are asked for more than that: the limit falls to about a half, at the service and at the client, and rises by
// single steps when they have recovered. It logs how long that took and what admitted requests had to wait for.
// docs/benchmarks/limits-adaptive.md has what it printed:
//
//	go test ./test -run TestALimitFollowsItsBackends/shown -v -args -hold 10s -phase 20s
func TestALimitFollowsItsBackends(t *testing.T) {
	for _, loss := range []struct {
		name string
		to   func(b *demo.Backend, part float64) error
	}{
		{"shown by CPU", (*demo.Backend).SetSpeed},
		{"hidden", func(b *demo.Backend, part float64) error { return b.SetHiddenSlowdown(1 / part) }},
	} {
		t.Run(loss.name, func(t *testing.T) {
			t.Parallel() // to measure, run one alone: /shown or /hidden
			r := newRig(t, 0)
			r.limitExampleOn(demo.BackendConfig{Work: demo.Distribution{Shape: demo.Exponential, Mean: 4 * time.Second / allThey}}, 2)
			r.writeLimitExample("adaptive",
				"requests: 400, per: 1s, burst: 100", fmt.Sprintf("requests: %v, per: 1s, burst: %v", permitted, permitted/4),
				"kind: Service\n    name: api", fmt.Sprintf("kind: Service\n    name: api\n  capacity: {configuredRequestsPerSecond: %v}", 280), "hold: 10s", "hold: "+hold.String())
			r.start("--rls-timeout", "2s")
			r.startEnvoy("shop/edge")
			speed := func(part float64) {
				t.Helper()
				for _, b := range r.backends {
					if err := loss.to(b, part); err != nil {
						t.Fatal(err)
					}
				}
			}
			quiet := func(when string) demo.Report {
				t.Helper()
				stop := r.load(0.1 * allThey)
				time.Sleep(*phase)
				report := stop()
				r.logged("unloaded, "+when, report)
				return report
			}

			asked := overload * allThey / 2.
			stop := r.load(asked)
			r.within(2*time.Minute, "both backends are measured and the limit is whole", func() error { return r.factorWithin(0.9, 1) })
			time.Sleep(learned)
			stop()
			quiet("at full speed")

			stop = r.load(asked)
			time.Sleep(5 * time.Second) // a load that is there already, and a bucket as it leaves it
			speed(0.5)
			took := r.within(2*time.Minute, "the limit follows its backends down", func() error { return r.factorWithin(0.2, 0.6) })
			l := r.adaptive()
			t.Logf("the limit followed after %.1f s: %v/s instead of %v/s", took.Seconds(), l.Now.Rate, permitted)
			if want := permitted * l.Factor; math.Abs(l.Now.Rate-want) > 1 {
				t.Errorf("%v/s are in force, want %v = %v x %v", l.Now.Rate, want, permitted, l.Factor)
			}
			r.logged("while it followed", stop())

			stop = r.load(asked)
			r.eventually("clients are told", func() error {
				told, _, _ := strings.Cut(r.ask("/").Header.Get("x-ratelimit-limit"), ",")
				if told != fmt.Sprint(math.Round(permitted*r.adaptive().Factor)) {
					return fmt.Errorf("x-ratelimit-limit %q, the factor is %v", told, r.adaptive().Factor)
				}
				return nil
			})
			time.Sleep(*phase)
			r.logged("just after, with what had piled up and the burst", stop())

			stop = r.load(asked)
			time.Sleep(*phase)
			over := stop()
			if most := 0.7*permitted*over.To.Seconds() + permitted/4; float64(over.OK) > most || over.ByStatus[http.StatusTooManyRequests] == 0 {
				t.Errorf("answers %v in %v, want at most %.0f admitted and the others refused", over.ByStatus, over.To, most)
			}
			alone := quiet("at half of it")
			stop = r.load(asked)
			time.Sleep(*phase)
			r.logged("again, after they had little to do", stop())
			r.logged(fmt.Sprintf("at %v times what they can do", overload), over)
			t.Logf("p99 is %.2f times that of unloaded ones; the limit is %s", over.P99.Seconds()/alone.P99.Seconds(), r.adaptive().Adapt.Describe())

			speed(1)
			stop = r.load(asked)
			began := time.Now()
			before, at := r.adaptive().Adapt.Held, time.Now()
			r.within(5*time.Minute, "the limit follows them up", func() error {
				factor, now := r.adaptive().Adapt.Held, time.Now()
				// A step for each hold that passed since it was last looked at, and one that began before.
				if steps := 1 + now.Sub(at).Seconds()/hold.Seconds(); factor > before+step*math.Floor(steps)+1e-6 {
					t.Fatalf("the factor rose from %v to %v within %v", before, factor, now.Sub(at))
				}
				if factor != before {
					t.Logf("%.0f s after the recovery it is %v", now.Sub(began).Seconds(), factor)
				}
				before, at = factor, now
				return r.factorWithin(0.9, 1)
			})
			stop()
		})
	}
}

func (r *rig) logged(when string, report demo.Report) {
	r.t.Helper()
	r.t.Logf("%s: p50 %v, p99 %v, %.0f/s admitted, answers %v", when, report.P50.Round(time.Millisecond), report.P99.Round(time.Millisecond),
		float64(report.OK)/report.To.Seconds(), report.ByStatus)
}

// adaptive is the only limit, as the admin port has it.
func (r *rig) adaptive() admin.LimitView {
	r.t.Helper()
	var view admin.LimitsView
	if err := demo.GetJSON(r.t.Context(), r.adminURL("/limits"), &view); err != nil {
		r.t.Fatal(err)
	}
	if len(view.Limits) != 1 {
		return admin.LimitView{}
	}
	return view.Limits[0]
}

func (r *rig) factorWithin(low, high float64) error {
	r.t.Helper()
	if l := r.adaptive(); l.Adapt == nil || l.Adapt.Frozen != "" || l.Factor < low || l.Factor > high {
		return fmt.Errorf("factor %v, want %v to %v: %+v", l.Factor, low, high, l.Adapt)
	}
	return nil
}
