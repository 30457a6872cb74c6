package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/limittest"
	"evenkeel.io/controlplane/internal/rls"
)

// oursRole is what this program starts itself as, to be our service and nothing else.
const oursRole = "serve-ours"

func startOurs(ctx context.Context, dir string, redis *limittest.RedisServer) (*demo.Process, string, error) {
	if redis != nil {
		return nil, "", errors.New("our service has no counters in Redis yet")
	}
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	port, err := demo.FreePort(0, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		return nil, "", err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	p, err := demo.StartProcess("ours", dir, nil, self, oursRole, address)
	if err != nil {
		return nil, "", err
	}
	return p, address, limittest.AwaitListening(ctx, p, address)
}

// serveOurs is the service's process, as long as its parent lives.
func serveOurs(args []string) error {
	lis, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	server, err := rls.New(rls.Options{})
	if err != nil {
		return err
	}
	rules, err := rules()
	if err != nil {
		return err
	}
	server.Configure(domain, rules, nil)
	return server.Serve(context.Background(), lis)
}
