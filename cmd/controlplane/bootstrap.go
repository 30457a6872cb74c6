package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/spf13/cobra"

	"evenkeel.io/controlplane/internal/translate"
)

func newBootstrapCommand() *cobra.Command {
	options := translate.BootstrapOptions{}
	xdsAddress := "127.0.0.1:18000"
	cmd := &cobra.Command{
		Use:   "bootstrap --fleet NAMESPACE/GATEWAY",
		Short: "print an Envoy bootstrap that works as it is",
		Long: `bootstrap prints the configuration with which an Envoy joins a fleet: the Envoys of one Gateway.
With --fleet eds:NAMESPACE it prints one for an Envoy that brings listeners and clusters of its own
and takes only the endpoints, with their weights, from here.`,
		Example: `  controlplane bootstrap --fleet shop/edge > envoy.yaml && envoy -c envoy.yaml
  controlplane bootstrap --fleet shop/edge --xds-address evenkeel.infra:18000 --tls-dir /etc/envoy/tls
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
	return cmd
}
