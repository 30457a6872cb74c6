package demo

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func testClient(t *testing.T, server *httptest.Server) *client {
	t.Helper()
	options := LoadOptions{URLs: []string{server.URL + "/page?q=1"}, Host: "shop.example", Header: http.Header{"X-Tenant": {"acme"}}}
	targets, err := options.targets()
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(targets)
	t.Cleanup(c.close)
	return c
}

func TestClientReadsEveryKindOfAnswer(t *testing.T) {
	connections := 0
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "shop.example" || r.URL.RequestURI() != "/page?q=1" {
			t.Errorf("asked for %s of %s", r.URL.RequestURI(), r.Host)
		}
		if got := r.Header.Get("X-Tenant"); got != "acme" {
			t.Errorf("the tenant is %q", got)
		}
		switch connections {
		case 1:
			_, _ = io.WriteString(w, strings.Repeat("long ", 100_000)) // in chunks
		default:
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections++
		}
	}
	server.Start()
	defer server.Close()
	c := testClient(t, server)
	deadline := time.Now().Add(10 * time.Second)
	for range 3 {
		if status, err := c.get(t.Context(), 0, deadline); status != http.StatusOK || err != nil {
			t.Fatal(status, err)
		}
	}
	if connections != 1 {
		t.Errorf("%d connections for three requests in a row, want one that is kept", connections)
	}
	// The server drops it meanwhile, which must not cost a request.
	server.CloseClientConnections()
	for range 2 {
		if status, err := c.get(t.Context(), 0, deadline); status != http.StatusTeapot || err != nil {
			t.Fatal(status, err)
		}
	}
	if connections != 3 {
		t.Errorf("%d connections, want a new one after the first was dropped, and after each answer that closes its own", connections)
	}
}

func TestClientGivesUpAtTheDeadlineOrWhenItIsClosed(t *testing.T) {
	arrived := make(chan struct{}, 2)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	}))
	defer server.Close()
	c := testClient(t, server)
	if _, err := c.get(t.Context(), 0, time.Now().Add(30*time.Millisecond)); !isTimeout(err) {
		t.Errorf("error %v, want a timeout", err)
	}
	<-arrived
	ended := make(chan error)
	go func() {
		_, err := c.get(context.Background(), 0, time.Now().Add(time.Minute))
		ended <- err
	}()
	<-arrived
	c.close()
	if err := <-ended; err == nil || isTimeout(err) {
		t.Errorf("error %v, want the request cut off", err)
	}
	if _, err := c.get(t.Context(), 0, time.Now().Add(time.Minute)); !errors.Is(err, errClientClosed) {
		t.Errorf("error %v after close", err)
	}
}
