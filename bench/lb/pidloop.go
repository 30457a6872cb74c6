package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// startPID lets a PID controller write the endpoints to a file that the Envoys watch. It reads the servers'
// metrics pages, as anyone could; what the simulation knows is not told to it. What it has learnt is kept
// in the state folder.
func startPID(ctx context.Context, r rig) (*running, error) {
	folder := filepath.Join(r.dir, "eds")
	if err := errors.Join(os.MkdirAll(folder, 0o700), os.MkdirAll(r.state, 0o700)); err != nil {
		return nil, err
	}
	loop := &pidLoop{rig: r, folder: folder, pid: newPID(len(r.servers)), scraped: make([]pidScrape, len(r.servers))}
	if err := errors.Join(loop.load(), loop.publish()); err != nil {
		return nil, err
	}
	stopEnvoys, err := startEnvoys(ctx, r, balancer{Policy: roundRobin, EDS: folder})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var control sync.WaitGroup
	control.Go(func() { loop.run(ctx) })
	return &running{stop: func() {
		cancel()
		control.Wait()
		stopEnvoys()
	}}, nil
}

// pidLoop turns metrics pages into an endpoints file, every pidPeriod.
type pidLoop struct {
	rig     rig
	folder  string // of the endpoints file, and of nothing else: Envoy looks at each change in it
	pid     *pid
	scraped []pidScrape
	version int
}

type pidScrape struct {
	at           time.Time
	cpu, started float64 // seconds
}

func (l *pidLoop) run(ctx context.Context) {
	ticker := time.NewTicker(pidPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		l.pid.tick(l.scrape(ctx))
		if err := errors.Join(l.publish(), l.save()); err != nil {
			fmt.Fprintln(os.Stderr, "lb: PID:", err)
			return
		}
	}
}

// scrape reads all pages at the same time. One that does not answer within half a period has no sample.
func (l *pidLoop) scrape(ctx context.Context) []pidSample {
	ctx, cancel := context.WithTimeout(ctx, pidPeriod/2)
	defer cancel()
	samples := make([]pidSample, len(l.rig.servers))
	var pages sync.WaitGroup
	for i, server := range l.rig.servers {
		pages.Go(func() {
			page, err := metricsPage(ctx, "http://"+server.Address().String()+"/metrics")
			if err == nil {
				samples[i] = l.scraped[i].sample(time.Now(), page, l.rig.workers)
			}
		})
	}
	pages.Wait()
	return samples
}

// sample compares the page with the one before, of the same process.
func (s *pidScrape) sample(now time.Time, page map[string]*dto.MetricFamily, workers int) pidSample {
	cpu, hasCPU := single(page["process_cpu_seconds_total"])
	started, _ := single(page["process_start_time_seconds"])
	inFlight, _ := single(page["http_requests_in_flight"])
	if !hasCPU {
		return pidSample{}
	}
	before := *s
	*s = pidScrape{at: now, cpu: cpu, started: started}
	if before.at.IsZero() || started != before.started || cpu < before.cpu {
		return pidSample{}
	}
	use := (cpu - before.cpu) / now.Sub(before.at).Seconds() / float64(workers)
	return pidSample{cpu: min(1, use), inFlight: inFlight / float64(workers), ok: true}
}

// single is the value of a family of one series.
func single(family *dto.MetricFamily) (float64, bool) {
	series := family.GetMetric()
	if len(series) != 1 {
		return 0, false
	}
	return series[0].GetCounter().GetValue() + series[0].GetGauge().GetValue(), true
}

// publish replaces the endpoints file as a whole.
func (l *pidLoop) publish() error {
	type object = map[string]any
	var endpoints []object
	for i, weight := range l.pid.weights() {
		address := l.rig.servers[i].Address()
		endpoints = append(endpoints, object{
			"load_balancing_weight": weight,
			"endpoint":              object{"address": object{"socket_address": object{"address": address.Addr().String(), "port_value": address.Port()}}},
		})
	}
	l.version++
	text, err := json.Marshal(object{"version_info": fmt.Sprint(l.version), "resources": []object{{
		"@type":        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
		"cluster_name": "servers",
		"endpoints":    []object{{"lb_endpoints": endpoints}},
	}}})
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(l.folder, "endpoints.json"), text)
}

// replaceFile lets readers see the old file or the new one. The new one is written elsewhere first.
func replaceFile(path string, content []byte) error {
	next := filepath.Join(filepath.Dir(filepath.Dir(path)), filepath.Base(path)+".next")
	if err := os.WriteFile(next, content, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

func (l *pidLoop) stateFile() string { return filepath.Join(l.rig.state, "pid.json") }

func (l *pidLoop) save() error {
	text, err := json.Marshal(l.pid)
	if err != nil {
		return err
	}
	return os.WriteFile(l.stateFile(), text, 0o600)
}

// load goes on from what was saved for as many servers.
func (l *pidLoop) load() error {
	text, err := os.ReadFile(l.stateFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	saved := newPID(0)
	if err := json.Unmarshal(text, saved); err != nil {
		return fmt.Errorf("%s: %w", l.stateFile(), err)
	}
	if len(saved.Servers) != len(l.pid.Servers) {
		return fmt.Errorf("%s: %d servers, want %d", l.stateFile(), len(saved.Servers), len(l.pid.Servers))
	}
	l.pid = saved
	return nil
}
