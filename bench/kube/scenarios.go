package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// measureStatus starts the program in front of objects whose status nobody has written, and waits until all
// are.
func measureStatus(ctx context.Context, c *cluster, program, dir string) error {
	p, err := startPlane(ctx, program, dir, c.server.Kubeconfig())
	if err != nil {
		return err
	}
	defer p.stop()
	progress("waiting until every status is written")
	before, err := p.cpu()
	if err != nil {
		return err
	}
	began := time.Now()
	written, took, err := p.settle(ctx)
	if err != nil {
		return err
	}
	after, err := p.cpu()
	if err != nil {
		return err
	}
	lasted := time.Since(began)
	if err := sleep(ctx, c.idle); err != nil {
		return err
	}
	idle, err := p.cpu()
	if err != nil {
		return err
	}
	memory, err := p.rss()
	if err != nil {
		return err
	}
	spent := (after - before) - time.Duration(float64(idle-after)*lasted.Seconds()/c.idle.Seconds())
	fmt.Print("\n## The first writing of all statuses\n\n| | measured | target |\n|---|---|---|\n")
	fmt.Printf("| statuses written, in | %.0f, %.0f s | |\n", written, took.Seconds())
	fmt.Printf("| CPU of each, above idle | %s | |\n", milliseconds(spent/time.Duration(max(1, written))))
	fmt.Printf("| CPU of one meanwhile | %.1f %% | |\n", 100*spent.Seconds()/took.Seconds())
	fmt.Printf("| RSS after %v idle, and its peak | %.0f MB, %.0f MB | 80 MB |\n", c.idle, memory.now, memory.peak)
	return nil
}

// measureStarts starts the program again and again, and reads the memory of the last one.
func measureStarts(ctx context.Context, c *cluster, program, dir string) error {
	var ready []time.Duration
	for i := range c.starts {
		p, err := startPlane(ctx, program, dir, c.server.Kubeconfig())
		if err != nil {
			return err
		}
		progress("start %d: ready after %v", i+1, p.ready.Round(time.Millisecond))
		ready = append(ready, p.ready)
		if i < c.starts-1 {
			p.stop()
			continue
		}
		defer p.stop()
		if _, _, err := p.settle(ctx); err != nil {
			return err
		}
		before, err := p.cpu()
		if err != nil {
			return err
		}
		if err := sleep(ctx, c.idle); err != nil {
			return err
		}
		after, err := p.cpu()
		if err != nil {
			return err
		}
		memory, err := p.rss()
		if err != nil {
			return err
		}
		fmt.Print("\n## Start and idle\n\n| | measured | target |\n|---|---|---|\n")
		fmt.Printf("| process start to ready, median of %d | %.2f s | 2 s |\n", c.starts, quantile(ready, 0.5).Seconds())
		fmt.Printf("| ... slowest | %.2f s | |\n", slices.Max(ready).Seconds())
		fmt.Printf("| RSS after %v idle | %.0f MB | 80 MB |\n", c.idle, memory.now)
		fmt.Printf("| ... of it allocated, and pages of the program | %.0f MB, %.0f MB | |\n", memory.anonymous, memory.file)
		fmt.Printf("| RSS at its peak, during the start | %.0f MB | |\n", memory.peak)
		fmt.Printf("| CPU while idle | %.1f %% of one | |\n", 100*(after-before).Seconds()/c.idle.Seconds())
	}
	return nil
}

// apart is the time between two changes: the first after a quiet second goes at once.
const apart = 1500 * time.Millisecond

// measureOne changes one endpoint at a time, when every status is written.
func measureOne(ctx context.Context, c *cluster, p *plane, s *swarm) error {
	if _, _, err := p.settle(ctx); err != nil {
		return err
	}
	target := 5 * time.Millisecond
	if len(s.has) > 10 {
		target = 20 * time.Millisecond
	}
	var took []time.Duration
	before, err := p.cpu()
	if err != nil {
		return err
	}
	began := time.Now()
	for i := range c.changes {
		if err := sleep(ctx, apart); err != nil {
			return err
		}
		if err := c.toggle(ctx, i/2%c.services, 0); err != nil {
			return err
		}
		if err := sleep(ctx, apart/3); err != nil {
			return err
		}
		for _, change := range s.takeChanges() {
			select {
			case <-change.all:
				took = append(took, change.took)
			default:
				return fmt.Errorf("%s did not reach every stream within %v", change.address, apart/3)
			}
		}
	}
	after, err := p.cpu()
	if err != nil {
		return err
	}
	memory, err := p.rss()
	if err != nil {
		return err
	}
	if len(took) != c.changes {
		return fmt.Errorf("the watch told of %d changes, %d were made", len(took), c.changes)
	}
	fmt.Printf("\n## One endpoint changes, %d streams\n\n| | measured | target |\n|---|---|---|\n", len(s.has))
	fmt.Printf("| to the last stream, median of %d | %s | %v |\n", len(took), milliseconds(quantile(took, 0.5)), target)
	fmt.Printf("| ... p90 | %s | |\n| ... slowest | %s | |\n", milliseconds(quantile(took, 0.9)), milliseconds(slices.Max(took)))
	fmt.Printf("| CPU per change | %s | 15 ms |\n", milliseconds((after-before)/time.Duration(c.changes)))
	fmt.Printf("| CPU of one in %v | %.1f %% | |\n", time.Since(began).Round(time.Second), 100*(after-before).Seconds()/time.Since(began).Seconds())
	fmt.Printf("| RSS, and its peak with the streams | %.0f MB, %.0f MB | 200 MB with 100 streams |\n", memory.now, memory.peak)
	return nil
}

// measureChurn takes endpoints of all Services out and puts them back, as many a second as it is told, and
// returns what the API server said of it.
func measureChurn(ctx context.Context, c *cluster, p *plane, s *swarm) (*tape, error) {
	stop, err := record(ctx, c.server.Config())
	if err != nil {
		return nil, err
	}
	made := 0
	change := func(ctx context.Context, until func() bool) error {
		group, changing := errgroup.WithContext(ctx)
		group.SetLimit(64)
		tick := time.NewTicker(time.Second / time.Duration(c.perSecond))
		defer tick.Stop()
		for ; !until(); made++ {
			select {
			case <-tick.C:
			case <-changing.Done():
				return errors.Join(ctx.Err(), group.Wait())
			}
			service, round := made%c.services, made/c.services
			group.Go(func() error { return c.toggle(changing, service, round/2%c.endpoints) })
		}
		return group.Wait()
	}
	progress("changing %d endpoints a second for %v", c.perSecond, c.churn)
	err = measureBurst(ctx, c, p, s, "come and go for", func(ctx context.Context) (int, error) {
		began := time.Now()
		err := change(ctx, func() bool { return time.Since(began) >= c.churn })
		return made, err
	})
	if wanted := int(float64(c.perSecond) * c.churn.Seconds()); err == nil && made < wanted {
		progress("recording %d more changes", wanted-made)
		err = change(ctx, func() bool { return made >= wanted })
	}
	t, stopped := stop()
	return t, errors.Join(err, stopped)
}

// measureReplay plays the watch of a churn to another program, as fast as the churn was to be. absent is which
// endpoints were not there when it began.
func measureReplay(ctx context.Context, c *cluster, program, dir string, t *tape, absent []int) error {
	api, err := startStandIn(c.server.Config(), t)
	if err != nil {
		return err
	}
	defer api.close()
	kubeconfig, err := api.kubeconfig(dir)
	if err != nil {
		return err
	}
	p, err := startPlane(ctx, program, dir, kubeconfig)
	if err != nil {
		return err
	}
	defer p.stop()
	s, err := openStreams(ctx, p.xds, c.streams[0], &cluster{shape: c.shape, absent: absent})
	if err != nil {
		return err
	}
	defer s.close()
	if _, _, err := p.settle(ctx); err != nil {
		return err
	}
	progress("playing up to %d changes, %d a second", len(t.changes), c.perSecond)
	return measureBurst(ctx, c, p, s, "come and go in a recorded watch for", func(ctx context.Context) (int, error) {
		return api.send(ctx, s, c.perSecond, c.churn)
	})
}

// measureBurst makes many changes and measures how they reach the streams. change returns how many it made.
func measureBurst(ctx context.Context, c *cluster, p *plane, s *swarm, words string, change func(context.Context) (int, error)) error {
	before, err := p.cpu()
	if err != nil {
		return err
	}
	responses, resources, _ := s.counts()
	began := time.Now()
	made, err := change(ctx)
	if err != nil {
		return err
	}
	lasted := time.Since(began)
	after, err := p.cpu()
	if err != nil {
		return err
	}
	memory, err := p.rss()
	if err != nil {
		return err
	}
	settled := time.Now()
	for !s.converged() && time.Since(settled) < 30*time.Second {
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	whole := s.converged()
	responsesNow, resourcesNow, failed := s.counts()
	if failed != nil {
		return failed
	}
	var removals, additions []time.Duration
	unseen := 0
	for _, change := range s.takeChanges() {
		select {
		case <-change.all:
			if change.gone {
				removals = append(removals, change.took)
			} else {
				additions = append(additions, change.took)
			}
		default:
			unseen++ // it was undone before it reached every stream
		}
	}
	if len(removals) == 0 || len(additions) == 0 {
		return fmt.Errorf("of %d changes made none reached every stream, %d were undone before; all is there in the end: %v", made, unseen, whole)
	}
	fmt.Printf("\n## %d endpoints a second %s %v, %d streams\n\n| | measured | target |\n|---|---|---|\n", c.perSecond, words, c.churn, len(s.has))
	fmt.Printf("| changes made, and a second | %d, %.0f | %d |\n", made, float64(made)/lasted.Seconds(), c.perSecond)
	fmt.Printf("| removal to the last stream, median | %s | |\n| ... p99 | %s | 1 s |\n| ... slowest | %s | |\n",
		milliseconds(quantile(removals, 0.5)), milliseconds(quantile(removals, 0.99)), milliseconds(slices.Max(removals)))
	fmt.Printf("| addition to the last stream, p99 | %s | |\n", milliseconds(quantile(additions, 0.99)))
	fmt.Printf("| changes that were undone before they were seen everywhere | %d | 0 |\n", unseen)
	fmt.Printf("| every stream has every endpoint in the end | %v | true |\n", whole)
	fmt.Printf("| responses a stream and second, assignments in each | %.1f, %.0f | |\n",
		float64(responsesNow-responses)/float64(len(s.has))/lasted.Seconds(), float64(resourcesNow-resources)/float64(max(1, responsesNow-responses)))
	fmt.Printf("| CPU of one | %.0f %% | |\n| RSS, and its peak | %.0f MB, %.0f MB | |\n", 100*(after-before).Seconds()/lasted.Seconds(), memory.now, memory.peak)
	return nil
}

func quantile(times []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
