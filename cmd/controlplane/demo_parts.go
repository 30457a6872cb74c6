package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"evenkeel.io/controlplane/internal/demo"
)

func newDemoBackendCommand() *cobra.Command {
	address, index := "127.0.0.1:8080", 0
	cmd := &cobra.Command{
		Use:   "backend",
		Short: "one simulated backend of the demo, to run in a Pod",
		Long: fmt.Sprintf(`backend runs one of the demo's simulated servers: %d workers that take %v for a request at speed 1, and by
--index a speed of %v. It answers every path, uses next to no CPU, and exports the metrics of
an ordinary Go server at /metrics, with the CPU time that the work would have taken.`, demoWorkers, demoWork, demoSpeeds),
		Example: `  controlplane demo backend --address 127.0.0.1:8081 --index 2`,
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return usageError(fmt.Errorf("--address %q: expected IP:PORT", address))
			}
			if index < 0 {
				return usageError(fmt.Errorf("--index %d: expected 0 or more", index))
			}
			return runDemoBackend(cmd.Context(), at, index)
		},
	}
	cmd.Flags().StringVar(&address, "address", address, "where to listen; answers carry it in the header X-Demo-Backend")
	cmd.Flags().IntVar(&index, "index", 0, "which of the speeds; it may be the ordinal of a StatefulSet's Pod, after the last speed comes the first")
	return cmd
}

func runDemoBackend(ctx context.Context, address netip.AddrPort, index int) error {
	backend, err := demo.NewBackend(demo.BackendConfig{
		Address: address, Workers: demoWorkers, Speed: demoSpeeds[index%len(demoSpeeds)],
		Work: demo.Distribution{Shape: demo.Exponential, Mean: demoWork}, Seed: uint64(index + 1),
	})
	if err != nil {
		return err
	}
	defer backend.Close()
	listener, err := net.Listen("tcp", address.String())
	if err != nil {
		return refusedError(fmt.Errorf("--address: %w", err))
	}
	server := &http.Server{Handler: backend, ReadHeaderTimeout: 10 * time.Second}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Serve(listener) })
	group.Go(func() error {
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return server.Shutdown(stop)
	})
	if err := group.Wait(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func newDemoLoadCommand() *cobra.Command {
	o, every, header := demo.LoadOptions{Header: http.Header{}}, 5*time.Second, map[string]string{}
	cmd := &cobra.Command{
		Use:   "load --url http://127.0.0.1:PORT/",
		Short: "the open-loop load of the demo, to run beside an Envoy",
		Long: `load sends GET requests at times that do not depend on the answers, and says every few seconds what
became of them; one that takes longer than that is given up. It sends to loopback addresses only: in a cluster it is a container of the Envoy's Pod.`,
		Example: `  controlplane demo load --url http://127.0.0.1:10080/ --rate 100`,
		Args:    exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < time.Second {
				return usageError(fmt.Errorf("--every %v: expected 1s or more", every))
			}
			o.Timeout = every
			for name, value := range header {
				o.Header.Set(name, value)
			}
			load, stop, err := demo.StartLoad(cmd.Context(), o)
			if err != nil {
				return usageError(err)
			}
			defer stop()
			return tellOfLoad(cmd.Context(), demo.NewScreen(cmd.OutOrStdout()), load, every)
		},
	}
	cmd.Flags().StringArrayVar(&o.URLs, "url", nil, "where to send to (repeatable, each gets as many)")
	cmd.Flags().StringVar(&o.Host, "host", "", "the Host header; empty: that of the URL")
	cmd.Flags().StringToStringVar(&header, "header", nil, "headers that each request has, such as X-Tenant=acme (repeatable)")
	cmd.Flags().Float64Var(&o.Rate, "rate", 100, "requests per second")
	cmd.Flags().DurationVar(&every, "every", every, "how often to say what became of them")
	return cmd
}

// tellOfLoad prints a line per period until ctx is done. It tells of the period before the last, whose
// requests are all over.
func tellOfLoad(ctx context.Context, screen *demo.Screen, load *demo.Load, every time.Duration) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		to := load.Elapsed() - every
		if r := load.Report(to-every, to); r.Requests > 0 {
			limited := r.ByStatus[http.StatusTooManyRequests]
			screen.Printf("%.0fs: %d requests, %d refused by a limit, %d failed, p50 %s, p99 %s",
				to.Seconds(), r.Requests, limited, r.Failed()-limited, milliseconds(r.P50), milliseconds(r.P99))
		}
	}
}
