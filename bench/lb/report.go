package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// writeReport writes lb.md and its plots into the folder. Plots of an earlier report are replaced.
func writeReport(out, remarksFile string, records []record) error {
	if len(records) == 0 {
		return errors.New("there are no runs to report on")
	}
	remarks, err := os.ReadFile(remarksFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remarks: %w", err)
	}
	of := studies(records)
	plots := drawAll(of)
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(out, plotPrefix+"*.svg"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	for _, p := range plots {
		if err := os.WriteFile(filepath.Join(out, p.file), []byte(p.svg), 0o644); err != nil {
			return err
		}
	}
	var text strings.Builder
	printReport(&text, records, of, plots, string(remarks))
	return os.WriteFile(filepath.Join(out, "lb.md"), []byte(text.String()), 0o644)
}

func printReport(out *strings.Builder, records []record, of []*study, plots []plot, remarks string) {
	fmt.Fprint(out, "# Ways to balance, on real Envoys\n\n")
	printHow(out, records)
	printBars(out, of)
	printLosses(out, of)
	if remarks = strings.TrimSpace(remarks); remarks != "" {
		fmt.Fprintf(out, "%s\n\n", remarks)
	}
	for _, s := range of {
		printStudy(out, s, plots)
	}
}

// withoutFolders is a command with the names of files in place of their paths, which are of no use
// elsewhere.
func withoutFolders(command string) string {
	words := strings.Fields(command)
	for i, w := range words {
		if filepath.IsAbs(w) {
			words[i] = filepath.Base(w)
		}
	}
	return strings.Join(words, " ")
}

func printHow(out *strings.Builder, records []record) {
	var commands []string
	excluded := 0
	first, last := records[0].Began, records[0].Began
	for _, r := range records {
		if c := withoutFolders(r.Made.Command); !slices.Contains(commands, c) {
			commands = append(commands, c)
		}
		if !r.Counted {
			excluded++
		}
		if r.Began.Before(first) {
			first = r.Began
		}
		if r.Began.After(last) {
			last = r.Began
		}
	}
	for _, c := range commands {
		fmt.Fprintf(out, "    %s\n", c)
	}
	made, times := records[0].Made, records[0].settings
	fmt.Fprintf(out, `
%d runs from %s to %s (UTC), on a machine of %d CPUs (%s), with Envoy %s, %s and a control plane %s.

`,
		len(records), first.Format("2006-01-02 15:04"), last.Format("2006-01-02 15:04"), made.CPUs, made.System, made.Envoy, made.Go, made.program())
	for _, r := range records {
		if m := r.Made; m.ControlPlane != made.ControlPlane || m.Envoy != made.Envoy || m.Go != made.Go || m.CPUs != made.CPUs {
			fmt.Fprint(out, "**These runs are not all of the same program or machine**; the line above is about the first.\n\n")
			break
		}
	}
	t := standard
	fmt.Fprintf(out, `Unless a scenario says otherwise: %d simulated servers of %d workers each, of speeds from 1x to %gx, behind one Envoy of
%d worker threads. A request takes %s on average at speed 1, hyper-exponentially distributed (squared coefficient of
variation 4), and is queued first come, first served. Arrivals are a Poisson process at %.0f %% of the servers' capacity
that does not wait for answers; clients give up after %s. A run settles for %s and is measured for %s; the arms that
learn start from copies of what they knew after %s of quiet. What happens in the window is said of each scenario.
All arms of a repetition see the same arrivals and the same sequence of work on each server, and run at the same
time, side by side, as far as there is room (up to %d rigs here), else one after the other.

`, t.servers, t.workers, t.fastest, t.concurrency, t.work, t.load*100, deadline, times.Settle, times.Window, times.Warmup, mostBeside(records))
	for _, name := range armOrder() {
		if a, err := armNamed(name); err == nil && slices.ContainsFunc(records, func(r record) bool { return r.Arm == name }) {
			fmt.Fprintf(out, "- **%s**: %s\n", a.name, strings.TrimSuffix(a.about, "."))
		}
	}
	fmt.Fprintf(out, `
What the columns say, per arm over its runs:

- max/avg: utilisation of the busiest server over the mean, of the whole window, and over slices of 5 s (the median).
  A server is busy for as long as its workers hold requests, which the simulation knows exactly. Median of the runs.
- p50, p99, p99.9: of answers with 2xx and of clients that gave up, from the moment the request should have been sent.
  Median of the runs.
- p99 of ours / theirs: geometric mean of the ratios of runs of the same repetition, and the interval that covers it in
  nine of ten such measurements (Student's t on the logarithms). Below 1 ours is faster.
- goodput: answers with 2xx within %s, of all requests of all runs; errors: other answers and lost connections.
- settled: from the fault until the servers that lose traffic by it together have what they have in the last 15 s, to
  15 %% and for good. It goes by the weights that were published, or for arms whose weights cannot be seen (and where
  they were not recorded) by shares of the requests per second, the mean over 3 s, which vary by some 6 %% for counting
  alone. Median of the runs; missing where no server loses a sixth of its share.
- pushes/min: weight updates that Envoys were sent. machine: the share of it that was busy.

%d of %d runs do not count, because the machine was too busy to trust their latencies. Figures are rounded after they
were compared.

`, deadline, excluded, len(records))
}

// program says which control plane it was.
func (m making) program() string {
	of := "of an unknown commit"
	if m.Revision != "" {
		of = "of commit " + m.Revision[:min(12, len(m.Revision))]
		if m.Modified {
			of += " with changes"
		}
	}
	return fmt.Sprintf("%s (SHA-256 %s...)", of, m.ControlPlane)
}

func mostBeside(records []record) int {
	most := 0
	for _, r := range records {
		most = max(most, r.Beside+1)
	}
	return most
}

func printBars(out *strings.Builder, of []*study) {
	list := judge(of)
	order := planned()
	slices.SortStableFunc(list, func(a, b judgement) int { return place(order, a.scenario) - place(order, b.scenario) })
	reached := map[verdict]int{}
	for _, j := range list {
		reached[j.verdict]++
	}
	fmt.Fprintf(out, "## What must hold\n\n%d bars are met, %d are not, %d were not measured. The oracle is a bar and no rival: it knows the true capacities.\n\n",
		reached[met], reached[missed], reached[notMeasured])
	fmt.Fprint(out, "| scenario | measure | ours | the others (p99 with the ratio ours / theirs) | bar | met |\n|---|---|---|---|---|---|\n")
	for _, j := range list {
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s |\n", j.scenario, j.measure, j.ours, j.others, j.bar, j.verdict)
	}
	fmt.Fprintln(out)
}

// printLosses lists where an alternative does better, by the same margins that the bars use for a tie.
func printLosses(out *strings.Builder, of []*study) {
	fmt.Fprintf(out, `## What we lose

All alternatives with a goodput higher by more than %.2f points, a p99 that is lower with an interval that leaves no
doubt, or a max/avg lower by more than %.2f.

`, sameGoodput, sameBalance)
	none := true
	for _, s := range of {
		if len(s.counted(ours)) == 0 {
			continue
		}
		for _, other := range s.alternatives() {
			for _, loss := range s.lossesTo(other) {
				none = false
				fmt.Fprintf(out, "- %s: %s has %s\n", s.scenario, other, loss)
			}
		}
	}
	if none {
		fmt.Fprintln(out, "Nothing that was measured.")
	}
	fmt.Fprintln(out)
}

func (s *study) lossesTo(other string) []string {
	if len(s.counted(other)) == 0 {
		return nil
	}
	var losses []string
	if mine, theirs := s.pool(ours).goodput(), s.pool(other).goodput(); theirs-mine > sameGoodput {
		losses = append(losses, fmt.Sprintf("a goodput of %.3f %%, ours is %.3f %%", theirs, mine))
	}
	if c := s.pairs(ours, other, p99); c.Low > 1 {
		losses = append(losses, fmt.Sprintf("a p99 of %.0f ms, ours is %.0f ms (%s)", s.median(other, p99), s.median(ours, p99), c))
	}
	if mine, theirs := s.median(ours, imbalance), s.median(other, imbalance); mine-theirs > sameBalance {
		losses = append(losses, fmt.Sprintf("a max/avg of %.3f, ours is %.3f", theirs, mine))
	}
	return losses
}

func printStudy(out *strings.Builder, s *study, plots []plot) {
	fmt.Fprintf(out, "## %s\n\n", s.scenario)
	if known, err := scenarioNamed(s.scenario); err == nil {
		fmt.Fprintf(out, "In the window: %s.\n\n", strings.TrimSuffix(known.about, "."))
	}
	settles := !math.IsNaN(s.median(s.arms[0], settling))
	heading := []string{"arm", "runs", "max/avg", "5 s", "p50 ms", "p99 ms", "p99.9 ms", "p99 of ours / theirs", "requests", "goodput %", "errors %"}
	if settles {
		heading = append(heading, "settled")
	}
	heading = append(heading, "pushes/min", "machine %")
	fmt.Fprintf(out, "| %s |\n|---|%s\n", strings.Join(heading, " | "), strings.Repeat("---:|", len(heading)-1))
	for _, a := range s.arms {
		versus := "-"
		if a != ours {
			versus = strings.TrimPrefix(s.pairs(ours, a, p99).String(), "x ")
		}
		all := s.pool(a)
		cells := []string{
			a, s.countOf(a),
			number("%.3f", s.median(a, imbalance)), number("%.3f", s.median(a, imbalance5s)),
			number("%.1f", s.median(a, p50)), number("%.0f", s.median(a, p99)), number("%.0f", s.median(a, p999)),
			versus, fmt.Sprint(all.requests), number("%.3f", all.goodput()), number("%.3f", all.errorShare()),
		}
		if settles {
			cells = append(cells, seconds(s.median(a, settling)))
		}
		cells = append(cells, number("%.1f", s.median(a, pushesPerMinute)), number("%.0f", s.median(a, busy)))
		fmt.Fprintf(out, "| %s |\n", strings.Join(cells, " | "))
	}
	fmt.Fprintln(out)
	for _, p := range plots {
		if p.scenario == s.scenario {
			fmt.Fprintf(out, "![%s](%s)\n\n", p.title, p.file)
		}
	}
}

// countOf is how many runs of an arm count, of how many if not all do.
func (s *study) countOf(a string) string {
	counted, all := len(s.counted(a)), len(s.runs[a])
	if counted == all {
		return fmt.Sprint(all)
	}
	return fmt.Sprintf("%d of %d", counted, all)
}

// number leaves a dash where no run counted.
func number(format string, v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	return fmt.Sprintf(format, v)
}
