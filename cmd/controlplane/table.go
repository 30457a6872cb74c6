package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// screen is where a command prints. It has colours only where they can be seen and are wanted.
type screen struct {
	io.Writer
	colours  bool
	terminal bool
}

// screenOf asks for colours on a terminal, unless NO_COLOR is set (no-color.org) or TERM is dumb.
func screenOf(w io.Writer) screen {
	s := screen{Writer: w}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		s.terminal = true
		s.colours = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return s
}

// colour is an ANSI colour.
type colour string

const (
	none   colour = ""
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
	faint  colour = "2"
	bold   colour = "1"
)

func (s screen) paint(c colour, text string) string {
	if !s.colours || c == none || text == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// tableCell is a text of a table with its colour.
type tableCell struct {
	text   string
	colour colour
}

func text(format string, args ...any) tableCell { return tableCell{text: fmt.Sprintf(format, args...)} }

// state is a cell that says by its colour whether the word is good news.
func state[T ~string](word T) tableCell {
	c := tableCell{text: string(word)}
	switch c.text {
	case "SYNCED", "up", "Serving", "Served", "True", "added", "Enforce":
		c.colour = green
	case "NACKED", "NO_FLEET", "down", "NoSignal", "False", "removed":
		c.colour = red
	case "PENDING", "unknown", "Warming", "Prior", "Stale", "Frozen", "Shadow", "changed", "Pinned", "HeldBack":
		c.colour = yellow
	}
	return c
}

// table is aligned text. Columns whose heading begins with ">" are aligned to the right.
//
// It is not text/tabwriter because that counts the bytes of a colour as width.
type table struct {
	headings []string
	rows     [][]tableCell
}

func newTable(headings ...string) *table { return &table{headings: headings} }

func (t *table) add(cells ...tableCell) { t.rows = append(t.rows, cells) }

// print writes the table, or a word that there is nothing to show.
func (t *table) print(s screen, nothing string) error {
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(s, nothing)
		return err
	}
	right := make([]bool, len(t.headings))
	head := make([]tableCell, len(t.headings))
	widths := make([]int, len(t.headings))
	for i, h := range t.headings {
		name, isRight := strings.CutPrefix(h, ">")
		right[i], head[i] = isRight, tableCell{name, faint}
		widths[i] = len(name)
	}
	for _, row := range t.rows {
		for i := range row {
			row[i].text = plain(row[i].text)
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	for _, row := range append([][]tableCell{head}, t.rows...) {
		var line strings.Builder
		for i, c := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
			if right[i] {
				line.WriteString(pad)
			}
			line.WriteString(s.paint(c.colour, c.text))
			if !right[i] && i < len(row)-1 {
				line.WriteString(pad)
			}
		}
		if _, err := fmt.Fprintln(s, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// plain is a text that may have come from anywhere, on one line and without what a terminal would obey.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return '·'
		}
		return r
	}, s)
}

// orDash is the text, or a dash for none.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// decimal has the given number of decimals; a dash for no value.
func decimal(decimals int, v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.*f", decimals, *v)
}

// percent is a part of 1 as "31%", small ones as "0.4%"; a dash for no value.
func percent(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v != 0 && *v < 0.0995:
		return fmt.Sprintf("%.1f%%", 100**v)
	}
	return fmt.Sprintf("%.0f%%", 100**v)
}

func dash[T fmt.Stringer](v *T) string {
	if v == nil {
		return "-"
	}
	return (*v).String()
}

// when is a moment in the reader's time zone.
func when(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// short is the beginning of a hash.
func short(hash string) string { return hash[:min(len(hash), 10)] }
