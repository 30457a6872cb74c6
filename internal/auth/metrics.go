package auth

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	notAfter          *prometheus.GaugeVec
	reloadFailures    prometheus.Counter
	refusedHandshakes *prometheus.CounterVec
	refusedCalls      prometheus.Counter
	closed            *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) metrics {
	f := promauto.With(r)
	return metrics{
		notAfter: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "evenkeel_tls_not_after_timestamp_seconds",
			Help: "When the certificate that is shown to clients (server), and the last of the authorities that clients are trusted from (authority), expire.",
		}, []string{"certificate"}),
		reloadFailures: f.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_tls_reload_failures_total",
			Help: "Looks at the TLS files that found them unusable; those from before stay in use. It rises until the files are good.",
		}),
		refusedHandshakes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_tls_refused_handshakes_total",
			Help: "Connections that ended in the TLS handshake: no_certificate, expired, authority (not trusted), closed (by the client, which may not trust us), other.",
		}, []string{"reason"}),
		refusedCalls: f.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_tls_refused_calls_total",
			Help: "Calls of clients whose certificate is valid and permits nothing.",
		}),
		closed: f.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_tls_closed_connections_total",
			Help: "Connections closed because the client's certificate expired, or its authority was taken out of ca.crt.",
		}, []string{"reason"}),
	}
}
