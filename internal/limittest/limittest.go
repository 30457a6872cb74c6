// Package limittest starts what tests and benchmarks of limits stand beside: a real Redis, and the reference
// rate limit service, github.com/envoyproxy/ratelimit, both from hack/tools.sh.
//
//	redis := limittest.Redis(t)
//	service := limittest.Reference(t, limittest.ReferenceOptions{Redis: redis.Address, XDS: address})
//
// Both end with the test. Where they are not installed the test is skipped.
package limittest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// ErrNotInstalled says that a program was not found.
var ErrNotInstalled = errors.New("not installed: hack/tools.sh redis ratelimit does it")

// patience is how long a program may take to listen.
const patience = 20 * time.Second

// RedisServer is a Redis on loopback that keeps nothing on disk.
type RedisServer struct {
	*demo.Process
	// Address is "127.0.0.1:<port>".
	Address string
}

// URL is the server's, as go-redis takes it.
func (r *RedisServer) URL() string { return "redis://" + r.Address + "/0" }

// StartRedis starts a Redis on a port, 0 for any that is free. It logs to dir.
func StartRedis(dir string, port uint16) (*RedisServer, error) {
	program, err := demo.FindTool("redis-server")
	if err != nil {
		return nil, fmt.Errorf("redis-server: %w", ErrNotInstalled)
	}
	if port == 0 {
		if port, err = freePort(); err != nil {
			return nil, err
		}
	}
	r := &RedisServer{Address: fmt.Sprintf("127.0.0.1:%d", port)}
	r.Process, err = demo.StartProcess("redis", dir, nil, program,
		"--bind", "127.0.0.1", "--port", fmt.Sprint(port), "--dir", dir, "--save", "", "--appendonly", "no")
	if err != nil {
		return nil, err
	}
	if err := AwaitListening(context.Background(), r.Process, r.Address); err != nil {
		r.Kill()
		return nil, err
	}
	return r, nil
}

// ReferenceOptions say where a reference service has its configuration and its counters.
type ReferenceOptions struct {
	// Redis is the address of its Redis.
	Redis string
	// XDS is the address of the control plane that configures it. Without one it reads the files of
	// <Dir>/config.
	XDS string
	// Node is its node.id; "rls" if it is "".
	Node string
	// Dir is where it logs.
	Dir string
	// Env are further settings, "KEY=value".
	Env []string
}

// ReferenceService is a reference rate limit service on loopback.
type ReferenceService struct {
	*demo.Process
	// Address is where it answers ShouldRateLimit, once it has a configuration.
	Address string
	debug   string
}

// StartReference starts a reference service and does not wait for it: it listens when it has its first
// configuration.
func StartReference(o ReferenceOptions) (*ReferenceService, error) {
	program, err := demo.FindTool("ratelimit")
	if err != nil {
		return nil, fmt.Errorf("ratelimit: %w", ErrNotInstalled)
	}
	var ports [3]uint16
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	at := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	s := &ReferenceService{Address: at(0), debug: at(2)}
	node := o.Node
	if node == "" {
		node = "rls"
	}
	env := append(os.Environ(),
		"HOST=127.0.0.1", "GRPC_HOST=127.0.0.1", "DEBUG_HOST=127.0.0.1",
		fmt.Sprintf("GRPC_PORT=%d", ports[0]), fmt.Sprintf("PORT=%d", ports[1]), fmt.Sprintf("DEBUG_PORT=%d", ports[2]),
		"REDIS_SOCKET_TYPE=tcp", "REDIS_URL="+o.Redis,
		"USE_STATSD=false", "DISABLE_STATS=true", "LOG_LEVEL=info",
		"XDS_CLIENT_BACKOFF_INITIAL_INTERVAL=50ms", "XDS_CLIENT_BACKOFF_MAX_INTERVAL=200ms",
	)
	if o.XDS != "" {
		env = append(env, "CONFIG_TYPE=GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_NODE_ID="+node, "CONFIG_GRPC_XDS_SERVER_URL="+o.XDS)
	} else {
		env = append(env, "CONFIG_TYPE=FILE", "RUNTIME_ROOT="+o.Dir, "RUNTIME_SUBDIRECTORY=", "RUNTIME_WATCH_ROOT=false")
	}
	name := "ratelimit-" + strings.ReplaceAll(node, "/", "-")
	s.Process, err = demo.StartProcess(name, o.Dir, append(env, o.Env...), program)
	return s, err
}

// WaitListening waits for the service to have its first configuration.
func (s *ReferenceService) WaitListening(ctx context.Context) error {
	return AwaitListening(ctx, s.Process, s.Address)
}

// Configuration is what the service says it is configured with: a line for each limit, in no order. It has
// an answer once it listens.
func (s *ReferenceService) Configuration(ctx context.Context) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.debug+"/rlconfig", nil)
	if err != nil {
		return "", err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}

// Log is what the service has said so far.
func (s *ReferenceService) Log() string {
	text, _ := os.ReadFile(s.LogFile())
	return string(text)
}

// AwaitListening waits for a process to take connections.
func AwaitListening(ctx context.Context, p *demo.Process, address string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.Done():
			return p.Failure()
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen on %s, its log is %s: %w", filepath.Base(p.LogFile()), address, p.LogFile(), err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func freePort() (uint16, error) { return demo.FreePort(0, netip.MustParseAddr("127.0.0.1")) }

// Redis starts a Redis for a test.
func Redis(t testing.TB) *RedisServer {
	t.Helper()
	r, err := StartRedis(t.TempDir(), 0)
	skipOrFail(t, err)
	t.Cleanup(r.Kill)
	return r
}

// Reference starts a reference service for a test, with a Redis of its own if none is named.
func Reference(t testing.TB, o ReferenceOptions) *ReferenceService {
	t.Helper()
	if o.Redis == "" {
		o.Redis = Redis(t).Address
	}
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := StartReference(o)
	skipOrFail(t, err)
	t.Cleanup(s.Kill)
	return s
}

func skipOrFail(t testing.TB, err error) {
	t.Helper()
	switch {
	case errors.Is(err, ErrNotInstalled):
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
}
