package main

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/rls"
)

func newLimitsCommand() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "limits",
		Short: "limits, what they are multiplied with, and who is refused",
		Long: `limits lists what the rate limit service of the control plane counts: the bound in force, the factor by
which a limit that follows its backends is multiplied and why, and how many requests it refused. Of several
replicas the one that leads counts, unless all count together in Redis. Limits of scope Proxy are counted by
each Envoy for itself: limits says in which of its statistics.`,
		Example: `  controlplane limits
  controlplane limits -o json | jq -r '.limits[] | select(.refused>0) | .rule'`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return show(cmd, &c, "/limits", limitsTable) },
	}
	c.addFlags(cmd, true)
	return cmd
}

func limitsTable(out screen, view admin.LimitsView) error {
	t := newTable("LIMIT", "FLEET", ">NOW", ">FACTOR", ">REQUESTS", ">REFUSED", ">KEYS", "WHY")
	for _, l := range view.Limits {
		why := ""
		if l.Adapt != nil {
			why = l.Adapt.Describe()
		}
		if l.Statistics != nil {
			t.add(text("%s", l.Rule), text("%s", l.Fleet), text("%s", boundText(l.Now)), text("%.2f", l.Factor), text("-"), text("-"), text("-"),
				text("each Envoy counts: its statistics %s", l.Statistics.Prefix))
			continue
		}
		refused := fmt.Sprint(l.Refused)
		if l.ShadowRefused > 0 {
			refused += fmt.Sprintf(" (would be %d)", l.ShadowRefused)
		}
		t.add(text("%s", l.Rule), text("%s", l.Fleet), text("%s", boundText(l.Now)), text("%.2f", l.Factor), text("%d", l.Requests),
			text("%s", refused), text("%d", max(l.Keys, l.Leases)), text("%s", why))
	}
	return t.print(out, "There are no limits. A LimitPolicy says what is.")
}

func boundText(b rls.Bound) string {
	switch {
	case b.Unlimited:
		return "unlimited"
	case b.Concurrency > 0:
		return fmt.Sprintf("%d at a time", b.Concurrency)
	}
	if b.Burst == 0 {
		return fmt.Sprintf("%.4g/s, in windows", b.Rate)
	}
	return fmt.Sprintf("%.4g/s, burst %d", b.Rate, b.Burst)
}

// newExplainLimitCommand is `explain limit`.
func newExplainLimitCommand() *cobra.Command {
	var c client
	var fleet string
	var key []string
	cmd := &cobra.Command{
		Use:   "limit NAME [--key PART=VALUE]...",
		Short: "what a limit makes of a request, and why",
		Long: `limit says what a limit would make of a request with a given key: which bound holds for it, what that is
multiplied with and why, and what is left of it now. Nothing is counted. NAME is NAMESPACE/POLICY/LIMIT, or
the end of it. A PART is named as the limit's key has it, or by what comes after its colon.`,
		Example: `  controlplane explain limit shop/api/tenant --key X-Tenant=acme
  controlplane explain limit tenant --key X-Tenant=acme --fleet shop/edge`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := get[admin.LimitsView](cmd.Context(), &c, "/limits")
			if err != nil {
				return err
			}
			found, err := pickLimit(view.Limits, args[0], fleet)
			if err != nil {
				return err
			}
			query := url.Values{"fleet": {found.Fleet}, "rule": {found.Rule}, "key": key}
			return show(cmd, &c, "/limits/explain?"+query.Encode(), explainLimit)
		},
	}
	cmd.Flags().StringVar(&fleet, "fleet", "", "the fleet, NAMESPACE/GATEWAY, where several have the limit")
	cmd.Flags().StringArrayVar(&key, "key", nil, "a part of the limit's key and its value, PART=VALUE (repeatable); none: a request that lacks a part")
	must(cmd.RegisterFlagCompletionFunc("key", cobra.NoFileCompletions))
	c.addFlags(cmd, true)
	return cmd
}

// pickLimit is the one limit that is meant.
func pickLimit(all []admin.LimitView, name, fleet string) (found admin.LimitView, err error) {
	var names, fits []string
	for _, l := range all {
		names = append(names, l.Rule)
		if (l.Rule == name || strings.HasSuffix(l.Rule, "/"+name)) && (fleet == "" || l.Fleet == fleet) {
			found = l
			fits = append(fits, l.Rule+" of fleet "+l.Fleet)
		}
	}
	switch len(fits) {
	case 0:
		there := "there is none"
		if len(names) > 0 {
			there = "there is " + strings.Join(names, ", ")
		}
		return found, refusedError(fmt.Errorf("no limit %q; %s", name, there))
	case 1:
		return found, nil
	}
	return found, usageError(errors.New("several limits fit: " + strings.Join(fits, ", ") + "; give the whole name, or --fleet"))
}

func explainLimit(out screen, view admin.ExplainLimitView) error {
	l, e := view.Limit, view.Explanation
	var b strings.Builder
	fmt.Fprintf(&b, "%s of fleet %s, key %s\n", out.paint(bold, plain(l.Rule)), plain(l.Fleet), orDash(plain(e.Key)))
	from := "the limit's own"
	if e.Value >= 0 {
		from = fmt.Sprintf("of values[%d]", e.Value)
	}
	fmt.Fprintf(&b, "  bound   %s, %s", boundText(e.Bound), from)
	if e.Factor != 1 {
		fmt.Fprintf(&b, ", with the factor %.2f in it", e.Factor)
	}
	b.WriteByte('\n')
	if l.Adapt != nil {
		fmt.Fprintf(&b, "  factor  %s\n", plain(l.Adapt.Describe()))
	}
	if l.Changing {
		b.WriteString("  changing: the tighter of two bounds holds until all Envoys have acknowledged\n")
	}
	switch {
	case e.Bound.Unlimited:
		b.WriteString("  now     nothing is refused\n")
	case e.Bound.Concurrency > 0:
		fmt.Fprintf(&b, "  now     %d in service, %d more would be admitted\n", e.Held, e.Remaining)
	case e.Admitted:
		fmt.Fprintf(&b, "  now     %d more would be admitted at once; all is earned back in %s\n", e.Remaining, admin.Duration(e.Reset))
	default:
		fmt.Fprintf(&b, "  now     %s; the next one is admitted in %s\n", out.paint(yellow, "refused"), admin.Duration(e.Reset))
	}
	if e.Shadow {
		b.WriteString("  Shadow: it only counts, and refuses nothing\n")
	}
	_, err := fmt.Fprint(out, b.String())
	return err
}
