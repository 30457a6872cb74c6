package demo

import (
	"strings"
	"testing"
)

func TestScreenDrawsOverOnATerminalOnly(t *testing.T) {
	rows := [][]string{{"endpoint", "weight"}, {"127.0.1.1", "5"}, {"127.0.1.10", "1500"}}
	for _, terminal := range []bool{false, true} {
		var out strings.Builder
		s := &Screen{out: &out, terminal: terminal}
		s.Table("first", rows)
		s.Table("second", rows)
		s.Printf("a line")
		s.Table("third", rows)
		if got := strings.Count(out.String(), "\x1b[4A"); terminal && got != 1 || !terminal && strings.Contains(out.String(), "\x1b") {
			t.Errorf("terminal %v: drawn over %d times, want once and only on a terminal:\n%q", terminal, got, out.String())
		}
		if !strings.Contains(out.String(), "    endpoint  weight\n") && !strings.Contains(out.String(), "  127.0.1.10    1500\n") {
			t.Errorf("columns are not aligned:\n%s", out.String())
		}
	}
}
