// Package chart draws line charts as SVG: axes, grid, lines and legends, readable on light and on dark
// pages, without scripts. The caller says where things go and scales what is not linear; nothing is laid
// out by itself.
package chart

import (
	"fmt"
	"html"
	"strings"
)

// Tick is a labelled value of an axis.
type Tick struct {
	At    float64
	Label string
}

// Steps are ticks from one value to another, inclusive.
func Steps(from, to, by float64) []Tick {
	var ticks []Tick
	for i := 0; from+float64(i)*by <= to+1e-9; i++ {
		v := from + float64(i)*by
		ticks = append(ticks, Tick{v, fmt.Sprintf("%g", v)})
	}
	return ticks
}

// Axis goes from one value to another. What is scaled otherwise than linearly comes scaled.
type Axis struct {
	From, To float64
	Label    string
	Ticks    []Tick
}

// at is where a value lies, 0 to 1; values outside lie at the ends.
func (a Axis) at(v float64) float64 { return min(1, max(0, (v-a.From)/(a.To-a.From))) }

// Point is a pair of values.
type Point struct{ X, Y float64 }

// Panel is a pair of axes on a canvas, which is measured in pixels from its upper left corner.
type Panel struct {
	Left, Top, Width, Height float64
	Title                    string
	X, Y                     Axis
}

func (p Panel) place(q Point) (x, y float64) {
	return p.Left + p.Width*p.X.at(q.X), p.Top + p.Height*(1-p.Y.at(q.Y))
}

// Canvas is an SVG in the making.
type Canvas struct{ out strings.Builder }

// New is an empty canvas with a title.
func New(width, height int, title string) *Canvas {
	c := &Canvas{}
	fmt.Fprintf(&c.out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">
<title>%s</title>
<style>
.back{fill:#ffffff} text{font:12px system-ui,sans-serif;fill:#1f2328} .strong{font-weight:600}
.grid{stroke:#d8dee4} .mark{stroke:#6e7781;stroke-dasharray:4 3} polyline{fill:none;stroke-linejoin:round}
@media (prefers-color-scheme:dark){.back{fill:#0d1117} text{fill:#e6edf3} .grid{stroke:#30363d} .mark{stroke:#9198a1}}
</style>
<rect class="back" width="%d" height="%d"/>
<text class="strong" x="60" y="22">%s</text>
`, width, height, width, height, html.EscapeString(title), width, height, html.EscapeString(title))
	return c
}

// SVG is the whole document.
func (c *Canvas) SVG() string { return c.out.String() + "</svg>\n" }

// Text is anchored at its start, middle or end.
func (c *Canvas) Text(x, y float64, anchor, text string) {
	fmt.Fprintf(&c.out, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, html.EscapeString(text))
}

// Frame draws a panel's grid, ticks and labels.
func (c *Canvas) Frame(p Panel) {
	for _, t := range p.X.Ticks {
		x, bottom := p.place(Point{t.At, p.Y.From})
		fmt.Fprintf(&c.out, `<line class="grid" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", x, p.Top, x, bottom)
		c.Text(x, bottom+15, "middle", t.Label)
	}
	for _, t := range p.Y.Ticks {
		_, y := p.place(Point{p.X.From, t.At})
		fmt.Fprintf(&c.out, `<line class="grid" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", p.Left, y, p.Left+p.Width, y)
		c.Text(p.Left-6, y+4, "end", t.Label)
	}
	c.Text(p.Left+p.Width, p.Top+p.Height+30, "end", p.X.Label)
	c.Text(p.Left+p.Width, p.Top-7, "end", p.Y.Label)
	fmt.Fprintf(&c.out, `<text class="strong" x="%.1f" y="%.1f">%s</text>`+"\n", p.Left, p.Top-7, html.EscapeString(p.Title))
}

// Mark draws a vertical line at a value of X.
func (c *Canvas) Mark(p Panel, at float64, label string) {
	x, bottom := p.place(Point{at, p.Y.From})
	fmt.Fprintf(&c.out, `<line class="mark" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", x, p.Top, x, bottom)
	c.Text(x+4, bottom-6, "start", label)
}

// Line joins points. Those outside of the panel are drawn on its edge.
func (c *Canvas) Line(p Panel, points []Point, colour string, width float64) {
	fmt.Fprintf(&c.out, `<polyline stroke="%s" stroke-width="%g" points="`, colour, width)
	for i, q := range points {
		if i > 0 {
			c.out.WriteByte(' ')
		}
		x, y := p.place(q)
		fmt.Fprintf(&c.out, "%.1f,%.1f", x, y)
	}
	c.out.WriteString("\"/>\n")
}

// Swatch is an entry of a legend.
func (c *Canvas) Swatch(x, y float64, label, colour string) {
	fmt.Fprintf(&c.out, `<rect x="%.1f" y="%.1f" width="14" height="4" fill="%s"/>`+"\n", x, y-6, colour)
	c.Text(x+20, y, "start", label)
}
