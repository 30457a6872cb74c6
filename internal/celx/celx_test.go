package celx

import (
	"strings"
	"testing"
)

var conditions = map[string]string{
	`request.method == "GET" && request.url_path.startsWith("/v1")`: "",
	`has(request.headers.x) && request.headers["x-tenant"] == "a"`:  "",
	`"x-canary" in request.headers`:                                 "",
	`request.url_path.matches("^/v[0-9]+/")`:                        "",
	`request.time.getHours("UTC") < 8 || source.port > 1024`:        "",
	`size(request.headers["x"]) > 3`:                                "",
	`request.host.lowerAscii() == "a"`:                              "undeclared reference to \"lowerAscii\"",
	``:                                                              "is empty",
	`  `:                                                            "is empty",
	`request.pth == "/"`:                                            "names an attribute of request that there is not",
	`response.code == 200`:                                          "names an attribute of response that there is not",
	`user == "a"`:                                                   `undeclared reference to "user"; expected one of destination.address`,
	`request.method = "GET"`:                                        "at character 16: Syntax error",
	`request.method == 1`:                                           "found no matching overload",
	`request.host`:                                                  "gives a value of type string; expected true or false",
	`request.headers.exists(h, h == "x")`:                           "Envoy has no all, exists",
	`[1, 2].all(x, x > 0)`:                                          "Envoy has no all, exists",
	`request.host + "x" == "y"`:                                     "puts strings or lists together",
	`string(source.port) == "80"`:                                   "converts to string",
	`request.host.matches(request.path)`:                            "matches what is no literal",
	`request.host.matches("(")`:                                     "no RE2 expression",
	`request.host.matches("a{1,200}")`:                              "expected at most 100",
	"request.host == 'a\nb'":                                        "must be one line",
	`request.host == "` + strings.Repeat("a", 512) + `"`:            "longer than 512 characters",
	strings.Repeat("(", 200) + `true` + strings.Repeat(")", 200):    "recursion limit",
	strings.Repeat("!", 300) + `true`:                               "",
}

func TestCondition(t *testing.T) {
	for expression, want := range conditions {
		compare(t, expression, Condition(expression), want)
	}
}

func TestValue(t *testing.T) {
	for expression, want := range map[string]string{
		`request.host`:                      "",
		`request.headers["x-tenant"]`:       "",
		`request.size`:                      "",
		`request.method == "GET"`:           "",
		`request.size > 100 ? "big" : "no"`: "",
		`request.headers`:                   "gives a value of type map(string, string); expected a string, a number or a bool",
		`request.time`:                      "gives a value of type google.protobuf.Timestamp",
		`[request.host]`:                    "gives a value of type list(string)",
	} {
		compare(t, expression, Value(expression), want)
	}
}

func compare(t *testing.T, expression string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%.80q: %v", expression, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%.80q: got %v, want %q", expression, err, want)
	}
}

func FuzzCondition(f *testing.F) {
	for expression := range conditions {
		f.Add(expression)
	}
	f.Fuzz(func(t *testing.T, expression string) {
		if err := Condition(expression); err != nil && (err.Error() == "" || len(err.Error()) > 1000) {
			t.Errorf("an error of %d bytes: %v", len(err.Error()), err)
		}
	})
}
