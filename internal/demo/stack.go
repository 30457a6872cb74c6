package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// StackOptions describe a control plane and its Envoys.
type StackOptions struct {
	// Binary is the control plane's program, EnvoyPath Envoy's.
	Binary, EnvoyPath string
	// Dir takes logs, bootstraps and, unless StateDir names another folder for it, the state.
	Dir, StateDir string
	// ConfigDir holds the objects to serve. For each of Fleets, Gateways among them, an Envoy is started.
	ConfigDir string
	Fleets    []string
	// Concurrency is the number of each Envoy's worker threads. 0: 2.
	Concurrency int
	// Ports are the ones to use if they are free; another is taken in place of one that is not, and of 0.
	// EnvoyAdminPort is the first Envoy's, the next one has the next.
	XDSPort, AdminPort, EnvoyAdminPort uint16
	// RLSPort is that of the rate limit service, likewise. 0: there is none.
	RLSPort uint16
}

// Stack is a control plane and the Envoys that take their configuration from it, as child processes,
// started by the commands that a user would type.
type Stack struct {
	ControlPlane *Process
	// Envoys in the order of the fleets.
	Envoys []*Envoy
	// AdminURL is the control plane's admin port, without a slash at the end.
	AdminURL string

	serve func(name string) (*Process, error)
	lives int // of the control plane
}

const startTimeout = 20 * time.Second

// StartStack returns when both are ready to work. Whatever it started is ended again if it fails.
func StartStack(ctx context.Context, o StackOptions) (_ *Stack, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	xds, err := freeAddress(o.XDSPort)
	if err != nil {
		return nil, err
	}
	admin, err := freeAddress(o.AdminPort)
	if err != nil {
		return nil, err
	}
	rls := "" // none
	if o.RLSPort != 0 {
		address, err := freeAddress(o.RLSPort)
		if err != nil {
			return nil, err
		}
		rls = address.String()
	}
	state := cmp.Or(o.StateDir, filepath.Join(o.Dir, "state"))
	concurrency := cmp.Or(o.Concurrency, 2)
	// Flags can be given in the environment; what was meant for another control plane is not for this one.
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "EVENKEEL_") })

	s := &Stack{AdminURL: "http://" + admin.String(), serve: func(name string) (*Process, error) {
		return StartProcess(name, o.Dir, env, o.Binary, "serve", "--config-dir", o.ConfigDir,
			"--state-dir", state, "--xds-address", xds.String(), "--admin-address", admin.String(), "--rls-address", rls)
	}}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	if err := s.StartControlPlane(ctx); err != nil {
		return nil, err
	}
	for i, fleet := range o.Fleets {
		preferred := o.EnvoyAdminPort
		if preferred != 0 {
			preferred += uint16(i)
		}
		envoyAdmin, err := freeAddress(preferred)
		if err != nil {
			return nil, err
		}
		bootstrap := exec.CommandContext(ctx, o.Binary, "bootstrap", "--fleet", fleet, "--xds-address", xds.String(),
			"--admin-port", strconv.Itoa(int(envoyAdmin.Port())), "--concurrency", strconv.Itoa(concurrency))
		bootstrap.Env = env
		config, err := bootstrap.Output()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return nil, fmt.Errorf("bootstrap: %w: %s", err, exit.Stderr)
		} else if err != nil {
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
		envoy, err := StartEnvoy(EnvoyOptions{
			Path: o.EnvoyPath, Name: childName("envoy", i), Dir: o.Dir, Bootstrap: config,
			AdminURL: "http://" + envoyAdmin.String(), Concurrency: concurrency,
		})
		if err != nil {
			return nil, err
		}
		s.Envoys = append(s.Envoys, envoy)
	}
	for _, envoy := range s.Envoys {
		if err := envoy.WaitReady(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// StartControlPlane returns when the control plane is ready: at the start, and again, with the same
// configuration, state and ports, after it was killed. It is not safe for concurrent use with other methods.
func (s *Stack) StartControlPlane(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s.ControlPlane, err = s.serve(childName("controlplane", s.lives))
	if err != nil {
		return err
	}
	s.lives++
	return WaitHTTP(ctx, s.ControlPlane, s.AdminURL+"/readyz")
}

// childName tells the logs of several children of a kind apart.
func childName(kind string, i int) string {
	if i == 0 {
		return kind
	}
	return kind + "-" + strconv.Itoa(i+1)
}

func freeAddress(preferred uint16) (netip.AddrPort, error) {
	localhost := netip.MustParseAddr("127.0.0.1")
	port, err := FreePort(preferred, localhost)
	return netip.AddrPortFrom(localhost, port), err
}

// Failure is nil while all run, else it says which one ended and what its last words were.
func (s *Stack) Failure() error {
	children := []*Process{s.ControlPlane}
	for _, envoy := range s.Envoys {
		children = append(children, envoy.Process)
	}
	for _, child := range children {
		select {
		case <-child.Done():
			return child.Failure()
		default:
		}
	}
	return nil
}

// Stop ends all, the Envoys first. It may be called on a Stack that has not started completely.
func (s *Stack) Stop() {
	const grace = 3 * time.Second
	var envoys sync.WaitGroup
	for _, envoy := range s.Envoys {
		envoys.Go(func() { envoy.Stop(grace) })
	}
	envoys.Wait()
	if s.ControlPlane != nil {
		s.ControlPlane.Stop(grace)
	}
}
