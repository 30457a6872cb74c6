package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// versions say what this program is and what it speaks.
type versions struct {
	Version      string `json:"version"`          // of the module
	Commit       string `json:"commit,omitempty"` // "-dirty" appended where files were changed
	Go           string `json:"go"`
	XDS          string `json:"xds"`
	EnvoyAPI     string `json:"envoyAPI"`     // the Envoy release whose protos are compiled in
	GatewayAPI   string `json:"gatewayAPI"`   // the release whose types are read
	BalanceKinds string `json:"balanceKinds"` // group and version of our own kinds
}

func newVersionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "version of this program and of the protocols it speaks",
		Long:    "version prints the version of the module, the commit it was built from, and the versions of Go, of the xDS protos and of the kinds it reads. It asks no control plane.",
		Example: "  controlplane version\n  controlplane version -o json",
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, _ := debug.ReadBuildInfo()
			v := versionsOf(info)
			body, err := json.MarshalIndent(v, "", "  ")
			if err != nil {
				return err
			}
			switch output {
			case "table":
				t := newTable("PART", "VERSION")
				for _, row := range [][2]string{{"controlplane", v.Version}, {"commit", orDash(v.Commit)}, {"Go", v.Go}, {"xDS", v.XDS},
					{"Envoy API", v.EnvoyAPI}, {"Gateway API", v.GatewayAPI}, {"own kinds", v.BalanceKinds}} {
					t.add(text("%s", row[0]), text("%s", row[1]))
				}
				return t.print(screenOf(cmd.OutOrStdout()), "")
			case "json":
				body = append(body, '\n')
			case "yaml":
				if body, err = yaml.JSONToYAML(body); err != nil {
					return err
				}
			default:
				return usageError(fmt.Errorf("-o %q: expected table, json or yaml", output))
			}
			_, err = cmd.OutOrStdout().Write(body)
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// versionsOf reads what the Go toolchain wrote into the program; info may be nil.
func versionsOf(info *debug.BuildInfo) versions {
	v := versions{Version: "unknown", Go: runtime.Version(), XDS: "v3, delta and state of the world", EnvoyAPI: "unknown", GatewayAPI: "unknown", BalanceKinds: "evenkeel.io/v1alpha1"}
	if info == nil {
		return v
	}
	v.Version = cmp.Or(info.Main.Version, v.Version)
	dependency := func(path, fallback string) string {
		if i := slices.IndexFunc(info.Deps, func(m *debug.Module) bool { return m.Path == path }); i >= 0 {
			return info.Deps[i].Version
		}
		return fallback
	}
	v.EnvoyAPI = dependency("github.com/envoyproxy/go-control-plane/envoy", v.EnvoyAPI)
	v.GatewayAPI = dependency("sigs.k8s.io/gateway-api", v.GatewayAPI)
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v.Commit = s.Value + v.Commit
		case s.Key == "vcs.modified" && s.Value == "true":
			v.Commit += "-dirty"
		}
	}
	return v
}
