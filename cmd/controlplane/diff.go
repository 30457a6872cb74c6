package main

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/admin"
)

func newDiffCommand() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "diff FLEET FROM TO",
		Short: "what differs between two generations of a fleet",
		Long: `diff compares what a FLEET was served in two generations, whose numbers controlplane history lists, and
prints every resource that differs as a unified diff of its YAML. From the newest to an earlier one it
shows what a rollback would change; endpoints and weights are in no generation.`,
		Example:           "  controlplane diff shop/edge 6 7\n  controlplane diff shop/edge 7 6   # what `controlplane rollback shop/edge 6` would do",
		Args:              exactArgs(3),
		ValidArgsFunction: c.completeFleets,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFleet(args[0]); err != nil {
				return err
			}
			for i, name := range []string{"FROM", "TO"} {
				if _, err := strconv.ParseUint(args[i+1], 10, 64); err != nil {
					return usageError(fmt.Errorf("%s %q: expected the number of a generation; `controlplane history %s` lists them", name, args[i+1], args[0]))
				}
			}
			query := url.Values{"fleet": {args[0]}, "from": {args[1]}, "to": {args[2]}}
			return show(cmd, &c, "/diff?"+query.Encode(), printDiff)
		},
	}
	c.addFlags(cmd, true)
	return cmd
}

func printDiff(out screen, view admin.DiffView) error {
	var b strings.Builder
	for _, change := range view.Changes {
		op := state(change.Op)
		fmt.Fprintf(&b, "%s %s %s\n", out.paint(op.colour, op.text), plain(change.Type), out.paint(bold, plain(change.Name)))
		number := 0
		for line := range strings.Lines(change.Text) {
			line = strings.TrimRight(line, "\n")
			number++
			c := none
			switch {
			case number <= 2, strings.HasPrefix(line, "@@"): // the first two name what is compared
				c = faint
			case strings.HasPrefix(line, "+"):
				c = green
			case strings.HasPrefix(line, "-"):
				c = red
			}
			b.WriteString(out.paint(c, plain(line)) + "\n")
		}
	}
	if len(view.Changes) == 0 {
		fmt.Fprintf(&b, "No difference between generation %d and %d of %s.\n", view.From, view.To, view.Fleet)
	}
	_, err := fmt.Fprint(out, b.String())
	return err
}
