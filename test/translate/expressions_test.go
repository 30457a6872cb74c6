package translate

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/celx"
	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// describing are the actions of a limit with that condition.
func describing(t *testing.T, condition string) string {
	t.Helper()
	limit := v1alpha1.Limit{Name: "a", When: &v1alpha1.When{CEL: &condition}, Rate: &v1alpha1.Rate{Requests: 1, Per: metav1.Duration{Duration: time.Second}}}
	rule, err := rlsconfig.Compile("shop/a/a", v1alpha1.OnErrorAllow, limit.WithDefaults())
	if err != nil {
		t.Fatal(condition, err)
	}
	text, err := protojson.Marshal(&routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "none"}, RateLimits: rule.Actions(rlsconfig.Site{Route: "a"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// envoyTakes tells whether an Envoy takes routes with these actions, and what it says if not.
func envoyTakes(t *testing.T, actions string) (bool, string) {
	t.Helper()
	path, err := demo.FindEnvoy()
	if err != nil {
		t.Skip(err)
	}
	file := filepath.Join(t.TempDir(), "envoy.json")
	config := `{"static_resources": {"clusters": [{"name": "none"}], "listeners": [{"name": "a",
		"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
		"filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
			"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
			"stat_prefix": "a",
			"http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
			"route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"path": "/"}, "route": ` + actions + `}]}]}
		}}]}]}]}}`
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), path, "--mode", "validate", "-c", file, "-l", "error").CombinedOutput()
	return err == nil, string(out)
}

// TestEnvoyTakesTheExpressionsThatAreTaken: an expression that passes celx must not cost the routes it stands in,
// and what celx says Envoy does not have it does not have.
func TestEnvoyTakesTheExpressionsThatAreTaken(t *testing.T) {
	for _, expression := range []string{
		`request.method == "GET" && request.url_path.startsWith("/v1")`,
		`has(request.headers.x) && request.headers["x-tenant"] == "a"`,
		`"x-canary" in request.headers || request.path.endsWith("a") || request.query.contains("b")`,
		`request.url_path.matches("^/v[0-9]+/(users|orders)$")`,
		`matches(request.host, "^a")`,
		`request.time.getHours("UTC") < 8 || request.time > timestamp("2026-01-01T00:00:00Z")`,
		`request.time - timestamp("2026-01-01T00:00:00Z") > duration("1h")`,
		`size(request.headers["x"]) > 3 || request.size + 1 > 2 * 3 - 4 / 5 % 6 || -request.size < 1`,
		`source.port > 1024 && destination.port == 80 && source.address != destination.address`,
		`int(request.headers["x"]) > 3 || uint("3") > 2u || double(3) > 2.5 || request.size in [1, 2, 3]`,
		`{"a": true}["a"] && [true, false][0] && b"a" == bytes("a") && type(1) == int && null == null`,
		`request.scheme == 'http' ? request.protocol == "HTTP/1.1" : request.useragent != request.referer`,
		`dyn(request.id) == "a" || bool("true")`,
		`r"\d" == "\\d" // and a comment`,
		strings.Repeat("!", 300) + `true`,
		strings.Repeat("(", 20) + `true` + strings.Repeat(")", 20),
		strings.Repeat("true && ", 50) + "true",
	} {
		if err := celx.Condition(expression); err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		if ok, words := envoyTakes(t, describing(t, expression)); !ok {
			t.Errorf("%s: Envoy does not take it: %s", expression, words)
		}
	}
	for _, expression := range []string{
		`request.headers.exists(h, h == "x")`, `[1, 2].all(x, x > 0)`,
		`string(source.port) == "80"`, `request.host.lowerAscii() == "a"`, `request.method = "GET"`,
	} {
		if err := celx.Condition(expression); err == nil {
			t.Errorf("%s is taken", expression)
		}
		if ok, _ := envoyTakes(t, describing(t, expression)); ok {
			t.Errorf("%s: Envoy takes it", expression)
		}
	}
}
