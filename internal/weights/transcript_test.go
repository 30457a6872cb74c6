package weights

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"evenkeel.io/controlplane/internal/transcript"
)

// TestTranscripts plays testdata/*.txt. The commands:
//
//	config KEY=VALUE...               mode, strategy, blend, slow-start, tilt, metadata, max-shed
//	load REQUESTS/S                   of the whole service
//	endpoint ADDRESS KEY=VALUE...     joins or changes: capacity, base, multiplier, metrics, instance,
//	                                  failing, hidden, sheds, claims (see server)
//	reports all | some                Envoys report what they see
//	remove ADDRESS
//	members                           tell the machine who is there
//	run DURATION                      ticks; tells the pushes and when they came
//	show | explain ADDRESS            the last decisions, one of them with its reasons
//	freeze REASON | unfreeze
//	restart                           a new machine from the state of the old one
func TestTranscripts(t *testing.T) {
	transcript.Test(t, func(t *testing.T) func([]string) string { return newPlant(t, 0).command })
}

func (p *plant) command(words []string) string {
	argument := strings.Join(words[1:], " ")
	switch words[0] {
	case "config":
		for k, v := range p.settings(words[1:]) {
			p.configure(k, v)
		}
	case "load":
		p.load = p.number(argument)
	case "endpoint":
		_, known := p.settings(words[2:])["capacity"]
		capacity := 0.0
		if known {
			capacity = p.number(p.settings(words[2:])["capacity"])
		} else {
			capacity = p.server(words[1]).capacity
		}
		e, s := p.add(words[1], capacity)
		for k, v := range p.settings(words[2:]) {
			switch k {
			case "capacity":
			case "base":
				e.Base = p.number(v)
			case "multiplier":
				e.Multiplier = p.number(v)
			case "failing":
				s.failing = p.number(v)
			case "hidden":
				s.hidden = p.number(v)
			case "claims":
				s.claims = p.number(v)
			case "sheds":
				s.sheds = v == "yes"
			case "queues":
				s.queues = v == "yes"
			case "stay":
				s.stay = p.number(v)
			case "metrics":
				s.metrics = v
			case "instance":
				e.Instance = v
			default:
				p.t.Fatalf("endpoint: no setting %q", k)
			}
		}
	case "reports":
		p.reports = argument
	case "remove":
		p.remove(argument)
	case "members":
		return told(p.members())
	case "run":
		d, err := time.ParseDuration(argument)
		if err != nil {
			p.t.Fatal(err)
		}
		before := len(p.pushes)
		p.run(d)
		var b strings.Builder
		for _, d := range p.pushes[before:] {
			b.WriteString(told(d))
		}
		if len(p.pushes) == before {
			return "nothing published\n"
		}
		return b.String()
	case "show":
		return p.last.Describe()
	case "explain":
		return p.last.Endpoints[p.index(argument)].Describe()
	case "freeze":
		p.m.Freeze(argument)
	case "unfreeze":
		p.m.Unfreeze()
	case "restart":
		p.m = restarted(p.t, p.m, p.now)
	default:
		p.t.Fatalf("no command %q", words[0])
	}
	return ""
}

// told is a publication in one line.
func told(d Decisions) string {
	if !d.Publish {
		return "nothing published\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s", d.At.Format(time.TimeOnly))
	for _, e := range d.Endpoints {
		fmt.Fprintf(&b, " %5d", e.Weight)
	}
	fmt.Fprintf(&b, "  %s\n", d.Cause)
	return b.String()
}

func restarted(t rapid.TB, m *Machine, now time.Time) *Machine {
	t.Helper()
	saved, err := json.Marshal(m.State())
	if err != nil {
		t.Fatal(err)
	}
	var state MachineState
	if err := json.Unmarshal(saved, &state); err != nil {
		t.Fatal(err)
	}
	again := NewMachine(m.service)
	if err := again.Restore(state, now); err != nil {
		t.Fatal(err)
	}
	return again
}

func (p *plant) configure(k, v string) {
	var err error
	switch c := &p.svc.Config; k {
	case "mode":
		c.Mode = Mode(v)
	case "strategy":
		c.Strategy = v
	case "blend":
		c.Blend = p.number(v)
	case "slow-start":
		c.SlowStart, err = time.ParseDuration(v)
	case "tilt":
		c.Tilt = p.number(v)
	case "metadata":
		c.Metadata = v == "on"
	case "max-shed":
		c.MaxShed = p.number(v)
	default:
		p.t.Fatalf("config: no setting %q", k)
	}
	if err == nil {
		err = p.svc.Config.Validate()
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) settings(words []string) map[string]string {
	out := map[string]string{}
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		out[k] = v
	}
	return out
}

func (p *plant) number(s string) float64 {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}
