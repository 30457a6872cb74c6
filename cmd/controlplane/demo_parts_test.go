package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"evenkeel.io/controlplane/internal/demo"
)

// TestDemoParts: the load reaches the backend and tells of it, the backend exports what weights are made
// of, and both end when they are told to.
func TestDemoParts(t *testing.T) {
	port, err := demo.FreePort(18090, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	address := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said := filepath.Join(t.TempDir(), "said")
	out, err := os.Create(said)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ended := make(chan error, 2)
	for _, args := range [][]string{
		{"demo", "backend", "--address", address, "--index", "7"},
		{"demo", "load", "--url", "http://" + address + "/", "--rate", "50", "--every", "1s"},
	} {
		root := newRootCommand()
		root.SetArgs(args)
		root.SetOut(out)
		go func() { ended <- root.ExecuteContext(ctx) }()
	}
	for {
		text, err := os.ReadFile(said)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), " requests, 0 refused by a limit, 0 failed, p50 ") {
			break
		}
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || !strings.Contains(string(page), "process_cpu_seconds_total") {
		t.Errorf("%v\n%.300s", err, page)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	for range 2 {
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

func TestDemoLoadSendsItsHeaders(t *testing.T) {
	seen := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case seen <- r.Header.Get("X-Tenant"):
		default:
		}
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	root := newRootCommand()
	root.SetArgs([]string{"demo", "load", "--url", server.URL + "/", "--header", "X-Tenant=acme"})
	root.SetOut(io.Discard)
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	select {
	case err := <-ended:
		t.Fatal(err)
	case got := <-seen:
		if got != "acme" {
			t.Errorf("a request of the tenant %q", got)
		}
	}
	cancel()
	<-ended
}
