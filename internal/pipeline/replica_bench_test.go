package pipeline

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"evenkeel.io/controlplane/internal/replica"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/source"
)

// BenchmarkFollowing is a tick of 1000 services of 10 endpoints that are all measured: what a leader tells, and
// what it costs the two. The weights of few are published; the states of a fifth are told.
func BenchmarkFollowing(b *testing.B) {
	var documents strings.Builder
	for i := range 1000 {
		var endpoints []string
		for e := range 10 {
			endpoints = append(endpoints, fmt.Sprintf("{addresses: [10.%d.%d.%d]}", i/250, i%250, e+1))
		}
		documents.WriteString(strings.Replace(shop(fmt.Sprintf("s%d", i), 0), "endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]", "endpoints: ["+strings.Join(endpoints, ", ")+"]", 1))
		documents.WriteString("---\n")
	}
	objects := store(b, gateway, documents.String())
	p := newPair()
	p.leader.rebuild(p.now, source.Update{Store: objects})
	p.follower.rebuild(p.now, source.Update{Store: objects})
	p.leader.takeTold(p.now)
	read := func() (out []signals.Reading) {
		for i := range 1000 {
			for e := range 10 {
				r := measured(fmt.Sprintf("shop/s%d:80", i), 0, p.now)[e%2]
				r.Endpoint.Address = fmt.Sprintf("10.%d.%d.%d:8080", i/250, i%250, e+1)
				r.Done += float64((i*7 + e*13 + int(p.now.Unix())) % 50)
				out = append(out, r)
			}
		}
		return out
	}
	for range 60 {
		p.now = p.now.Add(Tick)
		p.leader.step(p.now, read())
		p.leader.takeTold(p.now)
	}
	var sent, packed, services int
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		p.now = p.now.Add(Tick)
		p.leader.step(p.now, read())
		b.StartTimer()
		told := p.leader.takeTold(p.now)
		services += len(told.Services)
		body, err := json.Marshal(told)
		if err != nil {
			b.Fatal(err)
		}
		var wire bytes.Buffer
		z := gzip.NewWriter(&wire)
		_, _ = z.Write(body)
		z.Close()
		sent, packed = sent+len(body), packed+wire.Len()
		r, err := gzip.NewReader(&wire)
		if err != nil {
			b.Fatal(err)
		}
		got, _ := io.ReadAll(r)
		var heard replica.Told
		if err := json.Unmarshal(got, &heard); err != nil {
			b.Fatal(err)
		}
		p.follower.hear(p.now, replica.Event{Told: &heard})
	}
	b.ReportMetric(float64(services)/float64(b.N), "services/tick")
	b.ReportMetric(float64(sent)/float64(b.N)/Tick.Seconds(), "B/s")
	b.ReportMetric(float64(packed)/float64(b.N)/Tick.Seconds(), "packed-B/s")
}
