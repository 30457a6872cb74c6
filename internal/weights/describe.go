package weights

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// Describe is the Decisions as a table for people, an endpoint a line.
func (d Decisions) Describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at %s", d.Service, d.At.UTC().Format(time.TimeOnly))
	if d.Publish {
		fmt.Fprintf(&b, ", published (%s)", d.Cause)
	}
	if d.Frozen != "" {
		fmt.Fprintf(&b, ", frozen: %s", d.Frozen)
	}
	if d.Overload != "" {
		fmt.Fprintf(&b, ", overloaded: %s", d.Overload)
	}
	if d.Strain != "" {
		fmt.Fprintf(&b, ", strained: %s", d.Strain)
	}
	if d.Backlog > 0 {
		fmt.Fprintf(&b, ", %.1f s of work waiting", d.Backlog.Seconds())
	}
	if d.Shed > 0 {
		fmt.Fprintf(&b, ", %s", d.Shedding)
	}
	if d.Rejected > 0 {
		fmt.Fprintf(&b, ", %d readings refused", d.Rejected)
	}
	b.WriteByte('\n')
	if len(d.Endpoints) == 0 {
		b.WriteString("  no endpoints\n")
		return b.String()
	}
	sum := 0.0
	for _, e := range d.Endpoints {
		sum += float64(e.Weight)
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "endpoint\tstate\tweight\tshare\tcomputed\thealth\tdecay\t")
	for _, e := range d.Endpoints {
		fmt.Fprintf(w, "%s\t%s\t%d\t%.1f%%\t%.3f\t%.2f\t%.2f\t\n", e.Key.Address, e.State, e.Weight,
			100*float64(e.Weight)/sum, e.Computed, e.HealthScore, e.QPSDecayFactor)
	}
	w.Flush() // to memory
	return b.String()
}

// Describe is the Decision with its reasons, one a line: term, value, factor and text.
func (d Decision) Describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s, weight %d, computed %.3f, health %.2f, qps decay %.2f\n",
		d.Key.Address, d.State, d.Weight, d.Computed, d.HealthScore, d.QPSDecayFactor)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range d.Reasons {
		value := ""
		if r.Value != 0 || r.Unit != "" {
			value = strings.TrimSpace(fmt.Sprintf("%.4g %s", r.Value, r.Unit))
		}
		fmt.Fprintf(w, "  %s\t%s\tx %.4g\t%s\n", r.Term, value, r.Factor, r.Text)
	}
	w.Flush() // to memory
	return b.String()
}
