package demo

import (
	"fmt"
	"net/http"
	"time"
)

// loadReportHeader carries an ORCA load report (Open Request Cost Aggregation,
// xds.data.orca.v3.OrcaLoadReport), in the spelling that net/http uses as a map key.
const loadReportHeader = "Endpoint-Load-Metrics"

const (
	// reportWindow is over how long a load report averages. A shorter one follows changes sooner and
	// scatters more: at 50 requests/s of uneven size, 5 s know the utilisation to some 8 %.
	reportWindow = 5 * time.Second
	// reportStep is how often the window moves on, reportAge how long a report is repeated.
	reportStep = 500 * time.Millisecond
	reportAge  = 100 * time.Millisecond
)

// loadReports makes the load report of a server from its own totals, the CPU time as the metrics page
// tells it, a lie included.
type loadReports struct {
	answered, failed uint64
	totals           []loadTotals // at least reportStep apart; all but the first are younger than the window
	text             string
	made             time.Duration
}

type loadTotals struct {
	at, cpu          time.Duration
	answered, failed uint64
}

// loadReport counts an answer and returns the header to send with it, "" as long as there is nothing to
// report.
func (b *Backend) loadReport(code int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &b.reports
	r.answered++
	if code >= http.StatusInternalServerError {
		r.failed++
	}
	now := b.now()
	if r.text != "" && now-r.made < reportAge {
		return r.text
	}
	r.make(loadTotals{at: now, cpu: b.reported.at(now, b.cpu(now)), answered: r.answered, failed: r.failed}, b.config.Workers)
	return r.text
}

func (r *loadReports) make(now loadTotals, workers int) {
	for len(r.totals) > 1 && now.at-r.totals[1].at >= reportWindow {
		r.totals = r.totals[1:]
	}
	if len(r.totals) == 0 || now.at-r.totals[len(r.totals)-1].at >= reportStep {
		r.totals = append(r.totals, now)
	}
	r.made = now.at
	if first := r.totals[0]; now.at > first.at {
		elapsed := (now.at - first.at).Seconds()
		r.text = fmt.Sprintf(`JSON {"cpu_utilization":%.4f,"rps_fractional":%.2f,"eps":%.2f}`,
			(now.cpu-first.cpu).Seconds()/elapsed/float64(workers),
			float64(now.answered-first.answered)/elapsed, float64(now.failed-first.failed)/elapsed)
	}
}
