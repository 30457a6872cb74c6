// Command up runs an API server with the CRDs until it is interrupted: hack/kube/up.sh.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"evenkeel.io/controlplane/internal/kubetest"
)

// port is the one people may learn by heart.
const port = 16443

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "up:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	if len(arguments) != 1 {
		return fmt.Errorf("usage: up DIR")
	}
	dir, err := filepath.Abs(arguments[0])
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	server, err := kubetest.New(kubetest.Options{Dir: dir, Port: port})
	if err != nil {
		return err
	}
	if err := server.Start(ctx); err != nil {
		return err
	}
	defer server.Stop()
	if err := server.InstallCRDs(ctx); err != nil {
		return err
	}
	fmt.Printf("export KUBECONFIG=%s\n", server.Kubeconfig())
	<-ctx.Done()
	return nil
}
