package re2

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for expression, want := range map[string]string{
		"":                          "is empty",
		"a(b":                       "missing closing )",
		"(?<!a)b":                   "no RE2 expression",
		"a\nb":                      "line break",
		strings.Repeat("a", 257):    "longer than 256 bytes",
		`(\p{L}{1,100})+`:           "instructions, expected at most 10000",
		"(a{1,100}){1,100}":         "no RE2 expression", // Go refuses what expands to more than 1000 repetitions
		`^/v[0-9]+/(users|orders)$`: "",
		strings.Repeat("a", 256):    "",
		`\p{L}+`:                    "",
	} {
		err := Check(expression)
		switch {
		case want == "" && err != nil:
			t.Errorf("%.40q: %v", expression, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%.40q: got %v, want %q", expression, err, want)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(`^/v[0-9]+$`)
	f.Fuzz(func(t *testing.T, expression string) {
		if Check(expression) == nil && len(expression) > MaxLength {
			t.Error("too long")
		}
	})
}
