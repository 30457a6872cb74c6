package main

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/admin"
)

func newHistoryCommand() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "history [FLEET|SERVICE]",
		Short: "what changed, when and why",
		Long: `history lists the last generations of fleets (anything but endpoints changed) and the last pushes of
endpoints and weights, the newest first, each with its reason. 64 of each are kept, per fleet and per
Service. STATE says which generation is served, which one the fleet is pinned to, and which are held back
by that. With a FLEET (<namespace>/<gateway>) or a SERVICE (<namespace>/<name>:<port>) it lists only
those of one.`,
		Example: `  controlplane history
  controlplane history shop/edge
  controlplane history shop/cart:8080`,
		Args: rangeArgs(0, 1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, complete string) ([]string, cobra.ShellCompDirective) {
			fleets, _ := c.completeFleets(cmd, args, complete)
			services, directive := c.completeServices(1)(cmd, args, complete)
			return append(fleets, services...), directive
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "/history"
			if len(args) == 1 {
				key := "fleet"
				if strings.Contains(args[0], ":") {
					key = "service"
				}
				path += "?" + url.Values{key: {args[0]}}.Encode()
			}
			return show(cmd, &c, path, historyTables)
		},
	}
	c.addFlags(cmd, true)
	return cmd
}

func historyTables(out screen, view admin.HistoryView) error {
	generations := newTable("WHEN", "FLEET", ">GENERATION", "STATE", "BY", "WHY", "CHANGED")
	for _, g := range view.Generations {
		var changed []string
		for i, c := range g.Changes {
			if i == 3 {
				changed = append(changed, fmt.Sprintf("and %d more", len(g.Changes)-i))
				break
			}
			changed = append(changed, fmt.Sprintf("%s %s %s", c.Op, c.Type, c.Name))
		}
		generations.add(text("%s", when(g.At)), text("%s", g.Fleet), text("%d", g.Number), state(orDash(string(g.State))), text("%s", orDash(g.By)), text("%s", g.Why), text("%s", orDash(strings.Join(changed, ", "))))
	}
	pushes := newTable("WHEN", "SERVICE", "WHY", ">CHANGED", ">ENDPOINTS")
	for _, p := range view.Pushes {
		pushes.add(text("%s", when(p.At)), text("%s", p.Service), text("%s", p.Why), text("%d", len(p.Changes)), text("%d", len(p.Weights)))
	}
	if len(generations.rows) > 0 {
		if err := generations.print(out, ""); err != nil {
			return err
		}
	}
	if len(pushes.rows) == 0 && len(generations.rows) > 0 {
		return nil
	}
	if len(generations.rows) > 0 {
		fmt.Fprintln(out)
	}
	if err := pushes.print(out, "Nothing was served or pushed yet."); err != nil {
		return err
	}
	if view.OmittedPushes > 0 {
		fmt.Fprintf(out, "%d older pushes are not shown; name a SERVICE to see all that are kept of it\n", view.OmittedPushes)
	}
	return nil
}
