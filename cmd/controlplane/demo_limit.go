package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"evenkeel.io/controlplane/api/v1alpha1"
	"evenkeel.io/controlplane/internal/admin"
	"evenkeel.io/controlplane/internal/demo"
)

const (
	demoLimit        = "demo/tenants/per-tenant" // of examples/demo/limits.yaml
	demoLimitMeasure = 4 * time.Second
	demoLimitAnswer  = time.Second      // for which a measurement waits for the answers to its last requests
	demoLimitWait    = 10 * time.Second // at most, for a limit to be in force
)

// demoTenants send requests besides the load, the first of them too many.
var demoTenants = []struct {
	name string
	rate float64
}{{"acme", 60}, {"bolt", 10}, {"coral", 10}}

// tenant is one of them at work.
type tenant struct {
	name string
	load *demo.Load
}

// tenantPeriod is what became of a tenant's requests before and after the limit was enforced.
type tenantPeriod struct {
	tenant        string
	before, after demo.Report
}

// showLimit has tenants send more than one of them may, before and after that is enforced. The tenants go on
// until the rig stops.
func (r *rig) showLimit(ctx context.Context) (verdict, err error) {
	r.screen.Printf("\nthree tenants send requests too, %s more than its share; the limit is in Shadow: it counts that and refuses nobody", demoTenants[0].name)
	var tenants []tenant
	for i, t := range demoTenants {
		load, stop, err := demo.StartLoad(ctx, demo.LoadOptions{
			URLs: []string{"http://" + r.listener + "/"}, Header: http.Header{"X-Tenant": {t.name}}, Rate: t.rate, Seed: uint64(i + 2),
		})
		if err != nil {
			return nil, err
		}
		r.started = append(r.started, stop)
		tenants = append(tenants, tenant{t.name, load})
	}
	if _, err := r.limitInForce(ctx, v1alpha1.LimitShadow); err != nil {
		return nil, err
	}
	before, err := r.measureTenants(ctx, tenants)
	if err != nil {
		return nil, err
	}
	r.screen.Printf("changing mode: Shadow to mode: Enforce in %s", r.limits)
	if err := setMode(r.limits, "Shadow", "Enforce"); err != nil {
		return nil, err
	}
	limit, err := r.limitInForce(ctx, v1alpha1.LimitEnforce)
	if err != nil {
		return nil, err
	}
	after, err := r.measureTenants(ctx, tenants)
	if err != nil {
		return nil, err
	}
	periods := make([]tenantPeriod, len(tenants))
	for i, t := range tenants {
		periods[i] = tenantPeriod{t.name, before[i], after[i]}
	}
	return r.concludeLimit(limit.Now.Rate, periods), nil
}

// limitInForce waits until the limit is counted in the mode, and returns it.
func (r *rig) limitInForce(ctx context.Context, mode v1alpha1.LimitMode) (admin.LimitView, error) {
	ctx, cancel := context.WithTimeout(ctx, demoLimitWait)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		var page admin.LimitsView
		if err := demo.GetJSON(ctx, r.stack.AdminURL+"/limits", &page); err != nil {
			return admin.LimitView{}, err
		}
		for _, limit := range page.Limits {
			if limit.Rule == demoLimit && limit.Configured.Mode != nil && *limit.Configured.Mode == mode {
				return limit, nil
			}
		}
		select {
		case <-ctx.Done():
			return admin.LimitView{}, fmt.Errorf("waiting for the limit %s to be in force in mode %s: %w", demoLimit, mode, ctx.Err())
		case <-ticker.C:
		}
	}
}

func (r *rig) measureTenants(ctx context.Context, tenants []tenant) ([]demo.Report, error) {
	from := make([]time.Duration, len(tenants))
	for i, t := range tenants {
		from[i] = t.load.Elapsed()
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(demoLimitMeasure + demoLimitAnswer):
	}
	reports := make([]demo.Report, len(tenants))
	for i, t := range tenants {
		reports[i] = t.load.Report(from[i], from[i]+demoLimitMeasure)
	}
	return reports, r.stack.Failure()
}

// concludeLimit prints what each tenant got and says whether the limit of so many requests/s did what it should:
// nobody is refused before, and after it whoever is over it and nobody else.
func (r *rig) concludeLimit(bound float64, periods []tenantPeriod) error {
	rate := func(n int, of demo.Report) float64 { return float64(n) / (of.To - of.From).Seconds() }
	refused := func(of demo.Report) float64 { return rate(of.ByStatus[http.StatusTooManyRequests], of) }
	answered := func(of demo.Report) string {
		return fmt.Sprintf("%.0f of %.0f/s", rate(of.OK, of), rate(of.Requests, of))
	}

	rows := [][]string{{"tenant", "answered before", "answered after", "refused after (429)"}}
	var errs []error
	for _, p := range periods {
		sends := rate(p.after.Requests, p.after)
		rows = append(rows, []string{p.tenant, answered(p.before), answered(p.after), fmt.Sprintf("%.0f/s", refused(p.after))})
		if n := refused(p.before); n > 0 {
			errs = append(errs, fmt.Errorf("tenant %s was refused %.1f requests/s before the limit was enforced, expected none", p.tenant, n))
		}
		// Half is what a machine that is busy with other things leaves to be seen.
		if over := sends - bound; over <= 0 && refused(p.after) > 0 || over > 0 && refused(p.after) < over/2 {
			errs = append(errs, fmt.Errorf("tenant %s sends %.1f requests/s, may send %.0f, and was refused %.1f", p.tenant, sends, bound, refused(p.after)))
		}
		if want := min(sends, bound) / 2; rate(p.after.OK, p.after) < want || sends == 0 {
			errs = append(errs, fmt.Errorf("tenant %s was answered %.1f requests/s with the limit, expected at least %.1f", p.tenant, rate(p.after.OK, p.after), want))
		}
	}
	r.screen.Table(fmt.Sprintf("a limit of %.0f requests/s for each tenant", bound), rows)
	if len(errs) > 0 {
		return refusedError(errors.Join(errs...))
	}
	return nil
}
