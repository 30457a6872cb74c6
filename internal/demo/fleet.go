package demo

import (
	"context"
	"errors"
	"sync"
)

// Fleet is the backends of one rig, in the order of their configurations.
type Fleet []*Backend

// StartFleet starts them all, or none.
func StartFleet(configs []BackendConfig) (Fleet, error) {
	var f Fleet
	for _, config := range configs {
		b, err := StartBackend(config)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f = append(f, b)
	}
	return f, nil
}

// Close ends them all.
func (f Fleet) Close() error {
	var errs []error
	for _, b := range f {
		errs = append(errs, b.Close())
	}
	return errors.Join(errs...)
}

// Capacity is how many requests/s the backends can serve with all workers busy all the time.
func (f Fleet) Capacity() float64 {
	sum := 0.0
	for _, b := range f {
		sum += float64(b.config.Workers) * b.config.Speed / b.config.Work.Mean.Seconds()
	}
	return sum
}

// Usage of each backend up to now.
func (f Fleet) Usage() []Usage {
	usage := make([]Usage, len(f))
	for i, b := range f {
		usage[i] = b.Usage()
	}
	return usage
}

// Utilisations of each backend since the earlier usage.
func Utilisations(earlier, later []Usage) []float64 {
	values := make([]float64, len(later))
	for i := range later {
		values[i] = later[i].Utilisation(earlier[i])
	}
	return values
}

// Requests of each backend since the earlier usage.
func Requests(earlier, later []Usage) []float64 {
	values := make([]float64, len(later))
	for i := range later {
		values[i] = float64(later[i].Requests(earlier[i]))
	}
	return values
}

// StartLoad runs a load in the background. stop ends it and waits.
func StartLoad(ctx context.Context, options LoadOptions) (load *Load, stop func(), err error) {
	load, err = NewLoad(options)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { load.Run(ctx) })
	return load, func() { cancel(); running.Wait() }, nil
}
