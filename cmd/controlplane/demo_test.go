package main

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/source/dir"
)

func TestExamplesAreAccepted(t *testing.T) {
	for _, example := range []string{"demo", "eds-only/config"} {
		store, err := dir.Load(filepath.Join("..", "..", "examples", example))
		if err != nil {
			t.Fatal(err)
		}
		if problems, _ := check(store); len(problems) > 0 {
			t.Errorf("examples/%s: %v", example, problems)
		}
	}
	// Its Service is the reader's own, so only what it says by itself can be right.
	store, err := dir.Load("../../examples/quickstart")
	if err != nil || len(store.Problems) > 0 {
		t.Errorf("examples/quickstart: %v, %v", store.Problems, err)
	}
}

func TestDemoConfigurationTakesThePortsThatAreFree(t *testing.T) {
	config := t.TempDir()
	if err := writeDemoConfig(config, 20001, 20002); err != nil {
		t.Fatal(err)
	}
	store, err := dir.Load(config)
	if err != nil {
		t.Fatal(err)
	}
	if problems, _ := check(store); len(problems) > 0 {
		t.Fatal(problems)
	}
	var all strings.Builder
	files, _ := filepath.Glob(filepath.Join(config, "*.yaml"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	for text, times := range map[string]int{"port: 20001": 1, "port: 20002": 1, `prometheus.io/port: "20002"`: 1, "10080": 0, "18080": 0} {
		if got := strings.Count(all.String(), text); got != times {
			t.Errorf("%q stands %d times in the configuration, want %d", text, got, times)
		}
	}
}

func TestDemoChangesTheModeInTheFile(t *testing.T) {
	config := t.TempDir()
	if err := writeDemoConfig(config, demoGatewayPort, demoBackendPort); err != nil {
		t.Fatal(err)
	}
	policy := filepath.Join(config, "policy.yaml")
	original, _ := os.ReadFile(policy)
	if err := setMode(policy, "Enforce", "Equal"); err != nil {
		t.Fatal(err)
	}
	if err := setMode(policy, "Enforce", "Equal"); err == nil {
		t.Error("changed a mode that is not there")
	}
	if err := setMode(filepath.Join(config, "limits.yaml"), "Enforce", "Shadow"); err != nil {
		t.Error(err)
	}
	if changed, _ := os.ReadFile(policy); string(changed) != strings.Replace(string(original), "  mode: Enforce\n", "  mode: Equal\n", 1) {
		t.Errorf("the policy now reads\n%s", changed)
	}
}

func TestDemoWithoutEnvoySaysSoAndLeavesNothing(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	t.Setenv("ENVOY", "/nowhere/envoy")
	err := runDemo(t.Context(), io.Discard, demoOptions{measure: time.Second})
	if err == nil || !strings.Contains(err.Error(), "ENVOY=/nowhere/envoy") {
		t.Errorf("error %v, want one that names ENVOY", err)
	}
	if left, _ := os.ReadDir(temporary); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDemoConclusion(t *testing.T) {
	period := func(utilisations, weights []float64) measurement {
		return measurement{
			report: demo.Report{P99: time.Second}, utilisations: utilisations,
			requests: []float64{10, 20, 30}, weights: weights,
		}
	}
	uneven, even := []float64{0.9, 0.5, 0.4}, []float64{0.6, 0.6, 0.65}
	ranked := []float64{100, 200, 300}
	for name, c := range map[string]struct {
		before, after measurement
		want          string
	}{
		"better":            {period(uneven, nil), period(even, ranked), ""},
		"no more even":      {period(even, nil), period(uneven, ranked), "max/avg utilisation"},
		"weights ignored":   {period(uneven, nil), period(even, []float64{300, 200, 100}), "rank correlation -1.00"},
		"weights all equal": {period(uneven, nil), period(even, []float64{1000, 1000, 1000}), "rank correlation 0.00"},
		"nothing measured":  {period(nil, nil), period(nil, ranked), "max/avg utilisation"},
	} {
		var out strings.Builder
		c.before.weights = ranked
		err := (&rig{screen: demo.NewScreen(&out)}).conclude(c.before, c.after)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || exitCode(err) != exitRefused):
			t.Errorf("%s: error %v, want one about %q and exit code 1", name, err, c.want)
		}
	}
}

func TestDemoLimitConclusion(t *testing.T) {
	// In a period of two seconds.
	sent := func(answered, refused int) demo.Report {
		return demo.Report{To: 2 * time.Second, Requests: answered + refused, OK: answered, ByStatus: map[int]int{http.StatusTooManyRequests: refused}}
	}
	modest := tenantPeriod{"bolt", sent(20, 0), sent(20, 0)}
	for name, c := range map[string]struct {
		greedy, other tenantPeriod
		want          string
	}{
		"holds":              {tenantPeriod{"acme", sent(120, 0), sent(40, 80)}, modest, ""},
		"refuses in Shadow":  {tenantPeriod{"acme", sent(110, 10), sent(40, 80)}, modest, "acme was refused 5.0 requests/s before"},
		"refuses nobody":     {tenantPeriod{"acme", sent(120, 0), sent(120, 0)}, modest, "acme sends 60.0 requests/s, may send 20, and was refused 0.0"},
		"refuses too much":   {tenantPeriod{"acme", sent(120, 0), sent(10, 110)}, modest, "acme was answered 5.0 requests/s"},
		"refuses the modest": {tenantPeriod{"acme", sent(120, 0), sent(40, 80)}, tenantPeriod{"bolt", sent(20, 0), sent(19, 1)}, "bolt sends 10.0 requests/s"},
		"nothing comes":      {tenantPeriod{"acme", sent(120, 0), sent(40, 80)}, tenantPeriod{"bolt", sent(20, 0), sent(0, 0)}, "bolt was answered 0.0 requests/s"},
	} {
		var out strings.Builder
		err := (&rig{screen: demo.NewScreen(&out)}).concludeLimit(20, []tenantPeriod{c.greedy, c.other})
		if name == "holds" && !strings.Contains(out.String(), "acme       60 of 60/s      20 of 60/s                 40/s") {
			t.Errorf("it says\n%s", &out)
		}
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || exitCode(err) != exitRefused):
			t.Errorf("%s: error %v, want one about %q and exit code 1", name, err, c.want)
		}
	}
}

// TestDemoLimit: on the real program and a real Envoy the limit refuses who sends too much, and nobody else; and what
// is hinted at answers.
func TestDemoLimit(t *testing.T) {
	if _, err := demo.FindEnvoy(); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "controlplane")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var out strings.Builder
	r, err := startRig(t.Context(), demo.NewScreen(&out), dir, binary)
	if err != nil {
		t.Fatal(err)
	}
	defer r.stop()
	verdict, err := r.showLimit(t.Context())
	if err != nil || verdict != nil {
		t.Fatalf("%v, %v\n%s", err, verdict, &out)
	}
	for _, hint := range []struct{ args, want string }{
		{"limits", "demo/tenants/per-tenant"},
		{"explain limit demo/tenants/per-tenant --key X-Tenant=acme", "20/s, burst 20"},
	} {
		if got, err := run(t, append(strings.Fields(hint.args), "--admin", r.stack.AdminURL)...); err != nil || !strings.Contains(got, hint.want) {
			t.Errorf("%s: %v\n%s\nwant %q", hint.args, err, got, hint.want)
		}
	}
	if r.keepUp(); !strings.Contains(out.String(), "explain limit demo/tenants/per-tenant --key X-Tenant=acme --admin "+r.stack.AdminURL) {
		t.Errorf("it says\n%s", &out)
	}
}
