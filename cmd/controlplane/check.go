package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/source/dir"
)

func newCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check DIR",
		Short: "say what serve would refuse in a directory, with file and line",
		Long: `check reads the directory as serve would and prints every problem as

  file:line: Kind namespace/name: field: message

It exits with 1 if any object is refused. Objects that are accepted but name something that is not
there (a backend, a port) are printed too; they alone do not make it fail.`,
		Example: "  controlplane check config/\n  controlplane check config/ && git push",
		Args:    exactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := dir.Load(args[0])
			if err != nil {
				return refusedError(err)
			}
			problems, refused := check(store)
			for _, p := range problems {
				fmt.Fprintln(cmd.OutOrStdout(), p)
			}
			if refused > 0 {
				return refusedError(fmt.Errorf("%d refused in %s; the rest would be served", refused, args[0]))
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d objects, none refused\n", args[0], len(store.Origins))
			return nil
		},
	}
}

// check lists all problems of a Store in the order of files and lines, and counts the refusals.
func check(store *source.Store) (problems []source.Problem, refused int) {
	problems = slices.Clone(store.Problems)
	refused = len(problems)
	for _, v := range catalog.Build(nil, store, fromFiles).Verdicts {
		if !v.Accepted.OK {
			refused++
			problems = append(problems, problem(store, v, v.Accepted))
		}
		if !v.ResolvedRefs.OK && v.Accepted.OK {
			problems = append(problems, problem(store, v, v.ResolvedRefs))
		}
	}
	slices.SortStableFunc(problems, source.ComparePlaces)
	return problems, refused
}

func problem(store *source.Store, v catalog.Verdict, c catalog.Condition) source.Problem {
	p := source.Problem{Object: v.Object, Field: c.Field, Message: c.Message}
	if origin := store.Origins[v.Object]; origin != nil {
		p.File, p.Line = origin.File, origin.LineOf(c.Field)
	}
	return p
}
