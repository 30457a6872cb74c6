package main

import (
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain lets the test's own program be the server and the clients.
func TestMain(m *testing.M) {
	if child(os.Args) {
		return
	}
	goleak.VerifyTestMain(m)
}

// small is a bench of which every run takes a second or two.
func small() *bench {
	return &bench{pushes: 1, perConnection: 1, nodeBytes: 1000, idle: 200 * time.Millisecond, limit: 20 * time.Second}
}

// TestEveryScenarioRuns has each scenario measured on a few streams, and holds what does not depend on the
// machine against what the protocol says. Runs mostly wait for a server to be at rest, so many go at once.
func TestEveryScenarioRuns(t *testing.T) {
	const streams, clusters, atOnce = 5, 10, 6
	type tried struct {
		scenario scenario
		outcome
	}
	var runs []*tried
	var running sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, sc := range scenarios {
		for _, server := range []string{"ours", "floor", "bare", "stock", "linear"} {
			library := server == "stock" || server == "linear"
			if !sc.runs(server) || library && sc.name != "some" {
				continue
			}
			r := &tried{scenario: sc, outcome: outcome{server: server}}
			runs = append(runs, r)
			running.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				r.values, r.err = small().measure(t.Context(), sc.scaled(streams, clusters), server)
			})
		}
	}
	running.Wait()
	for _, r := range runs {
		t.Run(r.scenario.name+"/"+r.server, func(t *testing.T) {
			if r.err != nil {
				t.Fatal(r.err)
			}
			for _, c := range r.scenario.columns {
				pushed := c.key == "cpu" || c.key == "acked"
				if v, ok := r.values[c.key]; math.IsNaN(v) || !ok && (r.server != "bare" || !pushed) {
					t.Errorf("%s is missing or NaN: %v", c.key, r.values)
				}
			}
			for key, want := range map[string]map[string]float64{
				"all":     {"bodies": clusters, "responses": streams},
				"some":    {"bodies": 1, "responses": streams},
				"field":   {"manyResponses": streams},
				"restart": {"bodies": 0},
				"idle":    {"responses": 0},
			}[r.scenario.name] {
				if r.values[key] != want {
					t.Errorf("%s is %v, want %v", key, r.values[key], want)
				}
			}
			if r.scenario.name == "hostile" && r.values["toHostile"] == 0 {
				t.Error("nothing was sent to the hostile clients: were they there?")
			}
		})
	}
}

func TestARunOverMutualTLS(t *testing.T) {
	t.Parallel()
	b := small()
	var err error
	if b.certificates, err = newCertificates(); err != nil {
		t.Fatal(err)
	}
	b.perConnection = 3
	measured, err := b.measure(t.Context(), scenarios[0].scaled(5, 4), "ours")
	if err != nil || measured["bodies"] != 4 {
		t.Errorf("bodies per stream %v, want 4 (%v)", measured["bodies"], err)
	}
}

// TestClientsHaveTheirOwnConnections, as many as they are to: what one costs is half of what a stream costs.
func TestClientsHaveTheirOwnConnections(t *testing.T) {
	t.Parallel()
	for perConnection, want := range map[int]int{1: 40, 4: 10} {
		b := small()
		b.perConnection = perConnection
		r, err := b.start(t.Context(), scenarios[0].scaled(40, 2), "ours")
		if err != nil {
			t.Fatal(err)
		}
		defer r.stop()
		if _, err := r.open(t.Context(), r.clients, 40, acking, false); err != nil {
			t.Fatal(err)
		}
		if counts, err := r.count(t.Context()); err != nil || counts.Connections != want {
			t.Errorf("%d connections of %d streams each, want %d (%v)", counts.Connections, perConnection, want, err)
		}
	}
}

// TestWhatDoesNotComeIsAnError: a client that waits in vain fails the run, and says how far it got.
func TestWhatDoesNotComeIsAnError(t *testing.T) {
	t.Parallel()
	b := small()
	b.limit = time.Second
	r, err := b.start(t.Context(), scenarios[0].scaled(3, 2), "bare")
	if err != nil {
		t.Fatal(err)
	}
	defer r.stop()
	if _, err = r.open(t.Context(), r.clients, 3, acking, false); err == nil || !strings.Contains(err.Error(), "0 of 3 clients have everything: not within 1s") {
		t.Errorf("error %v, want one that tells how many clients have what within a second", err)
	}
}

func TestTargetsAreJudged(t *testing.T) {
	all := scenarios[0]
	of := map[string]values{"ours": {"perStream": 0.4}, "floor": {"perStream": 0.2}, "stock": {"perStream": 10}}
	for i, want := range map[int]string{
		0: "| CPU per stream and push, of the floor's | <= 2.0x | 2.0x | yes |",
		2: "| stock's CPU per stream and push, of ours | >= 50.0x | 25.0x | no |",
	} {
		if got := all.targets[i].row(of); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
	delete(of, "floor")
	if got := all.targets[0].row(of); !strings.HasSuffix(got, "| - | not measured |") {
		t.Errorf("without the floor: %s, want not measured", got)
	}
	of = map[string]values{"ours": {"heap": 41}, "bare": {"heap": 30}}
	for _, sc := range scenarios {
		if sc.name == "memory" {
			if got := sc.targets[0].row(of); !strings.HasSuffix(got, "| <= 8.0 KB | 11.0 KB | no |") {
				t.Errorf("11 KB above bare: %s", got)
			}
		}
	}
}

// TestTargetsNameColumns finds a target that takes a figure which no scenario makes.
func TestTargetsNameColumns(t *testing.T) {
	for _, sc := range scenarios {
		everything := map[string]values{}
		for _, k := range kinds {
			everything[k.name] = values{"slowestAcked": 1, "whole": 1}
			for _, c := range sc.columns {
				everything[k.name][c.key] = 1
			}
		}
		for _, target := range sc.targets {
			if math.IsNaN(target.value(everything)) {
				t.Errorf("%s: the target %q takes a figure that is not among the columns", sc.name, target.what)
			}
		}
	}
}

func TestAServerThatFailsIsInTheReport(t *testing.T) {
	var out strings.Builder
	scenarios[0].print(&out, []outcome{
		{server: "ours", values: values{"perStream": 0.25, "cpu": 25, "preparation": 3, "last": 9, "responses": 100, "bodies": 500}},
		{server: "stock", err: os.ErrDeadlineExceeded},
	})
	for _, want := range []string{
		"| ours | 0.250 | 25 | 3.0 | 9 | 100 | 500.0 |",
		"| stock | - | - | - | - | - | - |",
		"stock was not measured: i/o timeout.",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report has no line %s\n%s", want, out.String())
		}
	}
}

func TestQuantileIsOfTheNearestRank(t *testing.T) {
	var values []time.Duration
	for i := range 200 {
		values = append(values, time.Duration(200-i))
	}
	for q, want := range map[float64]time.Duration{0.5: 100, 0.99: 198, 0.991: 199, 1: 200} {
		if got := quantile(values, q); got != want {
			t.Errorf("the %v quantile of 1 to 200 is %d, want %d", q, got, want)
		}
	}
	if got := quantile(nil, 0.99); got != 0 {
		t.Errorf("of nothing: %d, want 0", got)
	}
}

func TestScaledKeepsThePartThatChanges(t *testing.T) {
	sc := scenario{shape: Shape{Clusters: 500, Endpoints: 20}, streams: 1000, changed: 25}
	if got := sc.scaled(0, 100); got.changed != 5 || got.streams != 1000 || got.shape.Clusters != 100 {
		t.Errorf("%+v, want 5 of 100 clusters changed on 1000 streams", got)
	}
	if got := sc.scaled(7, 3); got.changed != 1 || got.streams != 7 {
		t.Errorf("%+v, want at least one changed, on 7 streams", got)
	}
}

func TestUnknownNamesAreRefused(t *testing.T) {
	if _, err := choose("-server", "ours,nginx", kinds, kindName); err == nil || !strings.Contains(err.Error(), `"nginx"`) || !strings.Contains(err.Error(), "linear") {
		t.Errorf("error %v, want one that names nginx and lists the servers", err)
	}
	if _, err := choose("-scenario", "al", scenarios, scenarioName); err == nil || !strings.Contains(err.Error(), `"al"`) {
		t.Errorf("error %v, want one that names al", err)
	}
}

func TestDescriptorsThatNobodyMayHaveAreRefused(t *testing.T) {
	if err := allowDescriptors(10, 1); err != nil {
		t.Errorf("ten streams: %v", err)
	}
	if err := allowDescriptors(math.MaxInt32, 1); err == nil || !strings.Contains(err.Error(), "ulimit -Hn") {
		t.Errorf("error %v, want one that says what to do", err)
	}
}

func TestKilobytesAreReadFromStatus(t *testing.T) {
	status := []byte("Name:\tdelivery\nVmHWM:\t   20 kB\nVmRSS:\t   12 kB\n")
	if got, err := kilobytes(status, "VmRSS:"); err != nil || got != 12<<10 {
		t.Errorf("%d, %v, want 12 KiB", got, err)
	}
	if _, err := kilobytes(status, "VmSwap:"); err == nil {
		t.Error("a field that is missing is no error")
	}
}
