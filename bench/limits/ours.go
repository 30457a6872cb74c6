package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/limittest"
	"evenkeel.io/controlplane/internal/rls"
	"evenkeel.io/controlplane/internal/rlsconfig"
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

// floodedRole is what it is started as to be our service with the limits of a flood, and with its metrics to be seen.
const floodedRole = "serve-flooded"

// The limits of a flood, for each tenant. A request is earned back in ten seconds: so long has a key a count that came
// once, and for ten minutes one that is used to the full.
const (
	attackedRule  = "shop/api/attacked"
	otherRule     = "shop/api/other"
	floodRequests = 6
	floodPer      = time.Minute
	floodBurst    = 60
)

// startFlooded starts our service with room for so many keys, and says where it is and where its metrics are.
func startFlooded(ctx context.Context, dir string, room int) (p *demo.Process, address, metrics string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", "", err
	}
	var ports [2]string
	for i := range ports {
		port, err := demo.FreePort(0, netip.MustParseAddr("127.0.0.1"))
		if err != nil {
			return nil, "", "", err
		}
		ports[i] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	if p, err = demo.StartProcess("ours", dir, nil, self, floodedRole, ports[0], ports[1], fmt.Sprint(room)); err != nil {
		return nil, "", "", err
	}
	for _, port := range ports {
		if err := limittest.AwaitListening(ctx, p, port); err != nil {
			p.Kill()
			return nil, "", "", err
		}
	}
	return p, ports[0], "http://" + ports[1], nil
}

// serveFlooded is that service's process: where it listens, where its metrics are, and its room for keys.
func serveFlooded(ctx context.Context, args []string) error {
	lis, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	room, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector())
	server, err := rls.New(rls.Options{MaxKeys: room, Metrics: registry})
	if err != nil {
		return err
	}
	var rules []*rlsconfig.Rule
	for _, id := range []string{attackedRule, otherRule} {
		rule, err := compile(id, []string{tenantEntry}, v1alpha1.Rate{Requests: floodRequests, Per: metav1.Duration{Duration: floodPer}, Burst: new(int64(floodBurst))})
		if err != nil {
			return err
		}
		rules = append(rules, rule)
	}
	server.Configure(domain, rules, nil)
	go func() { _ = http.ListenAndServe(args[1], promhttp.HandlerFor(registry, promhttp.HandlerOpts{})) }()
	return server.Serve(ctx, lis)
}

// serveOurs is the service's process: where it listens, and the URL of its Redis or "".
func serveOurs(ctx context.Context, args []string) error {
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
	return server.Serve(ctx, lis)
}
