package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/demo"
	"evenkeel.io/controlplane/internal/limittest"
	"evenkeel.io/controlplane/internal/rlsconfig"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// Who is measured.
const (
	memory    = "memory"
	withRedis = "redis"
	reference = "reference"
)

var armNames = []string{memory, withRedis, reference}

// domain is the fleet whose limits are counted.
const domain = "shop/edge"

// The limits of every request: one for each tenant, and one for all. Neither refuses anything here. probed is
// the one by which services show that they count.
const (
	tenantRule  = "shop/api/tenant"
	allRule     = "shop/api/all"
	probedRule  = "shop/api/probed"
	probed      = 100
	tenantEntry = "query:tenant"
)

func rules() ([]*rlsconfig.Rule, error) {
	var out []*rlsconfig.Rule
	for _, r := range []struct {
		id       string
		key      []string
		requests int64
	}{
		{tenantRule, []string{tenantEntry}, 100_000_000},
		{allRule, nil, 1_000_000_000},
		{probedRule, []string{tenantEntry}, probed},
	} {
		rule, err := compile(r.id, r.key, v1alpha1.Rate{Requests: r.requests, Per: metav1.Duration{Duration: time.Hour}})
		if err != nil {
			return nil, err
		}
		out = append(out, rule)
	}
	return out, nil
}

func compile(id string, key []string, rate v1alpha1.Rate) (*rlsconfig.Rule, error) {
	rule, err := rlsconfig.Compile(id, v1alpha1.OnErrorAllow, v1alpha1.Limit{Name: id[strings.LastIndexByte(id, '/')+1:], Key: key, Rate: &rate})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", id, err)
	}
	return rule, nil
}

// descriptor is how an Envoy describes a request by a rule with the key of tenants, or by one without a key.
func descriptor(rule, tenant string) *commonv3.RateLimitDescriptor {
	d := &commonv3.RateLimitDescriptor{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: rlsconfig.EntryRule, Value: rule}}}
	if tenant != "" {
		d.Entries = append(d.Entries, &commonv3.RateLimitDescriptor_Entry{Key: tenantEntry, Value: tenant})
	}
	return d
}

// arm is a service with its processes.
type arm struct {
	name    string
	service *demo.Process
	redis   *limittest.RedisServer // nil: counters in memory
	address string
	clients []rlsv3.RateLimitServiceClient // one for each connection
}

func startArms(ctx context.Context, s settings) (arms []*arm, stop func(), err error) {
	var stops []func()
	stop = func() {
		for i := len(stops) - 1; i >= 0; i-- {
			stops[i]()
		}
	}
	rules, err := rules()
	if err != nil {
		return nil, stop, err
	}
	plane, err := serveTree(ctx, rules)
	if err != nil {
		return nil, stop, err
	}
	for _, name := range s.arms {
		a := &arm{name: name}
		if name != memory {
			if a.redis, err = limittest.StartRedis(s.dir, 0); err != nil {
				return nil, stop, err
			}
			stops = append(stops, a.redis.Kill)
		}
		if name == reference {
			service, err := limittest.StartReference(limittest.ReferenceOptions{
				Dir: s.dir, XDS: plane, Redis: a.redis.Address, Env: []string{"LOG_LEVEL=warn"},
			})
			if err != nil {
				return nil, stop, err
			}
			stops = append(stops, service.Kill)
			if err := service.WaitListening(ctx); err != nil {
				return nil, stop, err
			}
			a.service, a.address = service.Process, service.Address
		} else {
			if a.service, a.address, err = startOurs(ctx, s.dir, a.redis); err != nil {
				return nil, stop, err
			}
			stops = append(stops, a.service.Kill)
		}
		for range s.connections {
			conn, err := grpc.NewClient(a.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return nil, stop, err
			}
			stops = append(stops, func() { conn.Close() })
			a.clients = append(a.clients, rlsv3.NewRateLimitServiceClient(conn))
		}
		arms = append(arms, a)
	}
	return arms, stop, nil
}

// serveTree serves the rules to reference services, as the product does, and says where.
func serveTree(ctx context.Context, rules []*rlsconfig.Rule) (address string, err error) {
	config, err := snapshot.Encode(translate.Resource{Type: translate.RLS, Name: domain, Message: rlsconfig.Tree(domain, rules, nil), Source: "Gateway " + domain})
	if err != nil {
		return "", err
	}
	cache := snapshot.NewCache(xds.FleetHash{})
	if err := cache.SetSnapshot(ctx, translate.RLSFleet, snapshot.New(config)); err != nil {
		return "", err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := xds.NewServer(cache, xds.Options{Log: slog.New(slog.DiscardHandler)})
	go func() { _ = server.Serve(ctx, lis) }()
	return lis.Addr().String(), nil
}

// counts has the service show that it counts: of three times what the probed limit admits it admits that. A call
// without an answer may have been counted or not: then another key is tried.
func (a *arm) counts(ctx context.Context) (err error) {
	for i := range 10 {
		if err = a.countsFor(ctx, fmt.Sprint("probe ", i)); status.Code(err) != codes.Unavailable {
			return err
		}
	}
	return err
}

func (a *arm) countsFor(ctx context.Context, tenant string) error {
	admitted := 0
	for range 3 * probed {
		answer, err := a.clients[0].ShouldRateLimit(ctx, &rlsv3.RateLimitRequest{Domain: domain, Descriptors: []*commonv3.RateLimitDescriptor{descriptor(probedRule, tenant)}})
		if err != nil {
			return err
		}
		if answer.GetOverallCode() == rlsv3.RateLimitResponse_OK {
			admitted++
		}
	}
	if admitted != probed {
		return fmt.Errorf("it admitted %d of %d requests, expected %d an hour (try again if the hour just turned)", admitted, 3*probed, probed)
	}
	return nil
}

// spent is the CPU time that a service has used, and its Redis.
type spent struct{ service, redis time.Duration }

func (a *arm) spent() (s spent, err error) {
	if s.service, err = cpuOf(a.service); err == nil && a.redis != nil {
		s.redis, err = cpuOf(a.redis.Process)
	}
	return s, err
}

func (s spent) since(o spent) spent { return spent{s.service - o.service, s.redis - o.redis} }
func (s spent) plus(o spent) spent  { return spent{s.service + o.service, s.redis + o.redis} }
func (s spent) sum() time.Duration  { return s.service + s.redis }

// cpuOf is the CPU time that a process has used (proc(5): utime and stime, in hundredths of a second).
func cpuOf(p *demo.Process) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	const utime, stime, ticks = 11, 12, 100
	if len(fields) <= stime {
		return 0, fmt.Errorf("/proc/%d/stat: %q", p.PID(), stat)
	}
	user, _ := strconv.Atoi(fields[utime])
	system, _ := strconv.Atoi(fields[stime])
	return time.Duration(user+system) * time.Second / ticks, nil
}
