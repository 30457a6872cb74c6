package demo

import "time"

// Crash ends the server as a killed process ends: its connections break, what it was working on is lost,
// its address refuses connections. Restart brings it back. Both are for one caller at a time, and not
// together with Close.
func (b *Backend) Crash() error {
	err := b.hangUp()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue.drop(b.now())
	b.stopTimer()
	return err
}

// Restart brings a crashed server back on the same address as a new process, which tells its start time
// and counts from 0. All that was set stays; Usage goes on counting.
func (b *Backend) Restart() error {
	b.mu.Lock()
	now := b.now()
	b.reported.restart(now, b.cpu(now))
	b.reports = loadReports{}
	b.mu.Unlock()
	b.page.Store(newMetricsPage(b, time.Now(), b.page.Load().fault()))
	if b.server == nil {
		return nil
	}
	_, err := b.listen(b.address)
	return err
}

// reportedCPU is the CPU time that a server claims to have used: the truth, or a constant share of the
// time. It never goes back but by a restart.
type reportedCPU struct {
	lies  bool
	cores float64       // that a liar claims to use
	base  time.Duration // the truth's to leave out, or what a liar had claimed at since
	since time.Duration // when it began to lie
}

func (r *reportedCPU) at(now, cpu time.Duration) time.Duration {
	if r.lies {
		return r.base + time.Duration(r.cores*float64(now-r.since))
	}
	return cpu - r.base
}

func (r *reportedCPU) claim(now, cpu time.Duration, cores float64) {
	*r = reportedCPU{lies: true, cores: cores, base: r.at(now, cpu), since: now}
}

func (r *reportedCPU) restart(now, cpu time.Duration) {
	if r.lies {
		r.base, r.since = 0, now
		return
	}
	r.base = cpu
}

// reportedCPU is what the metrics page says.
func (b *Backend) reportedCPU() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	return b.reported.at(now, b.cpu(now))
}

// cpu is the true CPU time up to now. The caller holds mu.
func (b *Backend) cpu(now time.Duration) time.Duration {
	_, cpu := b.queue.usage(now)
	return cpu
}
