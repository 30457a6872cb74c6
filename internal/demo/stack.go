package demo

import (
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
	"time"
)

// StackOptions describe a control plane and one Envoy of a fleet.
type StackOptions struct {
	// Binary is the control plane's program, EnvoyPath Envoy's.
	Binary, EnvoyPath string
	// Dir takes state, logs and the bootstrap.
	Dir string
	// ConfigDir holds the objects to serve; Fleet is the Gateway among them that the Envoy belongs to.
	ConfigDir, Fleet string
	// Concurrency is the number of Envoy's worker threads. 0: 2.
	Concurrency int
	// Ports are the ones to use if they are free; another is taken in place of one that is not, and of 0.
	XDSPort, AdminPort, EnvoyAdminPort uint16
}

// Stack is a control plane and an Envoy that takes its configuration from it, as two child processes,
// started by the commands that a user would type.
type Stack struct {
	ControlPlane *Process
	Envoy        *Envoy
	// AdminURL is the control plane's admin port, EnvoyAdminURL Envoy's, without a slash at the end.
	AdminURL, EnvoyAdminURL string
}

const startTimeout = 20 * time.Second

// StartStack returns when both are ready to work. Whatever it started is ended again if it fails.
func StartStack(ctx context.Context, o StackOptions) (_ *Stack, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	localhost := netip.MustParseAddr("127.0.0.1")
	var addresses [3]string
	for i, preferred := range []uint16{o.XDSPort, o.AdminPort, o.EnvoyAdminPort} {
		port, err := FreePort(preferred, localhost)
		if err != nil {
			return nil, err
		}
		addresses[i] = netip.AddrPortFrom(localhost, port).String()
	}
	xds, admin, envoyAdmin := addresses[0], addresses[1], addresses[2]
	if o.Concurrency == 0 {
		o.Concurrency = 2
	}

	s := &Stack{AdminURL: "http://" + admin, EnvoyAdminURL: "http://" + envoyAdmin}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	// Flags can be given in the environment; what was meant for another control plane is not for this one.
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "EVENKEEL_") })
	s.ControlPlane, err = StartProcess("controlplane", o.Dir, env, o.Binary, "serve", "--config-dir", o.ConfigDir,
		"--state-dir", filepath.Join(o.Dir, "state"), "--xds-address", xds, "--admin-address", admin)
	if err != nil {
		return nil, err
	}
	if err := WaitHTTP(ctx, s.ControlPlane, s.AdminURL+"/readyz"); err != nil {
		return nil, err
	}

	_, envoyPort, _ := strings.Cut(envoyAdmin, ":")
	bootstrap := exec.CommandContext(ctx, o.Binary, "bootstrap", "--fleet", o.Fleet, "--xds-address", xds,
		"--admin-port", envoyPort, "--concurrency", strconv.Itoa(o.Concurrency))
	bootstrap.Env = env
	config, err := bootstrap.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("bootstrap: %w: %s", err, exit.Stderr)
	} else if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	s.Envoy, err = StartEnvoy(EnvoyOptions{
		Path: o.EnvoyPath, Name: "envoy", Dir: o.Dir, Bootstrap: config, AdminURL: s.EnvoyAdminURL, Concurrency: o.Concurrency,
	})
	if err != nil {
		return nil, err
	}
	return s, s.Envoy.WaitReady(ctx)
}

// Failure is nil while both run, else it says which one ended and what its last words were.
func (s *Stack) Failure() error {
	select {
	case <-s.ControlPlane.Done():
		return s.ControlPlane.Failure()
	case <-s.Envoy.Done():
		return s.Envoy.Failure()
	default:
		return nil
	}
}

// Stop ends both, Envoy first. It may be called on a Stack that has not started completely.
func (s *Stack) Stop() {
	const grace = 3 * time.Second
	if s.Envoy != nil {
		s.Envoy.Stop(grace)
	}
	if s.ControlPlane != nil {
		s.ControlPlane.Stop(grace)
	}
}
