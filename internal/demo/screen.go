package demo

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"
)

// Screen prints to a person or a pipe: on a terminal a table is drawn over the one before it, in a pipe
// everything is a plain line. It is not safe for concurrent use.
type Screen struct {
	out      io.Writer
	terminal bool
	drawn    int // lines of the table that stands last, to be drawn over
}

// NewScreen finds out whether out is a terminal.
func NewScreen(out io.Writer) *Screen {
	file, ok := out.(*os.File)
	return &Screen{out: out, terminal: ok && term.IsTerminal(int(file.Fd()))}
}

// Terminal says whether a person is looking.
func (s *Screen) Terminal() bool { return s.terminal }

// Printf writes a line below whatever was drawn; it stays.
func (s *Screen) Printf(format string, args ...any) {
	s.drawn = 0
	fmt.Fprintf(s.out, format+"\n", args...)
}

// Table draws rows of cells in columns, the first row being the heading, under a title.
func (s *Screen) Table(title string, rows [][]string) {
	text := title + "\n" + formatTable(rows)
	if s.terminal && s.drawn > 0 {
		const up, clearBelow = "\x1b[%dA", "\x1b[J"
		fmt.Fprintf(s.out, up+clearBelow, s.drawn)
	}
	_, _ = io.WriteString(s.out, text)
	s.drawn = strings.Count(text, "\n")
}

func formatTable(rows [][]string) string {
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t")+"\t")
	}
	_ = w.Flush()
	return text.String()
}
