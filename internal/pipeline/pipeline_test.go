package pipeline

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/xds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a source that delivers what a test tells it to.
type script struct {
	updates chan source.Update
	fail    chan error
}

func (s script) Run(ctx context.Context, up chan<- source.Update) error {
	for {
		select {
		case u := <-s.updates:
			select {
			case up <- u:
			case <-ctx.Done():
				return nil
			}
		case err := <-s.fail:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// silent is a collector that reads nothing.
var silent = Collector{Name: "silent", Follow: func(*catalog.Catalog) {}, Run: func(ctx context.Context, _ chan<- []signals.Reading) error {
	<-ctx.Done()
	return nil
}}

// running starts a Pipeline in the test's bubble; stop ends it and returns what Run did.
func running(t *testing.T) (p *Pipeline, s script, stop func() error) {
	return runningIn(t, nil, slog.New(slog.DiscardHandler))
}

// runningIn is running with a state directory and a log.
func runningIn(t *testing.T, state *lastgood.Dir, log *slog.Logger) (p *Pipeline, s script, stop func() error) {
	s = script{updates: make(chan source.Update), fail: make(chan error)}
	p = New(Options{
		Source: s, Collectors: []Collector{silent}, Cache: snapshot.NewCache(xds.FleetHash{}), State: state,
		Catalog: catalog.Options{AllowLoopback: true}, Log: log,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return p, s, func() error { cancel(); return <-done }
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestNothingIsReadyBeforeTheFirstBuild(t *testing.T) {
	objects := store(t, gateway, shop("cart", 1))
	synctest.Test(t, func(t *testing.T) {
		p, s, stop := running(t)
		time.Sleep(time.Minute) // ticks pass
		synctest.Wait()
		if p.View().Ready() == nil || p.View().Catalog() != nil {
			t.Error("ready without objects")
		}
		s.updates <- source.Update{Store: objects}
		synctest.Wait()
		if err := p.View().Ready(); err != nil {
			t.Errorf("not ready after the first objects: %v", err)
		}
		if _, n, ok := p.View().Snapshot("shop/edge"); !ok || n != 1 {
			t.Errorf("generation %d, %v", n, ok)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestABurstIsOneBuild: the first change is built at once, those that follow closely together.
func TestABurstIsOneBuild(t *testing.T) {
	one, two := store(t, gateway, shop("cart", 1)), store(t, gateway, shop("cart", 1), shop("pay", 2))
	synctest.Test(t, func(t *testing.T) {
		p, s, stop := running(t)
		s.updates <- source.Update{Store: one}
		synctest.Wait()
		for i := range 10 {
			next := source.Update{Store: two}
			if i%2 == 0 {
				next.Store = one
			}
			next.Changes = []source.Change{{Object: source.Ref{Kind: "HTTPRoute", Namespace: "shop", Name: "pay"}, Op: source.Added, Evidence: source.EvidenceFile}}
			s.updates <- next
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(quietAfter)
		synctest.Wait()
		history := p.View().Generations("shop/edge")
		if len(history) != 2 {
			t.Errorf("%d generations, want the first and one for the whole burst", len(history))
		}
		if why := history[len(history)-1].Why; !strings.Contains(why, "and 7 more") {
			t.Errorf("its reason is %q, want all ten changes in it", why)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestFreezeNamesAnUnknownService(t *testing.T) {
	objects := store(t, gateway, shop("cart", 1))
	synctest.Test(t, func(t *testing.T) {
		p, s, stop := running(t)
		s.updates <- source.Update{Store: objects}
		synctest.Wait()
		if err := p.Freeze(t.Context(), "a test", "shop/cart:80"); err != nil {
			t.Error(err)
		}
		time.Sleep(Tick)
		synctest.Wait()
		if d, _ := p.View().Decisions("shop/cart:80"); d.Frozen == "" {
			t.Error("the decisions do not say that they are frozen")
		}
		if err := p.Freeze(t.Context(), "a test", "shop/none:80"); err == nil || !strings.Contains(err.Error(), "shop/none:80") {
			t.Errorf("got %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if err := p.Unfreeze(ctx, "a test", ""); !errors.Is(err, context.Canceled) {
			t.Errorf("an action after the end: %v", err)
		}
	})
}

func TestASourceThatFailsEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, stop := running(t)
		s.fail <- errors.New("the directory is on fire")
		synctest.Wait()
		if err := stop(); err == nil || !strings.Contains(err.Error(), "source: the directory is on fire") {
			t.Errorf("got %v", err)
		}
	})
}
