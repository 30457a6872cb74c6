// Command controlplane is Evenkeel: a load-aware xDS control plane. This package wires the rooms of
// internal/ together and has one file per subcommand; it decides nothing itself.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the process at once
	}()
	err := newRootCommand().ExecuteContext(ctx)
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
	}
	os.Exit(exitCode(err))
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "controlplane",
		Short: "Evenkeel, a load-aware xDS control plane",
		Long: `Evenkeel tells a fleet of Envoys where to send requests and how much each endpoint can take.
It reads Services, EndpointSlices, Gateway API routes, BalancePolicies and LimitPolicies, measures what every
endpoint can really do, and pushes EDS weights, clusters, routes and listeners over xDS.

Every flag can also be given in the environment: --admin-address as EVENKEEL_ADMIN_ADDRESS.
Exit codes: 0 ok, 1 refused input, 2 usage, 3 cannot reach the control plane.`,
		Example: `  controlplane demo                                  # see it move traffic
  controlplane check config/                         # what would be refused, with file and line
  controlplane serve --config-dir config/            # run it
  controlplane bootstrap --fleet shop/edge > b.yaml  # a bootstrap for an Envoy of Gateway shop/edge
  controlplane explain shop/cart:8080                # why the weights are what they are`,
		SilenceErrors: true,
		SilenceUsage:  true,
		// Without these two cobra's own error of a command that does not exist would have another exit code.
		Args:                       noSuchCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		DisableFlagsInUseLine:      true,
		SuggestionsMinimumDistance: 2,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return flagsFromEnvironment(cmd.Flags(), os.LookupEnv)
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(fmt.Errorf("%w; see %s --help", err, cmd.CommandPath()))
	})
	root.AddGroup(
		&cobra.Group{ID: "run", Title: "Run:"},
		&cobra.Group{ID: "files", Title: "Before running, from files alone:"},
		&cobra.Group{ID: "look", Title: "Look into a running control plane:"},
		&cobra.Group{ID: "act", Title: "Act on a running control plane:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("run", newServeCommand(), newDemoCommand())
	add("files", newCheckCommand(), newRenderCommand(), newBootstrapCommand(), newCertgenCommand())
	add("look", newProxiesCommand(), newServicesCommand(), newExplainCommand(), newLimitsCommand(), newSnapshotCommand(), newTargetsCommand(),
		newHistoryCommand(), newDiffCommand(), newNacksCommand())
	add("act", newFreezeCommand(), newUnfreezeCommand(), newRollbackCommand(), newUnpinCommand(), newAcceptCommand())
	root.AddCommand(newVersionCommand())
	return root
}

// noSuchCommand refuses what is no subcommand.
func noSuchCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	meant := ""
	if near := root.SuggestionsFor(args[0]); len(near) > 0 {
		meant = "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usageError(fmt.Errorf("there is no command %q%s; see %s --help", args[0], meant, root.CommandPath()))
}

// flagsFromEnvironment sets every flag that the command line did not, and the environment does:
// --some-flag from EVENKEEL_SOME_FLAG.
func flagsFromEnvironment(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name := environmentName(f.Name)
		value, ok := lookup(name)
		if f.Changed || !ok || f.Name == "help" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			errs = append(errs, usageError(fmt.Errorf("%s=%q: %w", name, value, err)))
		}
	})
	return errors.Join(errs...)
}

func environmentName(flag string) string {
	return "EVENKEEL_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}
