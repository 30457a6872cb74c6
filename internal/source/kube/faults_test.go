package kube

import (
	"bytes"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"evenkeel.io/controlplane/internal/kubetest"
	"evenkeel.io/controlplane/internal/source"
)

// ten are addresses.
var ten = []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8", "10.0.0.9", "10.0.0.10"}

func TestAnEmptyListTakesNothing(t *testing.T) {
	server := kubetest.Shared(t)
	ns := server.Namespace(t)
	apply(t, server, ns, cart(ten...), routing)
	p := kubetest.NewProxy(t, server.Config())
	f := follow(t, p.Config(server.Config()))
	f.until("the first Store", func(*source.Store) bool { return true })
	f.forget()

	p.Set(kubetest.Expire("endpointslices", kubetest.Fault{Empty: true}))
	held := problem("Service " + ns + "/cart: a list of the API server left out 10 of its 10 endpoints")
	f.until("that the endpoints are held", held)
	p.Set(nil)
	f.until("that nothing is held", noProblem)
	for _, c := range f.changes {
		t.Errorf("an empty list did something: %v", c)
	}

	// The same for a kind that is no EndpointSlice.
	p.Set(kubetest.Expire("gateways", kubetest.Fault{Empty: true}))
	f.until("that the Gateways are held", problem("gateways in a list, without an event of their removal"))
	p.Set(nil)
	f.until("that nothing is held", noProblem)
	for _, c := range f.changes {
		t.Errorf("an empty list did something: %v", c)
	}

	// A live event is believed while other things are held.
	p.Set(kubetest.Expire("endpointslices", kubetest.Fault{Empty: true}))
	f.until("that the endpoints are held", held)
	apply(t, server, ns, cart(ten[:2]...))
	slice := source.Ref{Kind: source.KindEndpointSlice, Namespace: ns, Name: "cart-1"}
	f.until("what the event said", func(s *source.Store) bool {
		now := s.EndpointSlices[nameOf(slice)]
		return now != nil && len(now.Endpoints) == 2
	})
	if _, evidence := f.opOf(slice); evidence != source.EvidenceWatch {
		t.Errorf("it came by %s", evidence)
	}
	p.Set(nil)
	f.until("that nothing is held", noProblem)
}

func TestAnOperatorAcceptsWhatIsHeld(t *testing.T) {
	server := kubetest.Shared(t)
	ns := server.Namespace(t)
	apply(t, server, ns, cart(ten...))
	p := kubetest.NewProxy(t, server.Config())
	f := follow(t, p.Config(server.Config()))
	f.until("the first Store", func(*source.Store) bool { return true })
	f.forget()
	accepted := make(chan error, 2)
	go func() { accepted <- f.source.Accept(t.Context(), "a test", ns+"/cart:80") }()
	if err := <-accepted; err == nil || !strings.Contains(err.Error(), "nothing is held of "+ns+"/cart:80") {
		t.Errorf("got %v", err)
	}
	// Consistent lists do not come through, so that only the operator can decide.
	first := kubetest.Expire("endpointslices", kubetest.Fault{Empty: true})
	p.Set(func(r *http.Request) kubetest.Fault {
		if kubetest.IsList(r, "endpointslices") && r.URL.Query().Get("sendInitialEvents") == "" {
			return kubetest.Fault{Status: http.StatusInternalServerError}
		}
		return first(r)
	})
	f.until("that the endpoints are held", problem(ns+"/cart"))
	go func() { accepted <- f.source.Accept(t.Context(), "a test", ns+"/cart:80") }()
	slice := source.Ref{Kind: source.KindEndpointSlice, Namespace: ns, Name: "cart-1"}
	f.until("that they are gone", hasNot(slice))
	if err := <-accepted; err != nil {
		t.Error(err)
	}
	if _, evidence := f.opOf(slice); evidence != source.EvidenceOperator {
		t.Errorf("it went by %s", evidence)
	}
	p.Set(nil)
	f.until("that they are back", has(slice))
}

func TestWhatWasRemovedMeanwhileGoesWhenItIsConfirmed(t *testing.T) {
	server := kubetest.Shared(t)
	ns, other := server.Namespace(t), server.Namespace(t)
	apply(t, server, ns, cart(ten...))
	apply(t, server, other, cart("10.0.1.1"))
	p := kubetest.NewProxy(t, server.Config())
	f := follow(t, p.Config(server.Config()))
	f.until("the first Store", func(*source.Store) bool { return true })
	f.forget()
	p.Set(func(r *http.Request) kubetest.Fault {
		return kubetest.Fault{Abort: kubetest.IsWatch(r, "endpointslices") || kubetest.IsList(r, "endpointslices")}
	})
	f.until("that the API server does not answer", problem("APIServer"))
	remove(t, server.Config(), slicesResource, ns, "cart-1")
	p.Set(kubetest.Expire("endpointslices", kubetest.Fault{}))
	slice := source.Ref{Kind: source.KindEndpointSlice, Namespace: ns, Name: "cart-1"}
	f.until("that it is gone", hasNot(slice))
	if _, evidence := f.opOf(slice); evidence != source.EvidenceRelist {
		t.Errorf("it went by %s", evidence)
	}
	f.until("that all is well", noProblem)
}

func TestAnAPIServerThatIsAway(t *testing.T) {
	server := kubetest.Shared(t)
	ns := server.Namespace(t)
	apply(t, server, ns, cart(ten...))
	p := kubetest.NewProxy(t, server.Config())
	f := follow(t, p.Config(server.Config()))
	f.until("the first Store", func(*source.Store) bool { return true })
	f.forget()
	p.Set(func(*http.Request) kubetest.Fault { return kubetest.Fault{Abort: true} })
	f.until("that it does not answer", problem("what it said last stays in force"))
	if len(f.changes) > 0 || len(f.store.Problems) != 1 || f.store.Problems[0].Degraded != source.LastKnownGood {
		t.Errorf("changes %v, problems %v", f.changes, f.store.Problems)
	}
	apply(t, server, ns, cart(ten[:3]...))
	p.Set(nil)
	slice := source.Ref{Kind: source.KindEndpointSlice, Namespace: ns, Name: "cart-1"}
	f.until("what happened meanwhile", func(s *source.Store) bool { return len(s.EndpointSlices[nameOf(slice)].Endpoints) == 3 })
	f.until("that all is well", noProblem)
}

// TestEventsOutOfOrder repeats and swaps the events of a watch.
func TestEventsOutOfOrder(t *testing.T) {
	server := kubetest.Shared(t)
	ns := server.Namespace(t)
	apply(t, server, ns, cart(ten...))
	p := kubetest.NewProxy(t, server.Config())
	var mu sync.Mutex
	var kept []byte
	p.Set(func(r *http.Request) kubetest.Fault {
		if !strings.HasSuffix(r.URL.Path, "/endpointslices") || r.URL.Query().Get("watch") == "" {
			return kubetest.Fault{}
		}
		return kubetest.Fault{Events: func(line []byte) [][]byte {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case !bytes.Contains(line, []byte(`"type":"MODIFIED"`)):
				return [][]byte{line}
			case kept == nil:
				kept = bytes.Clone(line) // it comes after the next, twice
				return nil
			}
			late := kept
			kept = nil
			return [][]byte{line, late, late}
		}}
	})
	f := follow(t, p.Config(server.Config()))
	slice := source.Ref{Kind: source.KindEndpointSlice, Namespace: ns, Name: "cart-1"}
	f.until("the first Store", has(slice))
	endpoints := func(n int) func(*source.Store) bool {
		return func(s *source.Store) bool { return len(s.EndpointSlices[nameOf(slice)].Endpoints) == n }
	}
	apply(t, server, ns, cart(ten[:9]...))
	apply(t, server, ns, cart(ten[:8]...))
	f.until("the newest", endpoints(8))
	// The late events must not bring an old version back, and what they may have hidden is listed anew.
	// That list may be older than what the watch tells meanwhile.
	f.forget()
	f.untilLogged("out of their order")
	remove(t, server.Config(), slicesResource, ns, "cart-1")
	f.until("that it is gone", hasNot(slice))
	for _, c := range f.changes {
		if c.Object == slice && c.Op != source.Removed {
			t.Errorf("an old version came back: %v", c)
		}
	}
}

// TestAWatchThatHangs: the connection stands and nothing comes, no bookmark either.
func TestAWatchThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &follower{objects: newObjects("test"), source: &Source{log: quiet}}
		table := newTable(kinds[0], time.Now())
		f.tables[table.kind.name] = table
		time.Sleep(silence)
		if f.listen(time.Now()); !table.verify.IsZero() {
			t.Error("taken to hang too early")
		}
		time.Sleep(time.Second)
		if f.listen(time.Now()); !table.verify.Equal(time.Now()) {
			t.Error("not begun anew")
		}
	})
}
