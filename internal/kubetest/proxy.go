package kubetest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Proxy stands in front of an API server and breaks what it is told to. It speaks JSON alone, so that
// what passes can be read here. Its methods may be called from anywhere.
type Proxy struct {
	*httptest.Server

	mu   sync.Mutex
	rule func(*http.Request) Fault
	ctx  context.Context // of the requests under way
	end  context.CancelFunc
}

// Fault is what is done to a request.
type Fault struct {
	Abort  bool // the connection is cut
	Hang   bool // it is never answered
	Status int  // it is refused
	Empty  bool // a list has nothing in it, streamed or not
	// Events replaces each line of a watch by others.
	Events func(line []byte) [][]byte
}

// IsList tells a request for all objects, streamed or not, of a resource.
func IsList(r *http.Request, resource string) bool {
	return strings.HasSuffix(r.URL.Path, "/"+resource) && (r.URL.Query().Get("watch") == "" || r.URL.Query().Get("sendInitialEvents") == "true")
}

// IsWatch tells a watch that goes on from a list.
func IsWatch(r *http.Request, resource string) bool {
	return strings.HasSuffix(r.URL.Path, "/"+resource) && r.URL.Query().Get("watch") != "" && r.URL.Query().Get("sendInitialEvents") == ""
}

// NewProxy starts one in front of the API server that to leads to, which ends with the test. It breaks nothing.
func NewProxy(t testing.TB, to *rest.Config) *Proxy {
	t.Helper()
	transport, err := rest.TransportFor(to)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(to.Host)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{}
	p.Set(nil)
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
		case f.Abort:
			panic(http.ErrAbortHandler)
		case f.Hang:
			select {
			case <-r.Context().Done():
			case <-ctx.Done():
			}
			panic(http.ErrAbortHandler)
		case f.Status != 0:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(f.Status)
			_ = json.NewEncoder(w).Encode(map[string]any{
				"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": f.Status, "reason": map[int]string{410: "Expired", 500: "InternalError"}[f.Status],
			})
			return
		}
		both, cancel := context.WithCancel(r.Context())
		defer context.AfterFunc(ctx, cancel)()
		defer cancel()
		reverse.ServeHTTP(w, r.WithContext(both))
	}))
	p.Server.EnableHTTP2 = true
	p.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.Server.StartTLS()
	t.Cleanup(func() {
		p.Cut()
		p.Server.Close()
		if c, ok := transport.(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
	})
	return p
}

// Config is the client configuration to, through the proxy.
func (p *Proxy) Config(to *rest.Config) *rest.Config {
	c := rest.CopyConfig(to)
	c.Host = p.URL
	c.TLSClientConfig = rest.TLSClientConfig{Insecure: true}
	return c
}

// Kubeconfig is the path of a file that leads to the API server through the proxy, as the proxy's user.
func (p *Proxy) Kubeconfig(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	kubeconfig := api.Config{
		CurrentContext: "proxy",
		Contexts:       map[string]*api.Context{"proxy": {Cluster: "proxy"}},
		Clusters:       map[string]*api.Cluster{"proxy": {Server: p.URL, InsecureSkipTLSVerify: true}},
	}
	if err := clientcmd.WriteToFile(kubeconfig, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Expire is a rule that first breaks all watches of the resource in a way that makes for a new list, and
// then does what then says to lists.
func Expire(resource string, then Fault) func(*http.Request) Fault {
	var mu sync.Mutex
	expired := false
	return func(r *http.Request) Fault {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case IsWatch(r, resource) && !expired:
			expired = true
			return Fault{Status: http.StatusGone}
		case IsList(r, resource):
			return then
		}
		return Fault{}
	}
}

// Set replaces what is broken and cuts what is under way; nil breaks nothing.
func (p *Proxy) Set(rule func(*http.Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end != nil {
		p.end()
	}
	p.rule = rule
	p.ctx, p.end = context.WithCancel(context.Background())
}

// Cut ends what is under way.
func (p *Proxy) Cut() {
	p.mu.Lock()
	rule := p.rule
	p.mu.Unlock()
	p.Set(rule)
}

func (p *Proxy) faultFor(r *http.Request) (Fault, context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rule == nil {
		return Fault{}, p.ctx
	}
	return p.rule(r), p.ctx
}

func (p *Proxy) rewrite(r *http.Response) error {
	f, _ := p.faultFor(r.Request)
	watched := r.Request.URL.Query().Get("watch") != ""
	switch {
	case f.Empty && watched:
		f.Events = func(line []byte) [][]byte {
			if bytes.Contains(line, []byte(`"type":"ADDED"`)) {
				return nil
			}
			return [][]byte{line}
		}
		r.Body = filter(r.Body, f.Events)
	case f.Empty:
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
	case f.Events != nil && watched:
		r.Body = filter(r.Body, f.Events)
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
