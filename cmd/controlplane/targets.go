package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/admin"
)

func newTargetsCommand() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "targets",
		Short: "what is scraped, queried or reported, and how that goes",
		Long: `targets lists the pages that are scraped, the queries that Prometheus servers are asked, and the services
whose load Envoys report. Those that are down come first, with the last time of each, how long it took, and
what went wrong or what the policy names and the target does not have. The text of a query is in -o json
and on the admin page.`,
		Example: `  controlplane targets
  controlplane targets -o json | jq -r '.targets[] | select(.state=="down") | .url'`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return show(cmd, &c, "/targets", targetsTable) },
	}
	c.addFlags(cmd, true)
	return cmd
}

func targetsTable(out screen, view admin.TargetsView) error {
	t := newTable("TARGET", "OWNER", "STATE", "LAST SCRAPE", ">TOOK", ">SERIES", "TROUBLE")
	for _, target := range view.Targets {
		trouble := target.LastError
		if trouble == "" {
			troubles := slices.Clone(target.Rejected)
			if len(target.Missing) > 0 {
				troubles = append(troubles, "not exported: "+strings.Join(target.Missing, ", "))
			}
			trouble = strings.Join(troubles, "; ")
		}
		t.add(text("%s", target.URL), text("%s", target.Owner), state(target.State), text("%s", when(target.LastScrape)),
			text("%s", target.LastDuration), text("%d", target.Samples), text("%s", trouble))
	}
	return t.print(out, `Nothing is scraped. An endpoint is when a BalancePolicy reaches its Service and its Pod (or EndpointSlice) has the annotation prometheus.io/scrape: "true".`)
}
