package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestJournalGoesOnAfterACutLine(t *testing.T) {
	dir := t.TempDir()
	book, records, err := openJournal(dir)
	if err != nil || len(records) != 0 {
		t.Fatalf("%v, %d records", err, len(records))
	}
	first := fixture("uneven", ours, 1, 300*time.Millisecond)
	if err := book.append(first); err != nil {
		t.Fatal(err)
	}
	book.close()
	path := filepath.Join(dir, journalName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(whole, whole[:len(whole)/2]...), 0o644); err != nil {
		t.Fatal(err)
	}
	book, records, err = openJournal(dir)
	if err != nil || len(records) != 1 {
		t.Fatalf("%v, %d records, want the whole one", err, len(records))
	}
	if got := records[0]; got.trial != first.trial || got.settings != first.settings || got.Latency != first.Latency || *got.Pushes != *first.Pushes {
		t.Errorf("read %+v, written %+v", got, first)
	}
	second := fixture("uneven", ours, 2, 300*time.Millisecond)
	if err := book.append(second); err != nil {
		t.Fatal(err)
	}
	book.close()
	if records, _, err = readRecords(path); err != nil || len(records) != 2 || records[1].Repetition != 2 {
		t.Errorf("%v, %d records, want two", err, len(records))
	}
}

func TestJournalNamesABadLine(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, journalName), []byte("{}\n{\"requests\": \"many\"}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openJournal(dir); err == nil || !strings.Contains(err.Error(), journalName+":2") {
		t.Errorf("error %v, want one that names line 2", err)
	}
}

func TestRunsOfOtherTimesAreNotMixed(t *testing.T) {
	dir := t.TempDir()
	book, _, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := book.append(fixture("uneven", ours, 1, time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	book.close()
	r := runner{settings: settings{Window: time.Hour}, results: dir}
	if err := r.execute(t.Context(), schedule(example(), 3, false), 3, false, false); err == nil || !strings.Contains(err.Error(), "another folder") {
		t.Errorf("error %v, want one that asks for another folder", err)
	}
}

func TestTheLastRunOfATrialCounts(t *testing.T) {
	busy, calm := fixture("uneven", ours, 1, time.Millisecond), fixture("uneven", ours, 1, time.Millisecond)
	busy.Counted = false
	if got := latest([]record{busy, calm}); len(got) != 1 || !got[0].Counted {
		t.Errorf("%d records left, want the second", len(got))
	}
}

// fixture is a run of which all requests took about the given latency, with 1 % twice that.
func fixture(scenario, arm string, repetition int, latency time.Duration) record {
	pushes := 12.0
	r := record{
		trial:    trial{scenario, arm, repetition},
		settings: settings{Warmup: 3 * time.Minute, Settle: 12 * time.Second, Window: 30 * time.Second},
		Began:    time.Date(2026, 3, 1, 12, repetition, 0, 0, time.UTC),
		Made:     making{Command: "go run ./bench/lb run", ControlPlane: "0123456789ab", Revision: "fedcba9876543210", Envoy: "1.40.0", Go: "go1.26", CPUs: 2, System: "linux/amd64"},
		Beside:   1, Requests: 10000, Good: 9998, Errors: 1, TimedOut: 1,
		Speeds: []float64{1, 4}, Pushes: &pushes, Busy: 0.5, Counted: true,
	}
	if scenario == "hidden" {
		r.FaultAt = 5 * time.Second
	}
	for range 9700 {
		r.Latency.add(latency)
	}
	for range 299 {
		r.Latency.add(2 * latency)
	}
	for s := range 30 {
		first := ratio(0.7)
		if arm == plainLeast {
			first = 0.9
		}
		r.Utilisation = append(r.Utilisation, []ratio{first, 0.65})
		arrivals := []uint64{100, 300}
		if scenario == "hidden" && s >= 8 {
			arrivals = []uint64{50, 350}
		}
		r.Arrivals = append(r.Arrivals, arrivals)
	}
	return r
}
