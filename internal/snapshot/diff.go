package snapshot

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/pmezard/go-difflib/difflib"

	"evenkeel.io/controlplane/internal/translate"
)

// maxDiffLines bounds the texts that are compared line by line: the time for it may grow with the
// square of their length.
const maxDiffLines = 20_000

// Change is one resource that differs between two Snapshots.
type Change struct {
	Type translate.Type
	Name string
	Op   string // "added", "changed" or "removed"
	// Text is a unified diff of the two as YAML. Of texts too long to compare it says so.
	Text string
}

// Diff is what is different in b, by type (in the order of translate.Types) and name. Either may be nil.
func Diff(a, b *Snapshot) []Change {
	var out []Change
	for _, t := range translate.Types {
		before, after := a.Resources(t), b.Resources(t)
		names := slices.AppendSeq(slices.Collect(maps.Keys(before)), maps.Keys(after))
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			from, to := before[name], after[name]
			op := "changed"
			switch {
			case from == nil:
				op = "added"
			case to == nil:
				op = "removed"
			case from.Version == to.Version:
				continue
			}
			out = append(out, Change{Type: t, Name: name, Op: op, Text: unified(from, to)})
		}
	}
	return out
}

func unified(from, to *Resource) string {
	a, b := yamlLines(from), yamlLines(to)
	if len(a)+len(b) > maxDiffLines {
		return fmt.Sprintf("%d lines before, %d after: too long to compare line by line\n", len(a), len(b))
	}
	text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: a, FromFile: label(from), B: b, ToFile: label(to), Context: 3,
	})
	if err != nil {
		return err.Error()
	}
	return text
}

// yamlLines has the text of the resource by line, each with its end; none for no resource.
func yamlLines(r *Resource) []string {
	if r == nil {
		return nil
	}
	text, err := r.YAML()
	if err != nil {
		text = []byte(err.Error() + "\n")
	}
	var lines []string
	for line := range bytes.Lines(text) {
		lines = append(lines, string(line))
	}
	return lines
}

func label(r *Resource) string {
	if r == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s %s (%.8s)", r.Type, r.Name, r.Version)
}
