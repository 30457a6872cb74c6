package transcript

import (
	"strings"
	"testing"
)

// TestPlay: answers are replaced, and nothing else.
func TestPlay(t *testing.T) {
	story := "Somebody greets.\n> say hello\n    what was said before\n    in two lines\n>\n> be silent\n    what was said before\nThe end."
	var heard []string
	got := play(story, func(words []string) string {
		heard = append(heard, strings.Join(words, "+"))
		if words[0] == "say" {
			return "hello \n\nyou"
		}
		return ""
	})
	if want := "Somebody greets.\n> say hello\n    hello\n\n    you\n>\n> be silent\nThe end."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if strings.Join(heard, " ") != "say+hello be+silent" {
		t.Errorf("commands %q", heard)
	}
	if got := firstDifference(story, got); got != "line 3\n want     what was said before\n got      hello" {
		t.Error(got)
	}
}
