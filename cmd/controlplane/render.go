package main

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/pipeline"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source/dir"
	"evenkeel.io/controlplane/internal/translate"
)

func newRenderCommand() *cobra.Command {
	var fleet, kind, listenerAddress string
	var to clientKind
	cmd := &cobra.Command{
		Use:   "render DIR",
		Short: "print the xDS that a directory would be served as, without a server",
		Long: `render prints, as YAML documents, the resources that every fleet of the directory would be served at
its start: endpoints have the weights they have before anything is measured.`,
		Example: `  controlplane render config/
  controlplane render config/ --fleet shop/edge --type rds
  controlplane render config/ --client grpc`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if kind != "" && !slices.Contains(translate.Types, translate.Type(kind)) {
				return usageError(fmt.Errorf("--type %q: expected one of %s", kind, typeNames()))
			}
			store, err := dir.Load(args[0])
			if err != nil {
				return refusedError(err)
			}
			snapshots := pipeline.Render(store, pipeline.Options{
				Catalog:   fromFiles,
				Translate: translate.Options{ListenerAddress: listenerAddress},
				Log:       slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})),
			})
			if fleet != "" && snapshots[fleet] == nil {
				return refusedError(fmt.Errorf("no fleet %q in %s; it has %s", fleet, args[0], strings.Join(slices.Sorted(maps.Keys(snapshots)), ", ")))
			}
			for _, name := range slices.Sorted(maps.Keys(snapshots)) {
				if fleet != "" && name != fleet {
					continue
				}
				served := snapshots[name]
				if to == grpcClient {
					served = served.ForGRPC(func(err error) { fmt.Fprintln(cmd.ErrOrStderr(), "not served to gRPC clients:", err) })
				}
				if err := renderSnapshot(cmd.OutOrStdout(), name, served, translate.Type(kind)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&fleet, "fleet", "", "only this fleet, NAMESPACE/GATEWAY")
	cmd.Flags().StringVar(&kind, "type", "", "only this type: "+typeNames())
	must(cmd.RegisterFlagCompletionFunc("type", completeTypes))
	to.addFlag(cmd)
	cmd.Flags().StringVar(&listenerAddress, "listener-address", "0.0.0.0", "the address that listeners bind to")
	return cmd
}

func renderSnapshot(out io.Writer, fleet string, s *snapshot.Snapshot, only translate.Type) error {
	for _, t := range translate.Types {
		if only != "" && t != only {
			continue
		}
		resources := s.Resources(t)
		for _, name := range slices.Sorted(maps.Keys(resources)) {
			body, err := resources[name].YAML()
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "---\n# fleet %s, %s %s, version %s, from %s\n%s", fleet, t, name, resources[name].Version, resources[name].Source, body)
		}
	}
	return nil
}

var completeTypes = cobra.FixedCompletions(strings.Split(typeNames(), ", "), cobra.ShellCompDirectiveNoFileComp)

func typeNames() string {
	names := make([]string, len(translate.Types))
	for i, t := range translate.Types {
		names[i] = string(t)
	}
	return strings.Join(names, ", ")
}
