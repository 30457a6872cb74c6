package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/admin"
)

func newRollbackCommand() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "rollback FLEET GENERATION",
		Short: "serve a fleet an earlier generation",
		Long: `rollback pins a FLEET (<namespace>/<gateway>) to an earlier GENERATION of its history, of which 64 are
kept. Its endpoints and weights stay those of now. The objects are not changed: the pin holds until
unpin, or until one of the objects that were rolled back changes again, which is taken for the fix.
Changes of other objects wait meanwhile; history says HeldBack. It also holds over a restart with
--state-dir.`,
		Example: `  controlplane history shop/edge        # which generations there are, and why
  controlplane diff shop/edge 7 6       # what going from 7 back to 6 would change
  controlplane rollback shop/edge 6
  controlplane unpin shop/edge`,
		Args: exactArgs(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, complete string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return c.completeGenerations(cmd.Context(), args[0])
			}
			return c.completeFleets(cmd, args, complete)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFleet(args[0]); err != nil {
				return err
			}
			generation, err := strconv.ParseUint(args[1], 10, 64)
			if err != nil || generation == 0 {
				return usageError(fmt.Errorf("GENERATION %q: expected the number of a generation; `controlplane history %s` lists them", args[1], args[0]))
			}
			return c.act(cmd, "/rollback", admin.RollbackRequest{Fleet: args[0], Generation: generation})
		},
	}
	c.addFlags(cmd, false)
	return cmd
}

func newUnpinCommand() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:               "unpin FLEET",
		Short:             "serve a fleet its newest generation again",
		Long:              `unpin ends what rollback began: the FLEET is served what its objects say now.`,
		Example:           "  controlplane unpin shop/edge",
		Args:              exactArgs(1),
		ValidArgsFunction: c.completeFleets,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFleet(args[0]); err != nil {
				return err
			}
			return c.act(cmd, "/unpin", admin.UnpinRequest{Fleet: args[0]})
		},
	}
	c.addFlags(cmd, false)
	return cmd
}

// completeGenerations completes with the generations of a fleet that are not served, the newest first, each
// with its reason.
func (c *client) completeGenerations(ctx context.Context, fleet string) ([]string, cobra.ShellCompDirective) {
	var names []string
	ctx, cancel := completionContext(ctx)
	defer cancel()
	c.fromEnvironment()
	if view, err := get[admin.HistoryView](ctx, c, "/history"); err == nil {
		for _, g := range view.Generations {
			if g.Fleet == fleet && g.State == "" {
				names = append(names, cobra.CompletionWithDesc(strconv.FormatUint(g.Number, 10), plain(g.Why)))
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}
