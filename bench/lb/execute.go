package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// execute runs the slots, but for what the results have already, and writes down each run as it ends. A
// run that fails is reported and does not end the others.
func (r *runner) execute(ctx context.Context, slots []slot, lanes int, again, dryRun bool) (err error) {
	book, records, err := openJournal(r.results)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, book.close()) }()
	done := map[trial]bool{}
	for _, record := range latest(records) {
		if record.settings != r.settings {
			return fmt.Errorf("%s has runs with other times (%s: %+v, asked for %+v), which cannot be compared: use another folder",
				r.results, record.trial, record.settings, r.settings)
		}
		done[record.trial] = record.Counted || !again
	}
	r.cold = map[string]bool{}
	slots = without(slots, done)
	total := trials(slots)
	left, err := r.estimate(slots, lanes)
	if err != nil {
		return err
	}
	logf("%d runs in %d slots of %d lanes, about %s; %d are done", total, len(slots), lanes, left.Round(time.Second), len(records))
	if dryRun {
		for i, s := range slots {
			fmt.Printf("%3d  %v\n", i+1, []trial(s))
		}
		return nil
	}
	var failures []error
	for i, s := range slots {
		if err := r.warmUp(ctx, slots[i:], lanes); err != nil {
			return err
		}
		left, err := r.estimate(slots[i:], lanes)
		if err != nil {
			return err
		}
		logf("slot %d of %d, about %s left: %v", i+1, len(slots), left.Round(time.Second), []trial(s))
		failed := make([]error, len(s))
		var runs sync.WaitGroup
		for lane, t := range s {
			runs.Go(func() {
				result, err := r.run(ctx, t, r.lane+lane, len(s)-1)
				if err == nil {
					logf("  %s", result.summary())
					err = book.append(result)
				}
				if err != nil && ctx.Err() == nil {
					logf("  %s failed: %v", t, err)
					failed[lane] = fmt.Errorf("%s: %w", t, err)
				}
			})
		}
		runs.Wait()
		if ctx.Err() != nil {
			return errors.New("interrupted; the same command goes on from here")
		}
		failures = append(failures, errors.Join(failed...))
	}
	return errors.Join(failures...)
}

// warmUp sees to it that what the slot starts from is there. Free lanes are used for what later slots need.
// A warm-up that fails is not tried again; the runs that need it fail.
func (r *runner) warmUp(ctx context.Context, slots []slot, lanes int) error {
	for ctx.Err() == nil {
		needed, err := r.missing(slots[:1], 1)
		if err != nil || len(needed) == 0 {
			return err
		}
		batch, err := r.missing(slots, lanes)
		if err != nil {
			return err
		}
		var runs sync.WaitGroup
		failed := make([]error, len(batch))
		for lane, w := range batch {
			logf("warm-up of %s, %s", w.arm.name, r.Warmup)
			runs.Go(func() { failed[lane] = r.warm(ctx, w, r.lane+lane) })
		}
		runs.Wait()
		for lane, w := range batch {
			if failed[lane] != nil {
				logf("warm-up of %s failed: %v", w.arm.name, failed[lane])
				r.cold[w.folder] = true
			}
		}
	}
	return nil
}

// estimate of the time that the slots take, with the warm-ups they need.
func (r *runner) estimate(slots []slot, lanes int) (time.Duration, error) {
	warmUps, err := r.missing(slots, -1)
	if err != nil {
		return 0, err
	}
	batches := (len(warmUps) + lanes - 1) / lanes
	return time.Duration(len(slots))*r.slot() + time.Duration(batches)*(r.Warmup+tail+overhead), nil
}

func trials(slots []slot) int {
	n := 0
	for _, s := range slots {
		n += len(s)
	}
	return n
}

func logf(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, arguments...)...)
}
