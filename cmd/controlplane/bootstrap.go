package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/translate"
)

func newBootstrapCommand() *cobra.Command {
	options := translate.BootstrapOptions{}
	xdsAddress := "127.0.0.1:18000"
	output, mountedAt := "", ""
	cmd := &cobra.Command{
		Use:   "bootstrap --fleet NAMESPACE/GATEWAY",
		Short: "print an Envoy bootstrap that works as it is",
		Long: `bootstrap prints the configuration with which an Envoy joins a fleet: the Envoys of one Gateway.
With --fleet eds:NAMESPACE it prints one for an Envoy that brings listeners and clusters of its own
and takes only the endpoints, with their weights, from here.

With --tls-dir the Envoy shows the control plane a certificate, which says what fleet it is of, and asks
for one. Envoy takes up new certificates without a restart only through two more files, so with --output the
bootstrap and those are written to a folder: envoy.yaml, sds-certificate.yaml and sds-authority.yaml. If
the Envoy finds the folder somewhere else, as in a container, say where with --mounted-at. Printed
alone, the bootstrap has Envoy read its certificates once, when it starts.`,
		Example: `  controlplane bootstrap --fleet shop/edge > envoy.yaml && envoy -c envoy.yaml
  controlplane bootstrap --fleet shop/edge --xds-address evenkeel.infra:18000 --tls-dir /etc/envoy/tls --output /etc/envoy
  controlplane bootstrap --fleet shop/edge --xds-address evenkeel.infra:18000 --tls-dir /tls --output edge/ --mounted-at /config &&
    kubectl create configmap edge-envoy --namespace shop --from-file edge/
  controlplane bootstrap --fleet eds:shop`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if options.Fleet == "" {
				return usageError(errors.New("--fleet is missing: name the Gateway as NAMESPACE/GATEWAY, or eds:NAMESPACE for endpoints only"))
			}
			host, port, err := net.SplitHostPort(xdsAddress)
			if err != nil {
				return usageError(fmt.Errorf("--xds-address %q: expected host:port", xdsAddress))
			}
			number, err := strconv.ParseUint(port, 10, 16)
			if err != nil || number == 0 {
				return usageError(fmt.Errorf("--xds-address %q: expected a port from 1 to 65535", xdsAddress))
			}
			options.XDSHost, options.XDSPort = host, int(number)
			if output != "" {
				return writeBootstrap(options, output, mountedAt)
			}
			if mountedAt != "" {
				return usageError(errors.New("--mounted-at says where the Envoy finds what --output writes: give both"))
			}
			out, err := translate.Bootstrap(options)
			if err != nil {
				return usageError(err)
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&options.Fleet, "fleet", "", "the Gateway, NAMESPACE/GATEWAY, or eds:NAMESPACE (required)")
	flags.StringVar(&options.NodeID, "node-id", "", "what this Envoy is called in tables and logs; empty: after the fleet (envoy --service-node tells several apart)")
	flags.StringVar(&xdsAddress, "xds-address", xdsAddress, "where the control plane serves xDS")
	flags.IntVar(&options.AdminPort, "admin-port", 9901, "Envoy's own admin port on 127.0.0.1; 0 for none")
	flags.IntVar(&options.Workers, "concurrency", 0, "the number of worker threads Envoy is started with (its --concurrency); 0 leaves it unsaid")
	flags.StringVar(&options.Zone, "zone", "", "the zone this Envoy runs in")
	flags.StringVar(&options.TLSDir, "tls-dir", "", "a folder with tls.crt, tls.key and ca.crt for mutual TLS with the control plane")
	flags.StringVar(&output, "output", "", "write envoy.yaml to this folder, and with --tls-dir what lets Envoy take up new certificates; empty prints the bootstrap alone")
	flags.StringVar(&mountedAt, "mounted-at", "", "where the Envoy finds the folder of --output; empty: at the same path")
	_ = cmd.MarkFlagDirname("output")
	return cmd
}

// writeBootstrap writes the bootstrap and its companions to a directory.
func writeBootstrap(options translate.BootstrapOptions, dir, mountedAt string) error {
	if mountedAt == "" {
		var err error
		if mountedAt, err = filepath.Abs(dir); err != nil {
			return refusedError(err)
		}
	}
	files := map[string][]byte{}
	if options.TLSDir != "" {
		options.SDSDir = mountedAt
		var err error
		if files, err = translate.SDS(options); err != nil {
			return usageError(err)
		}
	}
	bootstrap, err := translate.Bootstrap(options)
	if err != nil {
		return usageError(err)
	}
	files["envoy.yaml"] = bootstrap
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return refusedError(fmt.Errorf("--output: %w", err))
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return refusedError(fmt.Errorf("--output: %w", err))
		}
	}
	return nil
}
