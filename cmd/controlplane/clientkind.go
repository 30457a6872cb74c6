package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// clientKind is a kind of client that has a rendering of its own, as a flag.
type clientKind string

const (
	envoyClient clientKind = "envoy"
	grpcClient  clientKind = "grpc"
)

func (k *clientKind) addFlag(cmd *cobra.Command) {
	*k = envoyClient
	cmd.Flags().Var(k, "client", "what clients of this kind are served: envoy or grpc")
	must(cmd.RegisterFlagCompletionFunc("client", cobra.FixedCompletions([]string{string(envoyClient), string(grpcClient)}, cobra.ShellCompDirectiveNoFileComp)))
}

// String, Set and Type implement pflag.Value.
func (k *clientKind) String() string { return string(*k) }

func (k *clientKind) Set(s string) error {
	if s != string(envoyClient) && s != string(grpcClient) {
		return fmt.Errorf("expected %s or %s", envoyClient, grpcClient)
	}
	*k = clientKind(s)
	return nil
}

func (k *clientKind) Type() string { return "string" }
