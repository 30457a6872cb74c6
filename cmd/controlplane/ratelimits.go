package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"time"

	"github.com/spf13/pflag"

	"evenkeel.io/controlplane/internal/pipeline"
	"evenkeel.io/controlplane/internal/replica"
	"evenkeel.io/controlplane/internal/rls"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// rateLimitOptions are the flags of serve about who counts the requests of limits.
type rateLimitOptions struct {
	address   string
	advertise string
	redis     string
	service   string
	timeout   time.Duration
	windows   bool
}

func (o *rateLimitOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.address, "rls-address", "127.0.0.1:18081", "where the rate limit service is served, as xDS is: with mutual TLS, or in plaintext on loopback; empty: nowhere, and limits of scope Fleet do as their policies' onError says")
	flags.StringVar(&o.advertise, "rls-advertise", "", "the IP:port by which Envoys reach the rate limit service; empty: --rls-address, with the host of --replica-address if that is any")
	flags.StringVar(&o.redis, "rls-redis", "", "a Redis in which all replicas count together, redis://HOST:PORT/DB or rediss://...; empty: in the memory of the one that leads. A user and password in it are shown nowhere")
	flags.StringVar(&o.service, "rls-service", "", "a Service, NAMESPACE/NAME:PORT, of reference rate limit services (github.com/envoyproxy/ratelimit), which are asked in place of this one and take their configuration over xDS")
	flags.DurationVar(&o.timeout, "rls-timeout", translate.DefaultLimitTimeout, "how long a request waits in an Envoy for the rate limit service, 1ms to 10s; then its policy's onError decides. A Redis is given three quarters of it")
	flags.BoolVar(&o.windows, "rls-fixed-windows", false, "count in windows that begin at multiples of a rate's time, and without bursts, as other rate limit services do; twice a rate can pass where two of them meet")
}

var serviceName = regexp.MustCompile(`^[a-z0-9-]+/[a-z0-9-]+:[0-9]{1,5}$`)

// validate names the flag, what was expected and what to do. of are the flags around these.
func (o *rateLimitOptions) validate(of *serveOptions) error {
	if o.service != "" && !serviceName.MatchString(o.service) {
		return fmt.Errorf("--rls-service %q: expected NAMESPACE/NAME:PORT, such as infra/ratelimit:8081", o.service)
	}
	if o.timeout < time.Millisecond || o.timeout > 10*time.Second {
		return fmt.Errorf("--rls-timeout %v: expected 1ms to 10s", o.timeout)
	}
	if o.windows && (o.address == "" || o.service != "") {
		return errors.New("--rls-fixed-windows: expected a rate limit service of this program to count in them; with --rls-service, or without --rls-address, there is none")
	}
	if o.redis != "" {
		if u, err := url.Parse(o.redis); err != nil || u.Scheme != "redis" && u.Scheme != "rediss" || u.Hostname() == "" {
			return errors.New("--rls-redis: expected a URL such as redis://redis.infra:6379/0")
		}
	}
	if o.address == "" {
		for flag, value := range map[string]string{"rls-advertise": o.advertise, "rls-redis": o.redis} {
			if value != "" {
				return fmt.Errorf("--%s: there is no rate limit service to be reached, --rls-address is empty", flag)
			}
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(o.address); err != nil {
		return fmt.Errorf("--rls-address %q: expected host:port", o.address)
	}
	if of.xdsTLSDir == "" && !of.xdsPlaintext && !isLoopback(o.address) {
		return fmt.Errorf("--rls-address %s: in plaintext the rate limit service is served on loopback only; give --xds-tls-dir, or --xds-allow-plaintext, after which whoever reaches that address may use up the limits of others", o.address)
	}
	_, err := o.advertised(of.replica.address)
	return err
}

// advertised is where Envoys are told to ask, "<ip>:<port>".
func (o *rateLimitOptions) advertised(replicaAddress string) (string, error) {
	if o.advertise != "" {
		if ap, err := netip.ParseAddrPort(o.advertise); err != nil || ap.Port() == 0 || ap.Addr().IsUnspecified() {
			return "", fmt.Errorf("--rls-advertise %q: expected IP:port by which Envoys reach --rls-address, such as $(POD_IP):18081", o.advertise)
		}
		return o.advertise, nil
	}
	host, port, _ := net.SplitHostPort(o.address)
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		if host, _, _ = net.SplitHostPort(replicaAddress); host == "" {
			return "", fmt.Errorf("--rls-address %s is every address: say with --rls-advertise IP:port by which Envoys reach it", o.address)
		}
	}
	ap, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil {
		return "", fmt.Errorf("--rls-address %s: Envoys are told an IP address and a port, and cannot be told %q; give --rls-advertise IP:port", o.address, net.JoinHostPort(host, port))
	}
	return ap.String(), nil
}

// newRateLimits makes the service, nil if there is none, and says to the pipeline who counts. The options are
// valid.
func (o *serveOptions) newRateLimits(c *controlPlane, asker pipeline.Asker, log *slog.Logger) (limits pipeline.Limits, err error) {
	limits = pipeline.Limits{
		Reference: o.limits.service,
		Ask:       asker,
		Proxies:   func() []xds.Proxy { return c.xds.Registry().Proxies() },
	}
	if c.replica != nil {
		limits.Proxies, limits.Elsewhere = c.replica.Proxies, c.replica.RateLimits
	}
	if o.limits.address == "" {
		return limits, nil
	}
	if c.rateLimits, err = rls.New(rls.Options{Auth: c.gate, Redis: o.limits.redis, Timeout: o.limits.timeout, FixedWindows: o.limits.windows, Log: log, Metrics: c.metrics}); err != nil {
		return limits, fmt.Errorf("--rls-redis: %w", err)
	}
	limits.Service, limits.Shared = c.rateLimits, o.limits.redis != ""
	limits.Address, _ = o.limits.advertised(o.replica.address)
	return limits, nil
}

// self is this replica as the others see it.
func (o *serveOptions) self() replica.Peer {
	peer := replica.Peer{Name: o.replica.name, Address: o.replica.address}
	if o.limits.address != "" {
		peer.RateLimits, _ = o.limits.advertised(o.replica.address)
	}
	return peer
}

// listenRateLimits is the port of the service, nil if there is none.
func (o *rateLimitOptions) listen() (net.Listener, error) {
	if o.address == "" {
		return nil, nil
	}
	lis, err := net.Listen("tcp", o.address)
	if err != nil {
		return nil, fmt.Errorf("--rls-address: %w", err)
	}
	return lis, nil
}

// shownAddress is for the log.
func (o *rateLimitOptions) shownAddress() string { return cmp.Or(o.address, "off") }
