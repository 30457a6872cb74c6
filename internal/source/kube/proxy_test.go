package kube

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
)

// proxy stands in front of an API server and breaks what it is told to. It speaks JSON alone, so that
// what passes can be read here.
type proxy struct {
	*httptest.Server

	mu   sync.Mutex
	rule func(*http.Request) fault
	ctx  context.Context // of the requests under way
	end  context.CancelFunc
}

// fault is what is done to a request.
type fault struct {
	abort  bool // the connection is cut
	hang   bool // it is never answered
	status int  // it is refused
	empty  bool // a list has nothing in it, streamed or not
	// events replaces each line of a watch by others.
	events func(line []byte) [][]byte
}

// isList tells a request for all objects, streamed or not, of a resource.
func isList(r *http.Request, resource string) bool {
	return strings.HasSuffix(r.URL.Path, "/"+resource) && (r.URL.Query().Get("watch") == "" || r.URL.Query().Get("sendInitialEvents") == "true")
}

// isWatch tells a watch that goes on from a list.
func isWatch(r *http.Request, resource string) bool {
	return strings.HasSuffix(r.URL.Path, "/"+resource) && r.URL.Query().Get("watch") != "" && r.URL.Query().Get("sendInitialEvents") == ""
}

func newProxy(t *testing.T, to *rest.Config) *proxy {
	transport, err := rest.TransportFor(to)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(to.Host)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{}
	p.set(nil)
	reverse := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Set("Accept", "application/json")
			r.Out.Header.Del("Accept-Encoding")
		},
		Transport:      transport,
		FlushInterval:  -1,
		ModifyResponse: func(r *http.Response) error { return p.rewrite(r) },
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, _ error) { panic(http.ErrAbortHandler) },
	}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ctx := p.faultFor(r)
		switch {
		case f.abort:
			panic(http.ErrAbortHandler)
		case f.hang:
			select {
			case <-r.Context().Done():
			case <-ctx.Done():
			}
			panic(http.ErrAbortHandler)
		case f.status != 0:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(f.status)
			_ = json.NewEncoder(w).Encode(map[string]any{
				"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": f.status, "reason": map[int]string{410: "Expired", 500: "InternalError"}[f.status],
			})
			return
		}
		both, cancel := context.WithCancel(r.Context())
		defer context.AfterFunc(ctx, cancel)()
		defer cancel()
		reverse.ServeHTTP(w, r.WithContext(both))
	}))
	p.Server.EnableHTTP2 = true
	p.Server.Config.ErrorLog = quietLog
	p.Server.StartTLS()
	t.Cleanup(func() {
		p.cut()
		p.Server.Close()
		if c, ok := transport.(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
	})
	return p
}

func (p *proxy) config(to *rest.Config) *rest.Config {
	c := rest.CopyConfig(to)
	c.Host = p.URL
	c.TLSClientConfig = rest.TLSClientConfig{Insecure: true}
	return c
}

// set replaces what is broken and cuts what is under way; nil breaks nothing.
func (p *proxy) set(rule func(*http.Request) fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end != nil {
		p.end()
	}
	p.rule = rule
	p.ctx, p.end = context.WithCancel(context.Background())
}

// cut ends what is under way.
func (p *proxy) cut() {
	p.mu.Lock()
	rule := p.rule
	p.mu.Unlock()
	p.set(rule)
}

func (p *proxy) faultFor(r *http.Request) (fault, context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rule == nil {
		return fault{}, p.ctx
	}
	return p.rule(r), p.ctx
}

func (p *proxy) rewrite(r *http.Response) error {
	f, _ := p.faultFor(r.Request)
	watched := r.Request.URL.Query().Get("watch") != ""
	switch {
	case f.empty && watched:
		f.events = func(line []byte) [][]byte {
			if bytes.Contains(line, []byte(`"type":"ADDED"`)) {
				return nil
			}
			return [][]byte{line}
		}
		r.Body = filter(r.Body, f.events)
	case f.empty:
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			return err
		}
		body["items"] = []any{}
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		_ = r.Body.Close()
		r.Body = io.NopCloser(bytes.NewReader(text))
		r.ContentLength = int64(len(text))
		r.Header.Del("Content-Length")
	case f.events != nil && watched:
		r.Body = filter(r.Body, f.events)
	}
	return nil
}

// filter passes a body on line by line.
func filter(body io.ReadCloser, lines func([]byte) [][]byte) io.ReadCloser {
	out, in := io.Pipe()
	go func() {
		defer body.Close()
		reader := bufio.NewReader(body)
		for {
			line, err := reader.ReadBytes('\n')
			if err != nil {
				in.CloseWithError(err)
				return
			}
			for _, l := range lines(line) {
				if _, err := in.Write(l); err != nil {
					return
				}
			}
		}
	}()
	return out
}
