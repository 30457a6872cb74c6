package main

import (
	"fmt"
	"math"
	"slices"
	"time"

	"evenkeel.io/controlplane/bench/lb/chart"
)

// plot is an SVG that belongs to a scenario.
type plot struct{ scenario, file, title, svg string }

const plotPrefix = "lb-"

// telling are the scenarios of which plots say more than tables.
var (
	tellingTime    = []string{"uneven", "hidden"}
	tellingLatency = []string{"uneven", "hidden", "sinkhole", "noCPU", "dark", "pauses"}
)

func drawAll(of []*study) []plot {
	var plots []plot
	for _, s := range of {
		if slices.Contains(tellingTime, s.scenario) {
			if svg, ok := drawUtilisation(s); ok {
				plots = append(plots, plot{s.scenario, plotPrefix + "utilisation-" + s.scenario + ".svg",
					"Utilisation of each server over time, " + s.scenario, svg})
			}
		}
		if slices.Contains(tellingLatency, s.scenario) {
			if svg, ok := drawLatency(s); ok {
				plots = append(plots, plot{s.scenario, plotPrefix + "latency-" + s.scenario + ".svg",
					"Latency by percentile, " + s.scenario, svg})
			}
		}
	}
	return plots
}

// drawUtilisation shows LEAST_REQUEST above and ours below, in the first repetition that counts of both.
func drawUtilisation(s *study) (svg string, ok bool) {
	for _, before := range s.counted(plainLeast) {
		for _, after := range s.counted(ours) {
			if after.Repetition != before.Repetition {
				continue
			}
			title := fmt.Sprintf("Utilisation of each server, %s, repetition %d (mean over 5 s)", s.scenario, after.Repetition)
			c := chart.New(760, 500, title)
			for i, r := range []record{before, after} {
				p := chart.Panel{
					Left: 60, Top: 52 + 224*float64(i), Width: 620, Height: 176, Title: r.Arm,
					X: chart.Axis{From: 0, To: r.Window.Seconds()},
					Y: chart.Axis{From: 0, To: 1, Label: "utilisation"},
				}
				if i > 0 {
					p.X.Label = "s since the start of the window"
				}
				p.X.Ticks = chart.Steps(0, r.Window.Seconds(), 10)
				p.Y.Ticks = chart.Steps(0, 1, 0.25)
				c.Frame(p)
				if r.FaultAt > 0 {
					c.Mark(p, r.FaultAt.Seconds(), "fault")
				}
				for server := range r.Speeds {
					c.Line(p, smoothed(r.Utilisation, server), hue(r.Speeds, server), 1.5)
				}
			}
			slowest, fastest := slices.Min(after.Speeds), slices.Max(after.Speeds)
			c.Text(690, 60, "start", "speed")
			const swatches = 7
			for i := range swatches {
				speed := slowest + (fastest-slowest)*float64(i)/(swatches-1)
				c.Swatch(690, 78+20*float64(i), fmt.Sprintf("%.1fx", speed), shade(float64(i)/(swatches-1)))
			}
			return c.SVG(), true
		}
	}
	return "", false
}

// smoothed is the mean over five seconds around each second.
func smoothed(utilisation [][]ratio, server int) []chart.Point {
	const reach = 2
	points := make([]chart.Point, len(utilisation))
	for t := range utilisation {
		around := utilisation[max(0, t-reach):min(len(utilisation), t+reach+1)]
		points[t] = chart.Point{X: float64(t) + 0.5, Y: means(around)[server]}
	}
	return points
}

// hue of a server by its speed.
func hue(speeds []float64, server int) string {
	slowest, fastest := slices.Min(speeds), slices.Max(speeds)
	if fastest == slowest {
		return shade(float64(server) / float64(max(1, len(speeds)-1)))
	}
	return shade((speeds[server] - slowest) / (fastest - slowest))
}

// shade goes from orange at 0 to blue at 1, of a lightness that is seen on white and on black.
func shade(part float64) string { return fmt.Sprintf("hsl(%.0f,70%%,50%%)", 25+195*part) }

// drawLatency shows the latency that each percentile of the requests stays below, of all counted runs.
func drawLatency(s *study) (svg string, ok bool) {
	const nines = 4 // the axis ends at 99.99 %
	p := chart.Panel{
		Left: 60, Top: 52, Width: 480, Height: 330,
		X: chart.Axis{From: math.Log10(1), To: math.Log10(1000), Label: "latency, ms (clients give up after 1 s)"},
		Y: chart.Axis{From: 0, To: nines, Label: "requests answered within that"},
	}
	for _, ms := range []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000} {
		p.X.Ticks = append(p.X.Ticks, chart.Tick{At: math.Log10(ms), Label: fmt.Sprintf("%g", ms)})
	}
	for _, percent := range []float64{0, 50, 90, 99, 99.9, 99.99} {
		p.Y.Ticks = append(p.Y.Ticks, chart.Tick{At: -math.Log10(1 - percent/100), Label: fmt.Sprintf("%g %%", percent)})
	}
	c := chart.New(760, 440, "Latency of all requests by percentile, "+s.scenario)
	c.Frame(p)
	row := 0
	for _, a := range slices.Backward(s.arms) { // ours is drawn last, above the others
		all := s.pool(a)
		if all.latency.total == 0 {
			continue
		}
		var points []chart.Point
		below := 0
		for bucket, n := range all.latency.counts {
			below += int(n)
			left := 1 - float64(below)/float64(all.latency.total)
			if n > 0 && left > 0 && upper(bucket) >= time.Millisecond {
				points = append(points, chart.Point{X: math.Log10(milliseconds(upper(bucket))), Y: -math.Log10(left)})
			}
		}
		width := 1.5
		if a == ours {
			width = 3
		}
		place := slices.Index(s.arms, a)
		c.Line(p, points, colours[place%len(colours)], width)
		c.Swatch(556, 60+20*float64(place), a, colours[place%len(colours)])
		row++
	}
	return c.SVG(), row > 0
}

// colours that people tell apart who see few, after Okabe and Ito, made light enough for a dark page.
var colours = []string{"#2f8fd8", "#e69f00", "#d55e00", "#17a77f", "#cc79a7", "#8f8f8f", "#b8a800", "#56b4e9", "#9b6bd3"}
