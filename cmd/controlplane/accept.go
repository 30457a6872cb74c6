package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/pipeline"
	"evenkeel.io/controlplane/internal/replica"
	"evenkeel.io/controlplane/internal/source"
)

func newAcceptCommand() *cobra.Command {
	return newHoldCommand(&cobra.Command{
		Use:   "accept [SERVICE]",
		Short: "take a removal that is held",
		Long: `accept takes away at once the endpoints of a SERVICE that a list of the API server left out, and that are
held because no event told of their removal; without one, all objects that are held so. /status shows
them as Degraded, LastKnownGood.

Of several replicas the one that leads has all of them do it: each holds what its own lists left out.

What an accepted list got wrong comes back with the next one that has it.`,
		Example: "  controlplane accept shop/cart:8080\n  controlplane accept",
	}, "/accept")
}

// operator is what the admin port lets an operator do.
type operator struct {
	*pipeline.Pipeline
	source  source.Source
	replica *replica.Replica // nil if there is no other
}

// Accept asks the source, and those of the replicas that follow: each holds what its own lists left out. It is no
// error if only another one holds something.
func (o operator) Accept(ctx context.Context, by, service string) error {
	if o.replica == nil {
		return o.AcceptHere(ctx, by, service)
	}
	if err := o.replica.Role().MayAct(); err != nil {
		return err
	}
	followers := o.replica.Followers()
	elsewhere := o.replica.Accept(by, service)
	if here := o.AcceptHere(ctx, by, service); followers == 0 {
		return here
	}
	return elsewhere
}

// AcceptHere asks the source, if it holds things.
func (o operator) AcceptHere(ctx context.Context, by, service string) error {
	holder, ok := o.source.(interface {
		Accept(ctx context.Context, by, service string) error
	})
	if !ok {
		return errors.New("nothing is held: what an edit of the directory removes goes at once")
	}
	return holder.Accept(ctx, by, service)
}
