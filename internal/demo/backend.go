package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// BackendConfig describes a simulated server.
type BackendConfig struct {
	// Address to listen on, for StartBackend a loopback one: on Linux all of 127.0.0.0/8 is there to be used.
	// Answers carry it as the backend's name.
	Address netip.AddrPort
	// Workers serve one request each at a time. At least 1.
	Workers int
	// Speed of a worker; a request's service time is its work divided by it. More than 0.
	Speed float64
	// Work of a request, drawn independently for each.
	Work Distribution
	// QueueLimit is how many requests may wait for a worker; the next one gets 503 at once. 0: 256.
	QueueLimit int
	// Seed of all that is random here.
	Seed uint64
	// Started is when the process started, as the metrics page tells it. Zero: when it did.
	Started time.Time
	// Metrics is what the metrics page is like from the start.
	Metrics MetricsFault
}

const defaultQueueLimit = 256

func (c BackendConfig) validate() error {
	if c.Workers < 1 {
		return fmt.Errorf("workers %d: want at least 1", c.Workers)
	}
	if !(c.Speed > 0) {
		return fmt.Errorf("speed %v: must be more than 0", c.Speed)
	}
	if c.QueueLimit < 0 {
		return fmt.Errorf("queue limit %d: must not be negative", c.QueueLimit)
	}
	if err := c.Work.validate(); err != nil {
		return fmt.Errorf("work: %w", err)
	}
	return nil
}

// Backend is an HTTP server that answers each request when a worker of its queue would have served it,
// waiting on timers and using next to no CPU. It exports the metrics of an ordinary Go server at
// /metrics of the same port, with the CPU time of the simulation in place of the process's own.
//
// Its Set methods change it while it runs and may be called from anywhere. They act on requests whose
// service begins afterwards, except for SetPaused.
type Backend struct {
	config BackendConfig
	epoch  time.Time
	name   []string // the value of a header

	address netip.AddrPort

	// Of the process that runs now; Restart exchanges it.
	server  *http.Server
	stopped chan struct{} // closed when Serve has returned
	page    atomic.Pointer[metricsPage]

	blackHole, reporting atomic.Bool

	mu        sync.Mutex // guards what follows
	queue     queue
	random    *rand.Rand
	wake      *time.Timer // fires when the next request is due to end
	errorRate float64
	counts    counts
	reported  reportedCPU
	reports   loadReports
}

type counts struct{ served, failed, rejected uint64 }

// StartBackend listens and serves until Close.
func StartBackend(config BackendConfig) (*Backend, error) {
	if !config.Address.Addr().IsLoopback() {
		return nil, fmt.Errorf("simulated backend: address %s: expected a loopback address", config.Address)
	}
	b, err := NewBackend(config)
	if err != nil {
		return nil, err
	}
	b.address, err = b.listen(config.Address)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (b *Backend) listen(address netip.AddrPort) (netip.AddrPort, error) {
	listener, err := net.Listen("tcp", address.String())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("simulated backend: %w", err)
	}
	server := &http.Server{
		Handler:           b,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	stopped := make(chan struct{})
	b.server, b.stopped = server, stopped
	go func() {
		defer close(stopped)
		_ = server.Serve(listener)
	}()
	return netip.MustParseAddrPort(listener.Addr().String()), nil
}

// NewBackend makes a backend that does not listen: a handler for requests that come another way.
func NewBackend(config BackendConfig) (*Backend, error) {
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("simulated backend: %w", err)
	}
	if config.QueueLimit == 0 {
		config.QueueLimit = defaultQueueLimit
	}
	b := &Backend{
		config: config,
		epoch:  time.Now(),
		name:   []string{config.Address.String()},
		queue:  queue{workers: config.Workers, limit: config.QueueLimit, speed: config.Speed, hidden: 1},
		random: rand.New(rand.NewPCG(config.Seed, 0x6261636b656e64)),
	}
	if config.Started.IsZero() {
		config.Started = b.epoch
	}
	b.page.Store(newMetricsPage(b, config.Started, config.Metrics))
	return b, nil
}

// Address is where the backend listens. Zero if it does not.
func (b *Backend) Address() netip.AddrPort { return b.address }

// Config is what the backend was started with.
func (b *Backend) Config() BackendConfig { return b.config }

// Close ends the server at once; requests in flight are cut off.
func (b *Backend) Close() error {
	err := b.hangUp()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopTimer()
	return err
}

// hangUp stops listening and cuts all connections.
func (b *Backend) hangUp() error {
	if b.server == nil {
		return nil
	}
	err := b.server.Close()
	<-b.stopped
	return err
}

func (b *Backend) stopTimer() {
	if b.wake != nil {
		b.wake.Stop()
	}
}

// ServeHTTP simulates a request, or writes the metrics page.
func (b *Backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	page := b.page.Load()
	if b.blackHole.Load() {
		<-r.Context().Done()
		return
	}
	if r.URL.Path == "/metrics" {
		page.ServeHTTP(w, r)
		return
	}
	began := time.Now()
	code := b.simulate(r.Context())
	page.observe(code, time.Since(began))
	if b.reporting.Load() {
		if report := b.loadReport(code); report != "" {
			w.Header()[loadReportHeader] = []string{report}
		}
	}
	header := w.Header()
	header["X-Demo-Backend"] = b.name
	header["Content-Type"] = plainText // or it would be guessed from the content, each time
	w.WriteHeader(code)
	_, _ = io.WriteString(w, strconv.Itoa(code)+"\n")
}

var plainText = []string{"text/plain; charset=utf-8"}

// statusClientGone is what web servers write into their logs for a client that went away; nobody
// receives it.
const statusClientGone = 499

func (b *Backend) simulate(ctx context.Context) (code int) {
	j, code := b.admit()
	if j == nil {
		return code
	}
	select {
	case <-j.done:
		return http.StatusOK
	case <-ctx.Done():
		// The work goes on: a server rarely learns in time that nobody waits for its answer.
		return statusClientGone
	}
}

// admit puts a request into the queue, or returns the code with which it was refused.
func (b *Backend) admit() (*job, int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.errorRate > 0 && b.random.Float64() < b.errorRate {
		b.counts.failed++
		return nil, http.StatusInternalServerError
	}
	j := b.queue.arrive(b.now(), b.config.Work.draw(b.random))
	if j == nil {
		b.counts.rejected++
		return nil, http.StatusServiceUnavailable
	}
	b.counts.served++
	b.schedule()
	return j, 0
}

// now is the time since the epoch of the queue. The caller holds mu, so that it never goes back.
func (b *Backend) now() time.Duration { return time.Since(b.epoch) }

// schedule sets the timer to the next request that is due to end. The caller holds mu.
func (b *Backend) schedule() {
	i, due := b.queue.next()
	if i < 0 {
		return
	}
	wait := max(0, due-b.now())
	if b.wake == nil {
		b.wake = time.AfterFunc(wait, b.advance)
		return
	}
	b.wake.Reset(wait)
}

func (b *Backend) advance() { b.change(func(time.Duration) {}) }

func (b *Backend) change(apply func(now time.Duration)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.queue.advance(now)
	apply(now)
	b.schedule()
}

var errNotPositive = errors.New("must be more than 0")

// SetSpeed changes the speed of all workers. A slower worker is busy for longer with the same request,
// and its CPU shows it.
func (b *Backend) SetSpeed(speed float64) error {
	if !(speed > 0) {
		return fmt.Errorf("speed %v: %w", speed, errNotPositive)
	}
	b.change(func(time.Duration) { b.queue.speed = speed })
	return nil
}

// SetHiddenSlowdown makes every request take factor times as long without using more CPU: waiting for a
// disk, a lock, or a CPU that the hypervisor gave to a neighbour. At least 1, which is none.
func (b *Backend) SetHiddenSlowdown(factor float64) error {
	if !(factor >= 1) {
		return fmt.Errorf("hidden slowdown %v: want at least 1", factor)
	}
	b.change(func(time.Duration) { b.queue.hidden = factor })
	return nil
}

// SetPaused stops all workers where they are, or lets them go on.
func (b *Backend) SetPaused(paused bool) {
	b.change(func(now time.Duration) { b.queue.pause(now, paused) })
}

// SetErrorRate answers this share of the requests, 0 to 1, with 500 at once and without work.
func (b *Backend) SetErrorRate(rate float64) error {
	if !(rate >= 0 && rate <= 1) {
		return fmt.Errorf("error rate %v: want 0 to 1", rate)
	}
	b.change(func(time.Duration) { b.errorRate = rate })
	return nil
}

// SetMetricsFault breaks the metrics page, or repairs it with MetricsFine.
func (b *Backend) SetMetricsFault(fault MetricsFault) { b.page.Load().setFault(fault) }

// SetReportedCPU makes the server claim that it uses this share of its CPU, 0 to 1, whatever it does.
func (b *Backend) SetReportedCPU(share float64) error {
	if !(share >= 0 && share <= 1) {
		return fmt.Errorf("reported CPU %v: want 0 to 1", share)
	}
	b.change(func(now time.Duration) { b.reported.claim(now, b.cpu(now), share*float64(b.config.Workers)) })
	return nil
}

// SetLoadReports adds to each answer how busy the server is, for balancers that listen to that.
func (b *Backend) SetLoadReports(on bool) { b.reporting.Store(on) }

// SetBlackHole lets the server accept requests, those for its metrics too, and never answer them, or
// behave again. What it has swallowed stays swallowed.
func (b *Backend) SetBlackHole(on bool) { b.blackHole.Store(on) }

// Usage is what a backend has done since it started, as the simulation itself knows it.
type Usage struct {
	At time.Time
	// Occupied is the time that workers spent on requests, hidden slowdowns included: the truth that a
	// load balancer tries to even out. CPU is the part of it that a truthful metrics page shows.
	Occupied, CPU time.Duration
	Workers       int
	// Requests by outcome: taken into the queue, failed on purpose, turned away because it was full.
	Served, Failed, Rejected uint64
	// InFlight requests are waiting or being served now.
	InFlight int
}

// Usage returns the totals up to now.
func (b *Backend) Usage() Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	occupied, cpu := b.queue.usage(now)
	return Usage{
		At: b.epoch.Add(now), Occupied: occupied, CPU: cpu, Workers: b.config.Workers,
		Served: b.counts.served, Failed: b.counts.failed, Rejected: b.counts.rejected,
		InFlight: b.queue.inFlight(),
	}
}

// Utilisation is the share of the workers' time, 0 to 1, that requests took since the earlier usage of
// the same backend; 0 if no time has passed.
func (u Usage) Utilisation(earlier Usage) float64 {
	elapsed := u.At.Sub(earlier.At)
	if elapsed <= 0 {
		return 0
	}
	return (u.Occupied - earlier.Occupied).Seconds() / (elapsed.Seconds() * float64(u.Workers))
}

// Requests counts the requests that came in since the earlier usage of the same backend.
func (u Usage) Requests(earlier Usage) uint64 {
	return u.Served + u.Failed + u.Rejected - earlier.Served - earlier.Failed - earlier.Rejected
}
