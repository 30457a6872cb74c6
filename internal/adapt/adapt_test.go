package adapt

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/transcript"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const tick = 2 * time.Second

func adaptation(by v1alpha1.AdaptBy) *v1alpha1.Adapt {
	return &v1alpha1.Adapt{
		By: by, Floor: new(0.2), Ceil: new(1.0), Step: new(0.05), Hold: &metav1.Duration{Duration: 10 * time.Second},
		Replicas: new(int32(4)),
		Metric:   &v1alpha1.AdaptMetric{Server: "main", Down: 100, Up: 50, For: &metav1.Duration{}},
	}
}

// Whatever the evidence: the factor stays within its bounds and on its steps, falls no later than the tick
// that asks for it, rises by no more than a step and never within hold of a move, and stands while frozen. A
// backlog takes from what is in force, and leaves nothing behind.
func TestFactorsAreBoundedAndDamped(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := adaptation(rapid.SampledFrom([]v1alpha1.AdaptBy{v1alpha1.AdaptByHealth, v1alpha1.AdaptByReplicas, v1alpha1.AdaptByMetric}).Draw(t, "by"))
		*a.Step = rapid.SampledFrom([]float64{0.01, 0.05, 0.1, 0.3, 1}).Draw(t, "step")
		*a.Floor = rapid.Float64Range(0.01, 1).Draw(t, "floor")
		*a.Ceil = rapid.Float64Range(*a.Floor, 10).Draw(t, "ceil")
		a.Hold.Duration = time.Duration(rapid.IntRange(1, 60).Draw(t, "hold")) * time.Second
		a.Metric.For.Duration = time.Duration(rapid.IntRange(0, 20).Draw(t, "for")) * time.Second
		var f Factor
		now, moved := noon, time.Time{}
		metric := Metric{Every: 5 * time.Second}
		for i := range rapid.IntRange(1, 60).Draw(t, "ticks") {
			now = now.Add(tick)
			e := Evidence{}
			for n := range rapid.IntRange(0, 3).Draw(t, "services") {
				ready := rapid.IntRange(0, 8).Draw(t, "ready")
				e.Services = append(e.Services, Service{
					Name: fmt.Sprint("s", n), Ready: ready, Stale: rapid.IntRange(0, ready).Draw(t, "stale"),
					Traffic: rapid.SampledFrom([]float64{0, 1, 1e9}).Draw(t, "traffic"),
					Ability: rapid.OneOf(rapid.Float64Range(0.1, 1), rapid.Just(math.NaN())).Draw(t, "ability"),
					Backlog: time.Duration(rapid.SampledFrom([]int64{0, 0, 3e8, 1e9, 1e10}).Draw(t, "backlog")),
				})
			}
			if rapid.Bool().Draw(t, "answered") {
				metric.At, metric.Value = now, rapid.SampledFrom([]float64{0, 75, 200, math.NaN(), math.Inf(1)}).Draw(t, "metric")
			}
			e.Metric = metric
			before, waits := f.Held, false
			d := f.Step(now, a, e)
			for _, s := range e.Services {
				waits = waits || s.Backlog > 0
			}
			if d.Held != f.Held || !(d.Held >= *a.Floor-negligible && d.Held <= *a.Ceil+negligible) ||
				d.Value > d.Held || d.Value < d.Held && (!waits || a.By != v1alpha1.AdaptByHealth || d.Frozen != "") {
				t.Fatalf("value %v, held %v (state %v) of %v..%v with %+v", d.Value, d.Held, f.Held, *a.Floor, *a.Ceil, e.Services)
			}
			if d.Value != f.Value || !(d.Value >= *a.Floor-negligible && d.Value <= *a.Ceil+negligible) {
				t.Fatalf("value %v (state %v) outside of %v..%v", d.Value, f.Value, *a.Floor, *a.Ceil)
			}
			if d.Why == "" && d.Frozen == "" {
				t.Fatal("it does not say why")
			}
			if i == 0 {
				moved = now
				continue
			}
			switch {
			case d.Frozen != "" && d.Held != before:
				t.Fatalf("%v -> %v while frozen: %s", before, d.Held, d.Frozen)
			case d.Held > before+negligible && (d.Held > before+*a.Step*1.5+negligible || now.Sub(moved) < a.Hold.Duration):
				t.Fatalf("%v -> %v, %v after the last move", before, d.Held, now.Sub(moved))
			case d.Frozen == "" && d.Wanted < d.Held-negligible:
				t.Fatalf("%v is wanted and it stands at %v", d.Wanted, d.Held)
			}
			if d.Held != before {
				moved = now
			}
		}
	})
}

// The factor is the ability of the services by traffic.
func TestHealthIsWeightedByTraffic(t *testing.T) {
	e := Evidence{Services: []Service{
		{Name: "shop/big:80", Traffic: 900, Ability: 1, Ready: 9},
		{Name: "shop/small:80", Traffic: 100, Ability: 0.5, Ready: 1},
		{Name: "shop/none:80", Traffic: 0, Ability: 0.1},
	}}
	var f Factor
	if d := f.Step(noon, adaptation(v1alpha1.AdaptByHealth), e); d.Value != 0.95 {
		t.Errorf("%v, want 0.95 = (900 + 0.5 * 100)/1000", d)
	}
	for i := range e.Services {
		e.Services[i].Traffic = 0
	}
	f = Factor{}
	if d := f.Step(noon, adaptation(v1alpha1.AdaptByHealth), e); d.Value != 0.75 {
		t.Errorf("%v, want 0.75, the mean of those that have endpoints", d)
	}
	e.Services[0].Unmeasured = "no BalancePolicy"
	if d := f.Step(noon.Add(time.Minute), adaptation(v1alpha1.AdaptByHealth), e); d.Value != 0.75 || d.Frozen == "" {
		t.Errorf("%v, want 0.75 held", d)
	}
}

// A restart goes on: the state through JSON decides the same.
func TestStateIsAllThereIs(t *testing.T) {
	a := adaptation(v1alpha1.AdaptByMetric)
	a.Metric.For.Duration = 8 * time.Second
	var f, g Factor
	for i := range 40 {
		now := noon.Add(time.Duration(i) * tick)
		e := Evidence{Metric: Metric{At: now, Every: 2 * time.Second, Value: []float64{200, 75, 10}[i/14]}}
		body, err := json.Marshal(g)
		if err != nil {
			t.Fatal(err)
		}
		g = Factor{}
		if err := json.Unmarshal(body, &g); err != nil {
			t.Fatal(err)
		}
		if d, e := f.Step(now, a, e), g.Step(now, a, e); d != e {
			t.Fatalf("tick %d: %v, and with its state saved %v", i, d, e)
		}
	}
}

// TestTranscripts plays testdata/*.txt. The commands:
//
//	adapt KEY=VALUE...               by, floor, ceil, step, hold, replicas, down, up, for
//	service NAME KEY=VALUE...        ready, stale, ability, traffic, backlog
//	metric VALUE | none | ERROR...   what the server answers from now on
//	run DURATION                     ticks of 2 s; tells each that moved the factor, and the last
func TestTranscripts(t *testing.T) {
	transcript.Test(t, func(t *testing.T) func([]string) string {
		return (&story{t: t, now: noon, adapt: adaptation(v1alpha1.AdaptByHealth)}).command
	})
}

type story struct {
	t      *testing.T
	now    time.Time
	adapt  *v1alpha1.Adapt
	factor Factor
	answer string
	e      Evidence
}

func (s *story) command(words []string) string {
	switch words[0] {
	case "adapt":
		for _, w := range words[1:] {
			k, v, _ := strings.Cut(w, "=")
			switch k {
			case "by":
				s.adapt.By = v1alpha1.AdaptBy(v)
			case "hold":
				s.adapt.Hold.Duration = s.duration(v)
			case "for":
				s.adapt.Metric.For.Duration = s.duration(v)
			case "replicas":
				*s.adapt.Replicas = int32(s.number(v))
			default:
				*map[string]*float64{"floor": s.adapt.Floor, "ceil": s.adapt.Ceil, "step": s.adapt.Step,
					"down": &s.adapt.Metric.Down, "up": &s.adapt.Metric.Up}[k] = s.number(v)
			}
		}
	case "service":
		at := -1
		for i := range s.e.Services {
			if s.e.Services[i].Name == words[1] {
				at = i
			}
		}
		if at < 0 {
			at = len(s.e.Services)
			s.e.Services = append(s.e.Services, Service{Name: words[1], Ability: 1})
		}
		for _, w := range words[2:] {
			k, v, _ := strings.Cut(w, "=")
			switch service := &s.e.Services[at]; k {
			case "ready":
				service.Ready = int(s.number(v))
			case "stale":
				service.Stale = int(s.number(v))
			case "ability":
				service.Ability = s.number(v)
			case "traffic":
				service.Traffic = s.number(v)
			case "backlog":
				service.Backlog = s.duration(v)
			default:
				s.t.Fatalf("service: no setting %q", k)
			}
		}
	case "metric":
		s.answer = strings.Join(words[1:], " ")
	case "run":
		var out strings.Builder
		var d Decision
		moved := false
		for end := s.now.Add(s.duration(words[1])); s.now.Before(end); {
			s.now = s.now.Add(tick)
			if v, err := strconv.ParseFloat(s.answer, 64); err == nil {
				s.e.Metric = Metric{At: s.now, Value: v, Every: tick}
			} else if s.answer != "none" {
				s.e.Metric.Error = s.answer
			}
			before := s.factor.Value
			d = s.factor.Step(s.now, s.adapt, s.e)
			if moved = d.Value != before; moved {
				fmt.Fprintf(&out, "%s %s\n", s.now.Format(time.TimeOnly), d.Describe())
			}
		}
		if !moved {
			fmt.Fprintf(&out, "%s %s\n", s.now.Format(time.TimeOnly), d.Describe())
		}
		return out.String()
	default:
		s.t.Fatalf("no command %q", words[0])
	}
	return ""
}

func (s *story) number(text string) float64 {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s *story) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}
