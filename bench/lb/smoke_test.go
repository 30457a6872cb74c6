package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// TestAPlanOnARealEnvoy runs two arms side by side for a moment, goes on where nothing is left to be done,
// and reports. Its figures say nothing.
func TestAPlanOnARealEnvoy(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	envoy, err := demo.FindEnvoy()
	if errors.Is(err, demo.ErrNoEnvoy) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	p := plan{
		settings: settings{Warmup: time.Second, Settle: 200 * time.Millisecond, Window: 2 * time.Second},
		parts:    []part{{[]string{"even50"}, []entry{{ours, 1}, {plainLeast, 1}}}},
	}
	r := runner{settings: p.settings, binary: binary, envoy: envoy, results: t.TempDir(), lane: testLane + 6, busyLimit: 1}
	if r.made, err = newMaking(t.Context(), "go test", binary, envoy); err != nil {
		t.Fatal(err)
	}
	if strings.Count(r.made.Envoy, ".") != 2 {
		t.Errorf("Envoy's version is %q, want a number like 1.2.3", r.made.Envoy)
	}
	if err := r.execute(t.Context(), schedule(p, 2, false), 2, false, false); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.results, journalName)
	once, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	records, _, err := readRecords(path)
	if err != nil || len(records) != 2 {
		t.Fatalf("%v, %d runs, want 2", err, len(records))
	}
	for _, run := range records {
		if run.Requests == 0 || run.Latency.total == 0 || len(run.Utilisation) != 2 || len(run.Utilisation[0]) != standard.servers || run.Beside != 1 {
			t.Errorf("%s: %d requests, %d latencies, %d seconds, beside %d", run.trial, run.Requests, run.Latency.total, len(run.Utilisation), run.Beside)
		}
		if run.Pushes == nil {
			t.Errorf("%s: nobody counted the pushes", run.trial)
		}
	}
	if records[0].Requests != records[1].Requests {
		t.Errorf("%d and %d requests, want the same arrivals in both arms", records[0].Requests, records[1].Requests)
	}
	learnt, err := filepath.Glob(filepath.Join(r.results, "warm", "Capacity-*", "*"))
	if err != nil || len(learnt) == 0 {
		t.Errorf("%v, the warm-up left nothing", err)
	}
	if err := r.execute(t.Context(), schedule(p, 2, false), 2, false, false); err != nil {
		t.Fatal(err)
	}
	if twice, err := os.ReadFile(path); err != nil || !bytes.Equal(once, twice) {
		t.Errorf("%v, what was done was run again", err)
	}
	if err := reportCommand([]string{"report", "-results", r.results, "-out", t.TempDir()}); err != nil {
		t.Fatal(err)
	}
}
