// Package kubetest gives tests a real Kubernetes API server: one etcd and one kube-apiserver, started when
// the first test of a package asks and ended with the package, with the CRDs of Gateway API and our own.
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(kubetest.Main(m)) }
//
//	func TestSomething(t *testing.T) {
//		server := kubetest.Shared(t)
//		namespace := server.Namespace(t)
//		...kubernetes.NewForConfig(server.Config())...
//	}
//
// A test that stops the API server starts one of its own with Start. No controller runs beside it: nothing
// makes EndpointSlices for a Service, nothing finishes the deletion of a namespace, and a test that wants
// either writes it. Pods need no service account and are never scheduled.
//
// An API server refuses loopback addresses in EndpointSlices. PrivateNetwork gives the tests of a package
// addresses that it takes and that can be listened on.
package kubetest

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"
)

// RequireEnv is the environment variable that, when it is not empty, makes tests fail where they would be
// skipped because the API server or a private network is not to be had.
const RequireEnv = "EVENKEEL_REQUIRE_KUBE"

// startTimeout is when an API server that is not ready never will be. It takes 4 s on two idle cores.
const startTimeout = 2 * time.Minute

// Main runs the tests of a package and stops the shared API server after them. It suits os.Exit and
// goleak.VerifyTestMain alike.
func Main(m *testing.M) interface{ Run() int } { return run{m} }

type run struct{ tests *testing.M }

func (r run) Run() int {
	code := r.tests.Run()
	if shared.server != nil {
		shared.server.Close()
	}
	return code
}

var shared struct {
	once   sync.Once
	server *APIServer
	err    error
}

// Shared is the API server of the test's package. It is started the first time.
func Shared(t testing.TB) *APIServer {
	t.Helper()
	need(t, networkErr)
	shared.once.Do(func() { shared.server, shared.err = start() })
	need(t, shared.err)
	return shared.server
}

// Start starts an API server for this test alone.
func Start(t testing.TB) *APIServer {
	t.Helper()
	need(t, networkErr)
	server, err := start()
	need(t, err)
	t.Cleanup(server.Close)
	return server
}

func start() (*APIServer, error) {
	dir, err := os.MkdirTemp("", "evenkeel-kube-")
	if err != nil {
		return nil, err
	}
	server, err := New(Options{Dir: dir})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := server.Start(ctx); err != nil {
		server.Close()
		return nil, err
	}
	if err := server.InstallCRDs(ctx); err != nil {
		server.Close()
		return nil, err
	}
	return server, nil
}

// need skips or fails the test if there is an error.
func need(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv(RequireEnv) == "" && (errors.Is(err, ErrNotInstalled) || errors.Is(err, ErrNoPrivateNetwork)):
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}
