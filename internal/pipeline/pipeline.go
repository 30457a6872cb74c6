// Package pipeline joins the rooms: objects and readings come in, snapshots go out.
//
//	source ──▶ ┌──────┐  job   ┌──────────────────────────────────────────────┐
//	signals ─▶ │ loop │ ─────▶ │ worker: core                                 │ ──▶ cache ──▶ fleet
//	tick   ──▶ │      │ ◀───── │ catalog ▶ weights ▶ translate ▶ snapshot     │ ──▶ View  ──▶ admin
//	action ──▶ └──────┘ result └──────────────────────────────────────────────┘ ──▶ state on disk
//
// The loop is one goroutine. One of six things happens at a time: objects changed, readings arrived, a tick
// (one of them says that the first objects are late), an operator's action, an event among replicas, a job's
// result. It decides what is to be done next and never waits for
// more than a channel. What takes time is done by one worker, one job after the other; the worker owns
// the core (catalog, weight machines, served resources) while it runs. Everybody else reads the View,
// which is immutable and replaced as a whole.
//
// A start serves what was saved at once, until the source delivers: Envoys that return
// are sent nothing, for the bytes are the same. What the objects make then follows it as any change does.
//
// There are two lanes. Safety: a change of objects is built at once after a quiet second, in a burst
// 50 ms after its last change and at most 500 ms after its first. Weights: a tick every 2 s. A removal
// never waits for a weight.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/prometheus/client_golang/prometheus"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/lastgood"
	"evenkeel.io/controlplane/internal/replica"
	"evenkeel.io/controlplane/internal/signals"
	"evenkeel.io/controlplane/internal/signals/lrs"
	"evenkeel.io/controlplane/internal/signals/promapi"
	"evenkeel.io/controlplane/internal/signals/scrape"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/source"
	"evenkeel.io/controlplane/internal/translate"
)

// Tick is the period of the weights lane.
const Tick = 2 * time.Second

// Collector is where readings come from. Scraping, Querying and Reporting make those there are.
type Collector struct {
	Name string // for errors
	// Follow tells it of the services and endpoints from now on. It may be called before Run.
	Follow func(*catalog.Catalog)
	// Run sends readings up until ctx is done.
	Run func(ctx context.Context, up chan<- []signals.Reading) error
	// Everywhere: it collects where another replica leads, too. Others would ask every endpoint once more.
	Everywhere bool
}

// Scraping collects from the endpoints whose policies say scrape.
func Scraping(m *scrape.Manager) Collector {
	return Collector{Name: "scraper", Follow: func(c *catalog.Catalog) { m.SetTargets(scrapeSpecs(c)) }, Run: m.Run}
}

// Querying collects for the services whose policies say prometheus.
func Querying(m *promapi.Manager) Collector {
	return Collector{Name: "prometheus", Follow: func(c *catalog.Catalog) { m.SetTargets(prometheusSpecs(c)) }, Run: m.Run}
}

// Reporting collects for the services whose policies say loadReports. An Envoy reports to the replica that it is
// connected to, and that one tells the leader.
func Reporting(m *lrs.Manager) Collector {
	return Collector{Name: "load reports", Follow: func(c *catalog.Catalog) { m.SetTargets(reportSpecs(c)) }, Run: m.Run, Everywhere: true}
}

// Replicas are the processes that compute the weights in turn, this one among them.
type Replicas interface {
	// Run sends up who leads, what the leader tells, and who joins, until ctx is done.
	Run(ctx context.Context, up chan<- replica.Event) error
	// Tell has all followers told, without waiting for them. Followers is how many there are.
	Tell(told *replica.Told)
	Followers() int
}

// Options are what a Pipeline joins.
type Options struct {
	Source     source.Source
	Collectors []Collector
	// Cache is given one snapshot per fleet, by fleet name, and one per namespace, by "eds:<namespace>".
	Cache cachev3.SnapshotCache
	// Serving is told when a fleet is served something new, and when the change behind it was seen.
	Serving func(fleet string, seen time.Time)
	// Workers is how many Envoy worker threads choose among the endpoints of a fleet, 0 if unknown.
	Workers func(fleet string) int
	// Replicas are nil where this process is the only one, and always leads.
	Replicas Replicas
	// State is where restarts go on from; nil for nowhere.
	State     *lastgood.Dir
	Catalog   catalog.Options
	Translate translate.Options
	// Limits say who counts requests.
	Limits  Limits
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Pipeline is the running control plane without its ports.
type Pipeline struct {
	options Options
	metrics *metrics
	view    atomic.Pointer[View]
	actions chan action
}

// New makes a Pipeline; Run starts it.
func New(options Options) *Pipeline {
	p := &Pipeline{
		options: options,
		metrics: newMetrics(options.Metrics),
		actions: make(chan action),
	}
	p.view.Store(&View{notReady: errors.New("waiting for the first complete set of objects")})
	return p
}

// View is what is known and served at this moment.
func (p *Pipeline) View() *View { return p.view.Load() }

// action is a change that an operator asked for.
type action struct {
	do    func(*core) error
	reply chan error
}

// act hands do to the worker and returns its error, or ctx's.
func (p *Pipeline) act(ctx context.Context, do func(*core) error) error {
	a := action{do: do, reply: make(chan error, 1)}
	select {
	case p.actions <- a:
	case <-ctx.Done():
		return fmt.Errorf("the control plane is busy or stopping: %w", ctx.Err())
	}
	select {
	case err := <-a.reply:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the action was accepted, its outcome is not known: %w", ctx.Err())
	}
}

// Freeze holds the published weights of a service, or of all if service is "", until Unfreeze.
// Endpoints that leave still leave, and those that join get their prior. by is who wants it, for the audit.
func (p *Pipeline) Freeze(ctx context.Context, by, service string) error {
	return p.act(ctx, func(c *core) error { return c.freeze(by, service, true) })
}

// Unfreeze ends what Freeze began.
func (p *Pipeline) Unfreeze(ctx context.Context, by, service string) error {
	return p.act(ctx, func(c *core) error { return c.freeze(by, service, false) })
}

// Rollback pins a fleet to an earlier generation of its history, with the endpoints and weights of now. The
// pin ends with Unpin, or when an object changes that was rolled back.
func (p *Pipeline) Rollback(ctx context.Context, by, fleet string, generation uint64) (snapshot.Pin, error) {
	var pin snapshot.Pin
	err := p.act(ctx, func(c *core) (err error) {
		now := time.Now()
		pin, err = c.rollback(now, by, fleet, generation)
		c.acted(now, by, "rollback", fleet, generation, err)
		return err
	})
	return pin, err
}

// Unpin has a fleet served its newest generation again.
func (p *Pipeline) Unpin(ctx context.Context, by, fleet string) error {
	return p.act(ctx, func(c *core) error {
		err := c.unpin(fleet)
		c.acted(time.Now(), by, "unpin", fleet, 0, err)
		return err
	})
}

// Run works until ctx is done, or until the source or a collector cannot go on.
func (p *Pipeline) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	saver := newSaver(p.options.State, p.metrics, p.options.Log)

	updates := make(chan source.Update)
	readings := make(chan []signals.Reading, 1)
	jobs := make(chan job, 1)
	events := make(chan replica.Event)
	results := make(chan struct{}, 1)
	var rooms sync.WaitGroup
	spawn := func(name string, run func() error) {
		rooms.Go(func() {
			if err := run(); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	spawn("source", func() error { return p.options.Source.Run(ctx, updates) })
	for _, c := range p.options.Collectors {
		spawn(c.Name, func() error { return c.Run(ctx, readings) })
	}
	if p.options.Replicas != nil {
		spawn("replicas", func() error { return p.options.Replicas.Run(ctx, events) })
	}
	spawn("saver", saver.run)
	spawn("worker", func() error {
		defer saver.close()
		core := newCore(p.options, p.metrics, saver.load())
		if p.options.Limits.Ask != nil {
			spawn("limits' metrics", func() error { return core.answers.run(ctx) })
		}
		if saved := saver.loadFleets(); len(saved) > 0 {
			core.restore(saved)
			p.handOut(ctx, core, saver, time.Now(), time.Now())
		}
		defer func() { core.save(time.Now(), saver, true) }()
		for j := range jobs {
			p.work(ctx, core, saver, j)
			results <- struct{}{}
		}
		return nil
	})

	p.loop(ctx, inputs{updates, readings, events, results}, jobs)
	close(jobs)
	rooms.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// inputs are what the loop hears.
type inputs struct {
	updates  <-chan source.Update
	readings <-chan []signals.Reading
	events   <-chan replica.Event
	results  <-chan struct{}
}

// job is one piece of work for the worker: a rebuild if objects changed, else a step of the weights,
// and the actions and events that came meanwhile.
type job struct {
	overdue  bool      // the source has delivered nothing yet
	seen     time.Time // when the oldest of what it is about was seen
	update   *source.Update
	step     bool
	readings []signals.Reading
	actions  []action
	events   []replica.Event
}

// loop decides what is done next. It returns when ctx is done and the worker is idle.
func (p *Pipeline) loop(ctx context.Context, in inputs, jobs chan<- job) {
	var (
		next   job             // what the next job will hold
		batch  = newBatch()    // readings since the last step, the newest per endpoint and source
		window quiet           // when the pending update is due
		due    = newDueTimer() // fires at that moment
		synced bool
		busy   bool
		tick   = time.NewTicker(Tick)
		late   = time.NewTimer(patience)
		// settled: the weights are known as well as they will be. A replica that joins others builds nothing
		// before its leader has told it, for as long as that may take.
		settled = p.options.Replicas == nil
		settle  = time.NewTimer(replica.Patience)
	)
	defer settle.Stop()
	defer tick.Stop()
	defer late.Stop()
	defer due.stop()
	for {
		if !busy {
			ready := settled && next.update != nil && !time.Now().Before(window.due())
			if ready || next.step || next.overdue || len(next.actions) > 0 || len(next.events) > 0 {
				start := job{seen: time.Now(), step: next.step, overdue: next.overdue, actions: next.actions, events: next.events}
				if ready {
					start.seen = window.first
					start.update, next.update = next.update, nil
					window.built()
				}
				if start.step {
					start.readings = batch.take()
				}
				next.step, next.overdue, next.actions, next.events = false, false, nil, nil
				jobs <- start // has room: the worker is idle
				busy = true
			}
		}
		select {
		case <-ctx.Done():
			if busy {
				<-in.results
			}
			for _, a := range next.actions {
				a.reply <- ctx.Err()
			}
			return
		case u := <-in.updates:
			synced = true
			if next.update != nil {
				u.Changes = append(next.update.Changes, u.Changes...)
			}
			next.update = &u
			due.reset(window.changed(time.Now()))
		case r := <-in.readings:
			batch.add(r)
		case <-due.fired():
			// The pending update is due now; the top of the loop sees it.
		case <-tick.C:
			next.step = synced
		case <-late.C:
			next.overdue = !synced
		case e := <-in.events:
			next.events = appendEvent(next.events, e)
			settled = settled || settles(e)
		case <-settle.C:
			settled = true
		case a := <-p.actions:
			next.actions = append(next.actions, a)
		case <-in.results:
			busy = false
		}
	}
}

// work does one job and hands out what came of it.
func (p *Pipeline) work(ctx context.Context, core *core, saver *saver, j job) {
	now := time.Now()
	led := core.role.Leads
	for _, e := range j.events {
		core.hear(now, e)
	}
	if j.update != nil {
		first := core.catalog == nil
		core.rebuild(now, *j.update)
		if first {
			// Reading and building everything leaves as much garbage as results; nothing like it comes again.
			defer debug.FreeOSMemory()
		}
	}
	if (j.update != nil || core.role.Leads != led) && core.catalog != nil {
		for _, c := range p.options.Collectors {
			c.Follow(core.measured(c))
		}
	}
	for _, a := range j.actions {
		a.reply <- a.do(core)
	}
	if j.overdue {
		core.overdue()
	}
	if j.step {
		core.step(now, j.readings)
	}
	p.handOut(ctx, core, saver, now, j.seen)
	p.metrics.jobDuration.Observe(time.Since(now).Seconds())
}

// handOut gives the cache, the disk and readers what is new. seen is when what is behind it was.
func (p *Pipeline) handOut(ctx context.Context, core *core, saver *saver, now, seen time.Time) {
	for _, s := range core.takeLimits(now, core.takeOutgoing()) {
		if s.snapshot == nil {
			p.options.Cache.ClearSnapshot(s.key)
			continue
		}
		if err := p.options.Cache.SetSnapshot(ctx, s.key, s.snapshot); err != nil && ctx.Err() == nil {
			p.options.Log.Error("handing a snapshot to the cache", "key", s.key, "error", err)
		}
		if p.options.Serving != nil {
			p.options.Serving(s.key, seen)
		}
	}
	if told := core.takeTold(now); told != nil {
		p.options.Replicas.Tell(told)
	}
	core.save(now, saver, false)
	p.view.Store(core.view(p.View()))
}
