package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/admin"
)

func newExplainCommand() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "explain SERVICE [ENDPOINT]",
		Short: "why the weights are what they are",
		Long: `explain tells how each endpoint of a SERVICE came to its weight: the stages in order, from what it
was taken to be worth at first to what it is worth now, each with the factor by which it changed the
weight. The factors multiply to the weight relative to the mean of the Service.

ENDPOINT is an address (the port may be left out) or the name of a Pod; -o json and yaml print the
whole Service.`,
		Example: `  controlplane explain shop/cart:8080
  controlplane explain shop/cart 10.0.0.7
  controlplane explain shop/cart cart-6d4cf56db6-x2k9p`,
		Args:              rangeArgs(1, 2),
		ValidArgsFunction: c.completeServices(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := c.serviceName(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return show(cmd, &c, "/services/"+name, func(out screen, view admin.ServicesView) error {
				if len(args) == 1 {
					return explain(out, view)
				}
				for i := range view.Services {
					s := &view.Services[i]
					if s.Endpoints, err = pick(s.Endpoints, args[1]); err != nil {
						return err
					}
				}
				return explain(out, view)
			})
		},
	}
	c.addFlags(cmd, true)
	cmd.AddCommand(newExplainLimitCommand())
	return cmd
}

// pick is the endpoint that name means: its address, with or without port, or its Pod.
func pick(all []admin.EndpointView, name string) ([]admin.EndpointView, error) {
	var found []admin.EndpointView
	var addresses []string
	for _, e := range all {
		host := e.Address[:max(0, strings.LastIndexByte(e.Address, ':'))]
		_, pod, _ := strings.Cut(e.Pod, "/")
		if name == e.Address || name == host || "["+name+"]" == host || name == e.Pod || name == pod {
			found = append(found, e)
		}
		addresses = append(addresses, e.Address)
	}
	if len(found) == 0 {
		return nil, refusedError(fmt.Errorf("there is no endpoint %q; there is %s", name, orDash(strings.Join(addresses, ", "))))
	}
	return found, nil
}

func explain(out screen, view admin.ServicesView) error {
	follows(out, view)
	var b strings.Builder
	for _, s := range view.Services {
		fmt.Fprintf(&b, "%s: ", out.paint(bold, plain(s.Name)))
		switch {
		case s.Strategy == "":
			b.WriteString("no BalancePolicy reaches it, its endpoints are equal\n")
		default:
			fmt.Fprintf(&b, "%s by %s, from BalancePolicy %s\n", s.Mode, s.Strategy, plain(strings.Join(s.Policies, ", then ")))
		}
		if s.Mode == "Shadow" {
			b.WriteString("Shadow: the weights below are computed and not published; the base weights are.\n")
		}
		for _, note := range notes(s) {
			b.WriteString(out.paint(yellow, plain(note)) + "\n")
		}
		if s.Imbalance != nil {
			fmt.Fprintf(&b, "The busiest endpoint uses %.2f times the mean CPU.\n", *s.Imbalance)
		}
		for _, e := range s.Endpoints {
			explainEndpoint(&b, out, e)
		}
	}
	_, err := fmt.Fprint(out, b.String())
	return err
}

// reading is a Reading in words, of the terms that it has.
func reading(r admin.ReadingView) string {
	var terms []string
	if r.RPS != nil {
		terms = append(terms, decimal(1, r.RPS)+" requests/s")
	}
	if r.ErrorRatio != nil {
		terms = append(terms, percent(r.ErrorRatio)+" of them failed")
	}
	if r.CPU != nil {
		terms = append(terms, "CPU "+percent(r.CPU))
	}
	if r.P50 != nil && r.P90 != nil {
		terms = append(terms, fmt.Sprintf("P50 %s, P90 %s", r.P50, r.P90))
	}
	if r.InFlight != nil {
		terms = append(terms, decimal(0, r.InFlight)+" in flight")
	}
	stale := ""
	if r.Stale {
		stale = ", too old to count"
	}
	return fmt.Sprintf("last reading, %s ago%s: %s", r.Age, stale, cmp.Or(strings.Join(terms, ", "), "none of the terms"))
}

// reported is what Envoys see, in words.
func reported(n admin.ReportedView) string {
	who := "some Envoys"
	if n.All {
		who = "all Envoys"
	}
	text := fmt.Sprintf("load reports of %s, %s ago", who, n.Age)
	if n.Stale {
		text += ", too old to count"
	}
	text += ": " + decimal(1, n.RPS) + " requests/s"
	if n.ErrorRatio != nil {
		text += ", " + percent(n.ErrorRatio) + " of them failed"
	}
	text += ", " + decimal(0, n.InFlight) + " in flight"
	if n.Claim != nil {
		text += fmt.Sprintf("; it counts %.2f times as many itself", *n.Claim)
	}
	return text
}

func explainEndpoint(b *strings.Builder, out screen, e admin.EndpointView) {
	st := state(e.State)
	fmt.Fprintf(b, "\n%s  %s  %s of the requests", out.paint(bold, plain(e.Address)), out.paint(st.colour, st.text), percent(&e.Share))
	if e.Weight > 0 {
		fmt.Fprintf(b, ", weight %d", e.Weight)
	}
	if e.Pod != "" {
		fmt.Fprintf(b, ", Pod %s", plain(e.Pod))
	}
	b.WriteByte('\n')
	if r := e.Reading; r != nil {
		fmt.Fprintf(b, "  %s\n", reading(*r))
		if n := r.LoadReports; n != nil {
			fmt.Fprintf(b, "  %s\n", reported(*n))
		}
	}
	if len(e.Reasons) == 0 {
		if e.Weight > 0 {
			b.WriteString("  no reasons are known\n")
		}
		return
	}
	t := newTable("  STAGE", ">VALUE", ">FACTOR", "WHY")
	for _, r := range e.Reasons {
		value := "-"
		if r.Value != nil {
			value = strings.TrimSpace(fmt.Sprintf("%.4g %s", *r.Value, r.Unit))
		}
		factor := "-"
		if r.Factor != nil {
			factor = fmt.Sprintf("x %.4g", *r.Factor)
		}
		t.add(text("  %s", r.Term), text("%s", value), text("%s", factor), text("%s", r.Text))
	}
	_ = t.print(screen{Writer: b, colours: out.colours}, "") // a Builder does not fail
	if e.Computed != nil {
		fmt.Fprintf(b, "  = %.3f of the mean now; health score %.2f, decay factor %.2f\n", *e.Computed, e.HealthScore, e.QPSDecayFactor)
	}
}
