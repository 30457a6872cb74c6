package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"
)

// LoadOptions describe an open-loop load: requests come at times that do not depend on the answers.
type LoadOptions struct {
	// URLs that are asked for with GET, each as often as the others, at random. At least one. Their hosts
	// are loopback addresses with a port; anything else is refused.
	URLs []string
	// Host is the Host header, if not that of the URL.
	Host string
	// Header is sent with each request, besides Host.
	Header http.Header
	// Rate in requests/s, of a Poisson process. More than 0.
	Rate float64
	// Shape is what the rate is multiplied by at a time since the start of the load. A factor below 0 is
	// 0; after an hour of nothing the load ends. nil: 1, always.
	Shape func(time.Duration) float64
	// Duration after which no more requests are sent. 0: until the context ends.
	Duration time.Duration
	// Seed of the arrival times and of who gets which request; equal seeds give equal ones.
	Seed uint64
	// Deadline within which an answer is worth something: goodput counts those. 0: 1 s.
	Deadline time.Duration
	// Timeout after which the client gives up. 0: 10 s.
	Timeout time.Duration
	// MaxInFlight requests may be under way; a request over it is not sent and counts as dropped, which
	// is a failure. 0: 2048.
	MaxInFlight int
	// KeepSamples bounds memory: of more samples than this the older half is forgotten. 0: one million.
	KeepSamples int
}

// withDefaults fills what was left out and checks the rest.
func (o LoadOptions) withDefaults() (LoadOptions, error) {
	if len(o.URLs) == 0 {
		return o, errors.New("load: no URL: want at least one")
	}
	if !(o.Rate > 0) {
		return o, fmt.Errorf("load: rate %v: %w", o.Rate, errNotPositive)
	}
	if o.Duration < 0 || o.Deadline < 0 || o.Timeout < 0 || o.MaxInFlight < 0 || o.KeepSamples < 0 {
		return o, errors.New("load: durations and bounds must not be negative")
	}
	if o.Deadline == 0 {
		o.Deadline = time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.MaxInFlight == 0 {
		o.MaxInFlight = 2048
	}
	if o.KeepSamples == 0 {
		o.KeepSamples = 1 << 20
	}
	return o, nil
}

// targets are the servers of the URLs and what is sent to them.
func (o LoadOptions) targets() ([]target, error) {
	var targets []target
	for _, text := range o.URLs {
		to, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("load: URL: %w", err)
		}
		if to.Scheme != "http" {
			return nil, fmt.Errorf("load: URL %q: want http://ADDRESS:PORT/", text)
		}
		address, err := netip.ParseAddrPort(to.Host)
		if err != nil || !address.Addr().IsLoopback() {
			return nil, fmt.Errorf("load: URL %q: load goes to a loopback address with a port only, such as 127.0.0.1:8080", text)
		}
		targets = append(targets, target{address: address, request: requestText(to.RequestURI(), cmp.Or(o.Host, to.Host), o.Header)})
	}
	return targets, nil
}

// Outcomes of a request that got no answer, in place of its status code.
const (
	NoAnswer = 0  // the connection failed
	TimedOut = -1 // no answer within the timeout
	Dropped  = -2 // not sent: too many were under way
)

// Sample is one request.
type Sample struct {
	// Intended is when it should have been sent, since the start of the load; latency counts from there,
	// so that a generator that is late does not hide a server that is slow.
	Intended time.Duration
	Latency  time.Duration
	// Status is the HTTP status code, or NoAnswer, TimedOut or Dropped.
	Status int
}

// Load is an open-loop load that runs once. Report may be called at any time, from anywhere.
type Load struct {
	options  LoadOptions
	servers  requester
	inFlight chan struct{} // one token per request under way

	mu      sync.Mutex // guards what follows
	began   time.Time
	samples []Sample
}

// requester sends a request to one of the URLs and returns the status code of a complete answer. A
// redirect is an answer like others: following it might lead away from loopback.
type requester interface {
	get(ctx context.Context, to int, deadline time.Time) (status int, err error)
	close() // cuts off what is under way
}

// NewLoad checks the options.
func NewLoad(options LoadOptions) (*Load, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	targets, err := options.targets()
	if err != nil {
		return nil, err
	}
	return &Load{options: options, servers: newClient(targets), inFlight: make(chan struct{}, options.MaxInFlight)}, nil
}

// RunLoad runs a load and reports on all of it, or on what there was when ctx ended.
func RunLoad(ctx context.Context, options LoadOptions) (Report, error) {
	load, err := NewLoad(options)
	if err != nil {
		return Report{}, err
	}
	load.Run(ctx)
	return load.Report(0, load.Elapsed()), nil
}

// Run sends requests until the duration is over and waits for the last answers. When ctx ends it stops
// at once and forgets the requests under way.
func (l *Load) Run(ctx context.Context) {
	l.mu.Lock()
	l.began = time.Now()
	l.mu.Unlock()
	defer l.servers.close()

	var requests sync.WaitGroup
	defer requests.Wait()
	defer context.AfterFunc(ctx, l.servers.close)()
	times := newArrivals(l.options.Rate, l.options.Shape, l.options.Seed)
	// Its own sequence, so that the times do not depend on how many URLs there are.
	choice := rand.New(rand.NewPCG(l.options.Seed, 0x75726c))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		intended, more := times.next()
		if !more || l.options.Duration > 0 && intended >= l.options.Duration {
			return
		}
		if wait := intended - l.Elapsed(); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
		} else if ctx.Err() != nil {
			return
		}
		to := choice.IntN(len(l.options.URLs))
		select {
		case l.inFlight <- struct{}{}:
			requests.Go(func() {
				defer func() { <-l.inFlight }()
				l.request(ctx, to, intended)
			})
		default:
			l.record(Sample{Intended: intended, Status: Dropped})
		}
	}
}

func (l *Load) request(ctx context.Context, to int, intended time.Duration) {
	status, err := l.servers.get(ctx, to, time.Now().Add(l.options.Timeout))
	switch {
	case ctx.Err() != nil:
		return
	case err == nil:
	case isTimeout(err):
		status = TimedOut
	default:
		status = NoAnswer
	}
	l.record(Sample{Intended: intended, Latency: l.Elapsed() - intended, Status: status})
}

func (l *Load) record(s Sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.samples) >= l.options.KeepSamples {
		l.samples = append(l.samples[:0], l.samples[len(l.samples)-len(l.samples)/2:]...)
	}
	l.samples = append(l.samples, s)
}

// Elapsed is the time since the load began, the clock of Sample.Intended. 0 before it runs.
func (l *Load) Elapsed() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.began.IsZero() {
		return 0
	}
	return time.Since(l.began)
}

// Report summarises the requests that were to be sent in [from, to) and are over by now.
func (l *Load) Report(from, to time.Duration) Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	var samples []Sample
	for _, s := range l.samples {
		if s.Intended >= from && s.Intended < to {
			samples = append(samples, s)
		}
	}
	return newReport(from, to, l.options.Deadline, samples)
}
