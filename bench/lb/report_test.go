package main

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata anew")

func fixtures() []record {
	var records []record
	for repetition := 1; repetition <= 3; repetition++ {
		spread := time.Duration(repetition) * time.Millisecond
		records = append(records,
			fixture("hidden", plainLeast, repetition, 290*time.Millisecond),
			fixture("hidden", ours, repetition, 190*time.Millisecond+spread),
			fixture("hidden", "PID", repetition, 150*time.Millisecond-spread),
			fixture("uneven", plainLeast, repetition, 200*time.Millisecond),
			fixture("uneven", oracle, repetition, 140*time.Millisecond),
			fixture("uneven", ours, repetition, 142*time.Millisecond+spread),
		)
	}
	tooBusy := fixture("uneven", plainLeast, 4, 900*time.Millisecond)
	tooBusy.Counted, tooBusy.Busy = false, 0.95
	return append(records, tooBusy)
}

// TestReport holds the report of a few runs against testdata/report.md; -update writes it.
func TestReport(t *testing.T) {
	dir := t.TempDir()
	remarks := filepath.Join(dir, "remarks.md")
	if err := os.WriteFile(remarks, []byte("By hand: a remark.\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(dir, plotPrefix+"utilisation-gone.svg")
	if err := os.WriteFile(stale, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writeReport(dir, remarks, fixtures()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "lb.md"))
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/report.md"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("the report is not %s (-update writes it):\n%s", golden, got)
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("the plot of an earlier report is still there")
	}
	plots, _ := filepath.Glob(filepath.Join(dir, "*.svg"))
	if len(plots) != 4 {
		t.Errorf("plots %v, want two of each scenario", plots)
	}
	for _, path := range plots {
		if !strings.Contains(string(got), "("+filepath.Base(path)+")") {
			t.Errorf("the report does not show %s", path)
		}
		wellFormed(t, path)
	}
}

func wellFormed(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	decoder := xml.NewDecoder(strings.NewReader(string(text)))
	lines := 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if element, ok := token.(xml.StartElement); ok && element.Name.Local == "polyline" {
			lines++
		}
	}
	if lines < 2 {
		t.Errorf("%s has %d lines, want one for each server or arm", path, lines)
	}
	if strings.Contains(string(text), "NaN") {
		t.Errorf("%s has a point that is none", path)
	}
}

// TestNamesInPlotsAreEscaped: an arm may be called anything.
func TestNamesInPlotsAreEscaped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.svg")
	s := studies([]record{fixture("uneven", `<a> & "b"`, 1, time.Millisecond), fixture("uneven", ours, 1, time.Millisecond)})[0]
	svg, ok := drawLatency(s)
	if !ok {
		t.Fatal("nothing drawn")
	}
	if err := os.WriteFile(path, []byte(svg), 0o644); err != nil {
		t.Fatal(err)
	}
	wellFormed(t, path)
}

// TestBarsAreJudgedBothWays: each verdict follows from the figures.
func TestBarsAreJudgedBothWays(t *testing.T) {
	of := func(scenario string, mine, theirs time.Duration) []*study {
		var records []record
		for n := 1; n <= 2; n++ {
			records = append(records, fixture(scenario, ours, n, mine), fixture(scenario, plainLeast, n, theirs), fixture(scenario, oracle, n, theirs))
		}
		return studies(records)
	}
	verdictIn := func(s []*study, scenario, measure string) verdict {
		for _, j := range judge(s) {
			if j.scenario == scenario && j.measure == measure {
				return j.verdict
			}
		}
		return "no such bar"
	}
	for _, test := range []struct {
		scenario     string
		mine, theirs time.Duration
		want         verdict
	}{
		{"even", 107 * time.Millisecond, 100 * time.Millisecond, met},
		{"even", 110 * time.Millisecond, 100 * time.Millisecond, missed},
		{"fourEnvoys", 109 * time.Millisecond, 100 * time.Millisecond, met},
		{"fourEnvoys", 113 * time.Millisecond, 100 * time.Millisecond, missed},
		{"pauses", 98 * time.Millisecond, 100 * time.Millisecond, met},
		{"pauses", 102 * time.Millisecond, 100 * time.Millisecond, missed},
	} {
		if got := verdictIn(of(test.scenario, test.mine, test.theirs), test.scenario, "p99"); got != test.want {
			t.Errorf("%s, %s against %s: %s, want %s", test.scenario, test.mine, test.theirs, got, test.want)
		}
	}
	worse := of("killed", time.Millisecond, time.Millisecond)
	if got := verdictIn(worse, "killed", "goodput"); got != met {
		t.Errorf("killed, equal goodput: %s, want %s", got, met)
	}
	for i := range worse[0].runs[ours] {
		worse[0].runs[ours][i].Good -= 4
	}
	if got := verdictIn(worse, "killed", "goodput"); got != missed {
		t.Errorf("killed, 0.04 points less: %s, want %s", got, missed)
	}
	errorsHalved := of("sinkhole", time.Millisecond, time.Millisecond)
	if got := verdictIn(errorsHalved, "sinkhole", "errors seen by clients"); got != missed {
		t.Errorf("as many errors: %s, want %s", got, missed)
	}
}
