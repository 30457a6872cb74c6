package main

import (
	"strings"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/admin"
)

func newProxiesCommand() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "proxies",
		Short: "connected proxies and how far each is",
		Long: `proxies lists the connected nodes and, per resource type, whether each acknowledged what it was sent:

  SYNCED   it acknowledged what is served now
  PENDING  it was sent something and has not answered yet; the time is how long ago
  NACKED   it refused the newest version and runs an older one; see controlplane nacks
  NO_FLEET its node.cluster names no Gateway (or, for eds:<namespace>, no namespace) of ours
  -        it did not subscribe to the type

Of several replicas the leader knows the proxies of all; it names the replica after the protocol.`,
		Example: `  controlplane proxies
  controlplane proxies -o json | jq '.proxies[] | select(.lastNack)'`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return show(cmd, &c, "/proxies", proxiesTable) },
	}
	c.addFlags(cmd, true)
	return cmd
}

func proxiesTable(out screen, view admin.ProxiesView) error {
	headings := []string{"NODE", "FLEET"}
	types := admin.SubscribedTypes(view.Proxies)
	for _, t := range types {
		headings = append(headings, strings.ToUpper(t))
	}
	t := newTable(append(headings, "CLIENT", "ZONE", "PROTOCOL", "CONNECTED")...)
	for _, p := range view.Proxies {
		row := []tableCell{text("%s", p.Node), text("%s", p.Fleet)}
		for _, name := range types {
			c := tableCell{text: "-"}
			if of := p.Types[name]; of.Subscribed() {
				if c = state(of.State); of.Lag > 0 {
					c.text += " " + of.Lag.String()
				}
			}
			row = append(row, c)
		}
		t.add(append(row, text("%s", strings.TrimSpace(p.Agent+" "+p.Build)), text("%s", orDash(p.Zone)), text("%s", strings.TrimSpace(p.Protocol+" "+p.Replica)), text("%s", when(p.ConnectedAt)))...)
	}
	return t.print(out, "No proxy is connected. `controlplane bootstrap --fleet NAMESPACE/GATEWAY` prints what an Envoy needs to start.")
}
