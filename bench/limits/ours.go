package main

import (
	"context"
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
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	port, err := demo.FreePort(0, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		return nil, "", err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	name, url := "ours", ""
	if redis != nil {
		name, url = "ours-redis", redis.URL()
	}
	p, err := demo.StartProcess(name, dir, nil, self, oursRole, address, url)
	if err != nil {
		return nil, "", err
	}
	return p, address, limittest.AwaitListening(ctx, p, address)
}

// serveOurs is the service's process: where it listens, and the URL of its Redis or "".
func serveOurs(args []string) error {
	lis, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	server, err := rls.New(rls.Options{Redis: args[1]})
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
