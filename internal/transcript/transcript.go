// Package transcript plays stories that are tests: files that tell, in prose, what is done to a machine and what it
// answers.
//
//	The metric rises over its bound, and stays there.
//	> metric 120
//	> run 10s
//	    12:00:10 factor 0.95, for the metric is over 100
//
// A line that begins with "> " is a command; the lines after it that begin with four spaces are the answer;
// the rest is narration. With -update the answers are written into the files, to be read as a diff.
package transcript

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata/*.txt")

const answered = "    "

// Test plays testdata/*.txt, each as a subtest. begin gives what answers the commands of one story: words are
// those of the line, at least one.
func Test(t *testing.T, begin func(t *testing.T) (command func(words []string) string)) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(string(want), begin(t))
			switch {
			case *update:
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			case got != string(want):
				t.Errorf("%s has changed; look at the difference that -update makes.\n%s", file, firstDifference(string(want), got))
			}
		})
	}
}

// play is the story with the answers that there are now.
func play(story string, command func(words []string) string) string {
	var out strings.Builder
	for line := range strings.Lines(story) {
		if strings.HasPrefix(line, answered) {
			continue
		}
		out.WriteString(line)
		text, ok := strings.CutPrefix(line, "> ")
		words := strings.Fields(text)
		if !ok || len(words) == 0 {
			continue
		}
		for answer := range strings.Lines(command(words)) {
			out.WriteString(strings.TrimRight(answered+answer, " \n") + "\n")
		}
	}
	return out.String()
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("line %d\n want %s\n got  %s", i+1, w[i], g[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}
