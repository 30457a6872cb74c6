package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/source/dir"
)

//go:generate go test . -run TestReference -update

var update = flag.Bool("update", false, "rewrite what the test compares with")

// TestReference holds docs/reference against the code it is made from.
func TestReference(t *testing.T) {
	for name, page := range map[string]string{
		"command-line.md":  commandLine(),
		"balancepolicy.md": policyFields(t, "BalancePolicy", v1alpha1.DefaultBalance()),
		"limitpolicy.md":   policyFields(t, "LimitPolicy", limitDefaults()),
		"metrics.md":       metricsPage(t),
	} {
		path := filepath.Join("..", "..", "docs", "reference", name)
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		have, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(have) != page {
			t.Errorf("docs/reference/%s does not say what the code says: run make generate", name)
		}
	}
}

func commandLine() string {
	var b strings.Builder
	b.WriteString("# Command line\n\nMade from the code by `make generate`.\n\n")
	root := newRootCommand()
	fmt.Fprintf(&b, "%s\n", root.Long)
	for _, c := range root.Commands() {
		if c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n    %s\n\n%s\n", c.Name(), c.UseLine(), strings.TrimSpace(longOrShort(c)))
		if c.Example != "" {
			fmt.Fprintf(&b, "\n```sh\n%s\n```\n", c.Example)
		}
		if !c.LocalFlags().HasAvailableFlags() {
			continue
		}
		b.WriteString("\n| flag | environment | default | |\n|---|---|---|---|\n")
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name == "help" {
				return
			}
			value := f.DefValue
			if f.Name == "node-id" {
				value = "the host's name"
			}
			fmt.Fprintf(&b, "| `--%s` | `%s` | %s | %s |\n", f.Name, environmentName(f.Name), value, cell(f.Usage))
		})
	}
	return b.String()
}

func longOrShort(c *cobra.Command) string {
	if c.Long != "" {
		return c.Long
	}
	return c.Short
}

// limitDefaults is a LimitPolicy that says nothing, completed, with a limit that has all of its parts.
func limitDefaults() v1alpha1.LimitPolicySpec {
	limit := v1alpha1.Limit{Adapt: &v1alpha1.Adapt{Metric: &v1alpha1.AdaptMetric{}}, Reply: &v1alpha1.Reply{}}
	return v1alpha1.LimitPolicySpec{Limits: []v1alpha1.Limit{limit}}.WithDefaults()
}

// policyFields is a table of the spec of a kind from the Go types' comments and the defaults.
func policyFields(t *testing.T, kind string, complete any) string {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, filepath.Join("..", "..", "api", "v1alpha1", strings.ToLower(kind)+"_types.go"), nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	structs, docs := map[string]*ast.StructType{}, map[string]string{}
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range gen.Specs {
			if ts, ok := spec.(*ast.TypeSpec); ok {
				docs[ts.Name.Name] = comment(gen.Doc)
				if st, ok := ts.Type.(*ast.StructType); ok {
					structs[ts.Name.Name] = st
				}
			}
		}
	}
	defaults := map[string]any{}
	body, err := yaml.Marshal(complete)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(body, &defaults); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\nMade from the code by `make generate`.\n\n%s\n\n", kind, docs[kind])
	b.WriteString("| field | default | |\n|---|---|---|\n")
	var walk func(prefix, typeName string, defaults map[string]any)
	walk = func(prefix, typeName string, defaults map[string]any) {
		for _, field := range structs[typeName].Fields.List {
			name, optional, _ := strings.Cut(jsonTag.FindStringSubmatch(field.Tag.Value)[1], ",")
			value, inner := defaults[name], elementName(field.Type)
			shown := ""
			if structs[inner] == nil && optional != "" && value != nil && value != "" {
				shown = fmt.Sprintf("`%v`", value)
			}
			if list, ok := value.([]any); ok && len(list) > 0 {
				value = list[0]
			}
			nested, _ := value.(map[string]any)
			if _, ok := field.Type.(*ast.ArrayType); ok && structs[inner] != nil {
				name += "[]"
			}
			fmt.Fprintf(&b, "| `%s%s` | %s | %s |\n", prefix, name, shown, cell(comment(field.Doc)))
			if structs[inner] != nil {
				walk(prefix+name+".", inner, nested)
			}
		}
	}
	walk("spec.", kind+"Spec", defaults)
	return b.String()
}

var jsonTag = regexp.MustCompile(`json:"([^"]*)"`)

func elementName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return elementName(e.X)
	case *ast.ArrayType:
		return elementName(e.Elt)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func comment(group *ast.CommentGroup) string {
	var lines []string
	for line := range strings.Lines(group.Text()) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "+") {
			lines = append(lines, line)
		}
	}
	return strings.TrimSpace(strings.Join(lines, " "))
}

func cell(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\n", " "), "|", "\\|")
}

func metricsPage(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	certificates := newCertgenCommand()
	certificates.SetArgs([]string{"--dir", folder})
	certificates.SetOut(io.Discard)
	if err := certificates.Execute(); err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(folder, "kubeconfig")
	cluster := `{"clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}], "contexts": [{"name": "c", "context": {"cluster": "c"}}], "current-context": "c"}`
	if err := os.WriteFile(kubeconfig, []byte(cluster), 0o600); err != nil {
		t.Fatal(err)
	}
	plane, err := wire(serveOptions{
		xdsTLSDir: filepath.Join(folder, "server"), xdsTrustDomain: defaultTrustDomain, kubeconfig: kubeconfig,
		replica: replicaOptions{address: "127.0.0.1:18000", name: "one", namespace: "evenkeel"},
		limits:  rateLimitOptions{address: "127.0.0.1:18081"},
	}, objects{source: dir.New(".", dir.Options{}), cluster: &rest.Config{}}, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	descs := make(chan *prometheus.Desc)
	go func() {
		plane.metrics.Describe(descs)
		close(descs)
	}()
	rows := map[string]string{}
	for d := range descs {
		m := descText.FindStringSubmatch(d.String())
		if m == nil || !strings.HasPrefix(m[1], "evenkeel_") {
			continue // those of the Go runtime and the process are documented elsewhere
		}
		labels := ""
		if m[3] != "" {
			labels = "`" + strings.ReplaceAll(m[3], ",", "`, `") + "`"
		}
		rows[m[1]] = fmt.Sprintf("| `%s` | %s | %s |\n", m[1], labels, cell(strings.ReplaceAll(m[2], `\"`, `"`)))
	}
	var b strings.Builder
	b.WriteString("# Metrics\n\nMade from the code by `make generate`. `/metrics` of the admin port has these, and those of the Go runtime and the process.\n\n| metric | labels | |\n|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		b.WriteString(rows[name])
	}
	return b.String()
}

var descText = regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: "((?:[^"\\]|\\.)*)", unit: "[^"]*", constLabels: \{[^}]*\}, variableLabels: \{([^}]*)\}`)

func TestFlagsFromEnvironment(t *testing.T) {
	env := map[string]string{"EVENKEEL_ADMIN_ADDRESS": "127.0.0.1:1", "EVENKEEL_LOG_LEVEL": "debug"}
	cmd := newServeCommand()
	if err := cmd.ParseFlags([]string{"--log-level", "warn"}); err != nil {
		t.Fatal(err)
	}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	if err := flagsFromEnvironment(cmd.Flags(), lookup); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"admin-address": "127.0.0.1:1", "log-level": "warn", "xds-address": "127.0.0.1:18000"} {
		if got := cmd.Flag(name).Value.String(); got != want {
			t.Errorf("--%s is %q, want %q", name, got, want)
		}
	}
	env["EVENKEEL_XDS_ALLOW_PLAINTEXT"] = "maybe"
	if err := flagsFromEnvironment(newServeCommand().Flags(), lookup); err == nil || exitCode(err) != exitUsage || !strings.Contains(err.Error(), "EVENKEEL_XDS_ALLOW_PLAINTEXT") {
		t.Errorf("got %v, want a usage error that names the variable", err)
	}
}
