package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/pipeline"
	"evenkeel.io/controlplane/internal/source"
)

func newAcceptCommand() *cobra.Command {
	return newHoldCommand(&cobra.Command{
		Use:   "accept [SERVICE]",
		Short: "take a removal that is held",
		Long: `accept takes away at once the endpoints of a SERVICE that a list of the API server left out, and that are
held because no event told of their removal; without one, all objects that are held so. /status shows
them as Degraded, LastKnownGood.

What an accepted list got wrong comes back with the next one that has it.`,
		Example: "  controlplane accept shop/cart:8080\n  controlplane accept",
	}, "/accept")
}

// operator is what the admin port lets an operator do.
type operator struct {
	*pipeline.Pipeline
	source source.Source
}

// Accept asks the source, if it holds things.
func (o operator) Accept(ctx context.Context, by, service string) error {
	holder, ok := o.source.(interface {
		Accept(ctx context.Context, by, service string) error
	})
	if !ok {
		return errors.New("nothing is held: what an edit of the directory removes goes at once")
	}
	return holder.Accept(ctx, by, service)
}
