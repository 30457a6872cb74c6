package main

import (
	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/admin"
)

func newFreezeCommand() *cobra.Command {
	return newHoldCommand(&cobra.Command{
		Use:   "freeze [SERVICE]",
		Short: "hold weights as they are",
		Long: `freeze stops changes of weights of a SERVICE, or of all without one, until unfreeze. Readings and
estimates go on, endpoints that leave still leave, and those that join get their share.`,
		Example: "  controlplane freeze shop/cart:8080\n  controlplane freeze",
	}, "/freeze")
}

func newUnfreezeCommand() *cobra.Command {
	return newHoldCommand(&cobra.Command{
		Use:     "unfreeze [SERVICE]",
		Short:   "let weights move again",
		Long:    `unfreeze ends what freeze began, for a SERVICE or for all. Weights move on from where they were held.`,
		Example: "  controlplane unfreeze shop/cart:8080\n  controlplane unfreeze",
	}, "/unfreeze")
}

// newHoldCommand completes a command that posts to path for one Service or all.
func newHoldCommand(cmd *cobra.Command, path string) *cobra.Command {
	var c client
	cmd.Args = rangeArgs(0, 1)
	cmd.ValidArgsFunction = c.completeServices(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var request admin.ActionRequest
		if len(args) == 1 {
			name, err := c.serviceName(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			request.Service = name
		}
		return c.act(cmd, path, request)
	}
	c.addFlags(cmd, false)
	return cmd
}
