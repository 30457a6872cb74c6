package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"evenkeel.io/controlplane/internal/admin"
)

// answers are what the admin port's own tests hold its handler to, so that the command line is tested
// against what is really sent.
const answers = "../../internal/admin/testdata"

// fakeAdmin serves those answers, and records the actions it is asked for.
func fakeAdmin(t *testing.T) (address string, actions *[]string) {
	t.Helper()
	actions = new([]string)
	mux := http.NewServeMux()
	for path, name := range map[string]string{
		"/services": "services", "/services/shop/cart:8080": "service", "/services/shop/plain:80": "plain", "/targets": "targets",
		"/proxies": "proxies", "/nacks": "nacks", "/snapshots": "snapshots", "/snapshots/shop/edge": "snapshot",
		"/snapshots/shop/edge/cds": "resources", "/history": "history", "/diff": "diff",
	} {
		body, err := os.ReadFile(filepath.Join(answers, name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			if accept := r.Header.Get("Accept"); accept != "application/json" {
				t.Errorf("%s: Accept %q", path, accept)
			}
			w.Header().Set("X-Query", r.URL.RawQuery)
			_, _ = w.Write(body)
		})
	}
	for _, path := range []string{"/freeze", "/unfreeze", "/rollback", "/unpin"} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			*actions = append(*actions, path+" "+r.Header.Get("X-Evenkeel-Action")+" "+string(body))
			_ = json.NewEncoder(w).Encode(admin.ActionView{Done: "done"})
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(admin.ErrorView{Error: "there is no " + r.URL.Path + "\x1b[31m"})
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL, actions
}

// run runs the program with the arguments.
func run(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	root := newRootCommand()
	var stdout bytes.Buffer
	root.SetArgs(args)
	root.SetOut(&stdout)
	root.SetErr(io.Discard)
	err = root.ExecuteContext(t.Context())
	return stdout.String(), err
}

// Times are printed in the local zone. It is set before anything that reads the time is started.
func init() { time.Local = time.UTC }

func TestTables(t *testing.T) {
	address, _ := fakeAdmin(t)
	for name, args := range map[string][]string{
		"services":         {"services"},
		"service":          {"services", "shop/cart"},
		"service-plain":    {"services", "shop/plain:80"},
		"service-yaml":     {"services", "shop/plain:80", "-o", "yaml"},
		"explain":          {"explain", "shop/cart:8080"},
		"explain-endpoint": {"explain", "shop/cart", "cart-7"},
		"explain-plain":    {"explain", "shop/plain", "10.0.1.2"},
		"targets":          {"targets"},
		"proxies":          {"proxies"},
		"nacks":            {"nacks"},
		"snapshots":        {"snapshot"},
		"snapshot":         {"snapshot", "shop/edge"},
		"resources":        {"snapshot", "shop/edge", "--type", "cds"},
		"history":          {"history"},
		"diff":             {"diff", "shop/edge", "6", "7"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := run(t, append(args, "--admin", address)...)
			if err != nil {
				t.Fatal(err)
			}
			if strings.ContainsAny(got, "\x1b\x00\x07") {
				t.Errorf("a control character reached the terminal: %q", got)
			}
			file := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("controlplane %s (-want +got; -update writes it anew):\n%s", strings.Join(args, " "), diff)
			}
		})
	}
}

func TestJSONIsTheServersOwn(t *testing.T) {
	address, _ := fakeAdmin(t)
	got, err := run(t, "proxies", "-o", "json", "--admin", address)
	want, _ := os.ReadFile(filepath.Join(answers, "proxies.json"))
	if err != nil || got != string(want) {
		t.Errorf("%v\n%s", err, cmp.Diff(string(want), got))
	}
}

func TestActionsAreSent(t *testing.T) {
	address, actions := fakeAdmin(t)
	for _, args := range [][]string{{"freeze"}, {"freeze", "shop/cart"}, {"unfreeze", "shop/cart:8080"}, {"rollback", "shop/edge", "6"}, {"unpin", "shop/edge"}} {
		if out, err := run(t, append(args, "--admin", address)...); err != nil || out != "done\n" {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
	want := []string{`/freeze 1 {"service":""}`, `/freeze 1 {"service":"shop/cart:8080"}`, `/unfreeze 1 {"service":"shop/cart:8080"}`,
		`/rollback 1 {"fleet":"shop/edge","generation":6}`, `/unpin 1 {"fleet":"shop/edge"}`}
	if diff := cmp.Diff(want, *actions); diff != "" {
		t.Error(diff)
	}
}

func TestExitCodes(t *testing.T) {
	address, actions := fakeAdmin(t)
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>hello") }))
	t.Cleanup(stranger.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for _, tc := range []struct {
		args  []string
		code  int
		words string
	}{
		{[]string{"services", "--admin", gone.URL}, 3, "is `controlplane serve` running? set --admin or EVENKEEL_ADMIN"},
		{[]string{"proxies", "--admin", stranger.URL}, 3, "is no control plane"},
		{[]string{"freeze", "--admin", gone.URL}, 3, "cannot reach the control plane at " + gone.URL},
		{[]string{"services", "shop/gone:1", "--admin", address}, 1, "there is no /services/shop/gone:1·[31m"},
		{[]string{"explain", "shop/gone", "--admin", address}, 1, `there is no service "shop/gone"`},
		{[]string{"explain", "shop/cart", "10.9.9.9", "--admin", address}, 1, "there is 10.0.0.7:8080, 10.0.0.8:8080"},
		{[]string{"snapshot", "shop/gone", "--admin", address}, 1, "there is no /snapshots/shop/gone"},
		{[]string{"snapshot", "rls", "--type", "rls", "--admin", address}, 1, "there is no /snapshots/-/rls/rls"},
		{[]string{"diff", "rls", "1", "2", "--admin", address}, 2, "expected <namespace>/<gateway>"},
		{[]string{"services", "cart", "--admin", address}, 2, "expected <namespace>/<name>:<port>"},
		{[]string{"services", "-o", "xml", "--admin", address}, 2, "expected table, json or yaml"},
		{[]string{"services", "--admin", "ftp://x"}, 2, "expected a URL like http://127.0.0.1:19000"},
		{[]string{"services", "--admin", ":"}, 2, "expected a URL like"},
		{[]string{"services", "a", "b"}, 2, "controlplane services --help"},
		{[]string{"services", "--nope"}, 2, "--nope"},
		{[]string{"snapshot", "--type", "eds"}, 2, "need a FLEET"},
		{[]string{"snapshot", "shop/edge", "--name", "x"}, 2, "--name needs --type"},
		{[]string{"snapshot", "shop/edge", "--type", "xyz"}, 2, "expected one of cds, eds"},
		{[]string{"snapshot", "shop/edge", "--client", "xds"}, 2, "expected envoy or grpc"},
		{[]string{"snapshot", "--client", "grpc"}, 2, "need a FLEET"},
		{[]string{"snapshot", "edge"}, 2, "expected <namespace>/<gateway>"},
		{[]string{"diff", "shop/edge", "six", "7"}, 2, "controlplane history shop/edge"},
		{[]string{"diff", "shop/edge"}, 2, "FROM TO"},
		{[]string{"rollback", "shop/edge", "six"}, 2, "controlplane history shop/edge"},
		{[]string{"rollback", "shop/edge", "0"}, 2, "controlplane history shop/edge"},
		{[]string{"rollback", "edge", "6"}, 2, "expected <namespace>/<gateway>"},
		{[]string{"rollback", "shop/edge"}, 2, "GENERATION"},
		{[]string{"unpin", "edge"}, 2, "expected <namespace>/<gateway>"},
		{[]string{"unpin"}, 2, "FLEET"},
		{[]string{"chek"}, 2, "did you mean check?; see controlplane --help"},
		{[]string{"xyzzy", "shop/edge"}, 2, `no command "xyzzy"; see`},
		{[]string{"version", "-o", "xml"}, 2, "expected table, json or yaml"},
	} {
		out, err := run(t, tc.args...)
		if got := exitCode(err); got != tc.code || err == nil || !strings.Contains(err.Error(), tc.words) {
			t.Errorf("controlplane %s: exit %d, %v\nwant %d with %q", strings.Join(tc.args, " "), got, err, tc.code, tc.words)
		}
		if out != "" {
			t.Errorf("controlplane %s failed and still printed %q", strings.Join(tc.args, " "), out)
		}
	}
	if len(*actions) > 0 {
		t.Errorf("a refused command acted: %v", *actions)
	}
	if exitCode(nil) != 0 || exitCode(errors.New("any")) != 1 {
		t.Error("exit codes of no error and of any other")
	}
}

func TestTheEnvironmentSaysWhere(t *testing.T) {
	address, _ := fakeAdmin(t)
	t.Setenv("EVENKEEL_ADMIN", strings.TrimPrefix(address, "http://")) // host:port will do
	if _, err := run(t, "services"); err != nil {
		t.Error(err)
	}
}

func TestCompletion(t *testing.T) {
	address, _ := fakeAdmin(t)
	t.Setenv("EVENKEEL_ADMIN", address)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"services", ""}, "shop/cart:8080\nshop/plain:80\n:4\n"},
		{[]string{"explain", "shop/plain:80", ""}, "10.0.1.1:80\n10.0.1.2:80\n:4\n"},
		{[]string{"freeze", "shop/cart:8080", ""}, ":4\n"},
		{[]string{"snapshot", ""}, "shop/edge\n:4\n"},
		{[]string{"rollback", ""}, "shop/edge\n:4\n"},
		{[]string{"rollback", "shop/edge", ""}, "6\tFirst sync\n:36\n"},
		{[]string{"unpin", ""}, "shop/edge\n:4\n"},
		{[]string{"history", ""}, "shop/edge\nshop/cart:8080\nshop/plain:80\n:4\n"},
		{[]string{"render", "config", "--type", ""}, strings.ReplaceAll(typeNames(), ", ", "\n") + "\n:4\n"},
		{[]string{"services", "-o", ""}, "table\njson\nyaml\n:4\n"},
	} {
		out, err := run(t, append([]string{"__complete"}, tc.args...)...)
		if err != nil || out != tc.want {
			t.Errorf("%v: %q, %v; want %q", tc.args, out, err, tc.want)
		}
	}
	t.Setenv("EVENKEEL_ADMIN", "http://127.0.0.1:1")
	if out, err := run(t, "__complete", "services", ""); err != nil || out != ":4\n" {
		t.Errorf("with nobody there: %q, %v; want quiet", out, err)
	}
}

func TestEveryCommandHasHelp(t *testing.T) {
	for _, cmd := range newRootCommand().Commands() {
		if cmd.Name() == "help" || cmd.Name() == "completion" {
			continue
		}
		if cmd.Short == "" || cmd.Long == "" || cmd.Example == "" {
			t.Errorf("%s lacks a short or long description or an example", cmd.Name())
		}
	}
}

func TestColours(t *testing.T) {
	tab := func(s screen) string {
		var b bytes.Buffer
		s.Writer = &b
		tb := newTable("STATE", ">N")
		tb.add(state("NACKED"), text("1"))
		tb.add(state("UP\x1b[2J"), text("100"))
		if err := tb.print(s, ""); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	plain := tab(screen{})
	if want := "STATE     N\nNACKED    1\nUP·[2J  100\n"; plain != want {
		t.Errorf("got\n%swant\n%s", plain, want)
	}
	coloured := tab(screen{colours: true})
	if !strings.Contains(coloured, "\x1b[31mNACKED\x1b[0m") {
		t.Errorf("no colour: %q", coloured)
	}
	for _, code := range []string{"\x1b[31m", "\x1b[2m", "\x1b[0m"} {
		coloured = strings.ReplaceAll(coloured, code, "")
	}
	if coloured != plain {
		t.Errorf("colours change the alignment:\n%s\n%s", coloured, plain)
	}
}

func TestVersions(t *testing.T) {
	info := &debug.BuildInfo{
		Main:     debug.Module{Version: "v1.2.3"},
		Deps:     []*debug.Module{{Path: "sigs.k8s.io/gateway-api", Version: "v1.6.3"}, {Path: "github.com/envoyproxy/go-control-plane/envoy", Version: "v1.40.0"}},
		Settings: []debug.BuildSetting{{Key: "vcs.modified", Value: "true"}, {Key: "vcs.revision", Value: "abc"}},
	}
	if v := versionsOf(info); v.Version != "v1.2.3" || v.Commit != "abc-dirty" || v.EnvoyAPI != "v1.40.0" || v.GatewayAPI != "v1.6.3" {
		t.Errorf("%+v", v)
	}
	if v := versionsOf(nil); v.Version != "unknown" || v.Go == "" {
		t.Errorf("%+v", v)
	}
	out, err := run(t, "version", "-o", "yaml")
	if err != nil || !strings.Contains(out, "xds: v3") {
		t.Errorf("%q, %v", out, err)
	}
}

// interrupted is an output that ends the command, as Ctrl-C does, once something was printed.
type interrupted struct {
	bytes.Buffer
	cancel context.CancelFunc
}

func (w *interrupted) Write(p []byte) (int, error) {
	defer w.cancel()
	return w.Buffer.Write(p)
}

func TestWatchEndsWhenInterrupted(t *testing.T) {
	address, _ := fakeAdmin(t)
	ctx, cancel := context.WithCancel(t.Context())
	out := &interrupted{cancel: cancel}
	root := newRootCommand()
	root.SetArgs([]string{"services", "--watch", "--admin", address})
	root.SetOut(out)
	if err := root.ExecuteContext(ctx); exitCode(err) != exitOK || !strings.Contains(out.String(), "SERVICE") || strings.Contains(out.String(), "\x1b") {
		t.Errorf("exit %d, %v: %q", exitCode(err), err, out.String())
	}
}
