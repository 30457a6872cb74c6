package chart

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

// TestChartIsWellFormed: whatever the labels say, and with points where their values are.
func TestChartIsWellFormed(t *testing.T) {
	const name = `<a> & "b"`
	c := New(300, 200, name)
	p := Panel{Left: 50, Top: 20, Width: 200, Height: 100, Title: name, X: Axis{From: 0, To: 10, Label: name, Ticks: Steps(0, 10, 5)}, Y: Axis{From: 0, To: 1}}
	c.Frame(p)
	c.Mark(p, 5, name)
	c.Line(p, []Point{{0, 0}, {5, 0.5}, {20, 2}}, "#123456", 1)
	c.Swatch(260, 20, name, "#123456")
	text := c.SVG()
	// The last point is outside and is drawn in the upper right corner.
	if want := `points="50.0,120.0 150.0,70.0 250.0,20.0"`; !strings.Contains(text, want) {
		t.Errorf("no line with %s:\n%s", want, text)
	}
	names := 0
	for decoder := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		if words, ok := token.(xml.CharData); ok && string(words) == name {
			names++
		}
	}
	if names != 6 {
		t.Errorf("the name is there %d times, want it as title twice, panel, axis, mark and legend", names)
	}
}

func TestStepsReachTheEnd(t *testing.T) {
	ticks := Steps(0, 1, 0.1)
	if len(ticks) != 11 || ticks[10].Label != "1" {
		t.Errorf("%v, want 0 to 1 by tenths", ticks)
	}
}
