package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// The exit codes that scripts may rely on.
const (
	exitOK          = 0
	exitRefused     = 1 // the input was refused, or something failed that has no code of its own
	exitUsage       = 2 // the command line is wrong
	exitUnreachable = 3 // the control plane did not answer
)

// exitError is an error that ends the program with a code of its own.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string { return e.err.Error() }
func (e exitError) Unwrap() error { return e.err }

func refusedError(err error) error     { return exitError{exitRefused, err} }
func usageError(err error) error       { return exitError{exitUsage, err} }
func unreachableError(err error) error { return exitError{exitUnreachable, err} }

// exitCode is what the program ends with after err. Being interrupted is no failure.
func exitCode(err error) int {
	if err == nil || errors.Is(err, context.Canceled) {
		return exitOK
	}
	if e, ok := errors.AsType[exitError](err); ok {
		return e.code
	}
	return exitRefused
}

// exactArgs and rangeArgs are cobra's, with an error that shows the right use.
func exactArgs(n int) cobra.PositionalArgs { return rangeArgs(n, n) }

func rangeArgs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usageError(fmt.Errorf("expected %s; see %s --help", cmd.UseLine(), cmd.CommandPath()))
		}
		return nil
	}
}
