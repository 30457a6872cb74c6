package manifests

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"evenkeel.io/controlplane/internal/demo"
)

const monitoring = root + "/components/prometheus/"

// expressions are all of PromQL that we ship, by what they are of.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	var rules struct {
		Spec struct {
			Groups []struct {
				Rules []struct{ Alert, Expr string }
			}
		}
	}
	readYAML(t, monitoring+"rules.yaml", &rules)
	all := map[string]string{}
	for _, g := range rules.Spec.Groups {
		for _, r := range g.Rules {
			all[r.Alert] = r.Expr
		}
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
		Templating struct {
			List []struct{ Name, Query, Type string }
		}
	}
	content, err := os.ReadFile(monitoring + "evenkeel.json")
	if err == nil {
		err = json.Unmarshal(content, &dashboard)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			all[p.Title+" "+target.RefID] = target.Expr
		}
	}
	for _, v := range dashboard.Templating.List {
		if metric, ok := strings.CutPrefix(v.Query, "label_values("); ok {
			metric, _, _ = strings.Cut(metric, ",")
			all["variable "+v.Name] = metric
		}
	}
	return all
}

func readYAML(t *testing.T, file string, into any) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(content, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// TestMetricsExist: alerts and dashboard ask for metrics that the program has, by labels that they have. The
// reference is made of the program's own registry.
func TestMetricsExist(t *testing.T) {
	reference, err := os.ReadFile("../../docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(evenkeel_[a-z_]+)` \\| (.*?) \\|").FindAllStringSubmatch(string(reference), -1) {
		for _, label := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[2], -1) {
			labels[row[1]] = append(labels[row[1]], label[1])
		}
		labels[row[1]] = append(labels[row[1]], "pod", "namespace", "job") // which Prometheus adds
	}
	metric := regexp.MustCompile(`(evenkeel_[a-z_]+)(?:\{([^}]*)\})?`)
	for name, expr := range expressions(t) {
		for _, use := range metric.FindAllStringSubmatch(expr, -1) {
			known, ok := labels[use[1]]
			if !ok {
				known, ok = labels[strings.TrimSuffix(use[1], "_bucket")]
				known = append(slices.Clone(known), "le")
			}
			if !ok {
				t.Errorf("%s: there is no metric %s", name, use[1])
			}
			for _, matcher := range regexp.MustCompile(`([a-z_]+)\s*[=!]`).FindAllStringSubmatch(use[2], -1) {
				// Constant labels are not in the reference.
				if label := matcher[1]; !slices.Contains(known, label) && label != "health" && label != "certificate" {
					t.Errorf("%s: %s has no label %s", name, use[1], label)
				}
			}
		}
	}
}

// TestAlertsAreInTheRunbook: whoever is woken up finds what to do.
func TestAlertsAreInTheRunbook(t *testing.T) {
	runbook, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range expressions(t) {
		if strings.HasPrefix(name, "Evenkeel") && !strings.Contains(string(runbook), "`"+name+"`") {
			t.Errorf("docs/runbook.md has nothing on %s", name)
		}
	}
}

// TestAlerts has promtool check the alerts and the expressions of the dashboard, and try the alerts on the
// series of testdata/alerts.yaml.
func TestAlerts(t *testing.T) {
	promtool := findPromtool(t)
	var object struct {
		Spec struct {
			Groups []map[string]any `json:"groups"`
		} `json:"spec"`
	}
	readYAML(t, monitoring+"rules.yaml", &object)
	var panels []map[string]any
	for name, expr := range expressions(t) {
		expr = strings.NewReplacer("$__rate_interval", "1m", "$service", ".*", "$fleet", ".*").Replace(expr)
		panels = append(panels, map[string]any{"record": "r" + regexp.MustCompile(`\W`).ReplaceAllString(name, "_"), "expr": expr})
	}
	groups := append(object.Spec.Groups, map[string]any{"name": "dashboard", "rules": panels})
	text, err := yaml.Marshal(map[string]any{"groups": groups})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cases, err := os.ReadFile("testdata/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"rules.yaml": text, "alerts.yaml": cases} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"check", "rules", "--lint=none", "rules.yaml"}, {"test", "rules", "alerts.yaml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// findPromtool finds the one that comes with Prometheus.
func findPromtool(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("promtool"); err == nil {
		return path
	}
	if prometheus, err := demo.FindTool("prometheus"); err == nil {
		if prometheus, err = filepath.EvalSymlinks(prometheus); err == nil {
			if path := filepath.Join(filepath.Dir(prometheus), "promtool"); exec.Command(path, "--version").Run() == nil {
				return path
			}
		}
	}
	t.Skip("no promtool: hack/tools.sh prometheus fetches one")
	return ""
}
