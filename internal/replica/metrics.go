package replica

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	hearing prometheus.Gauge
	bytes   *prometheus.CounterVec
	unread  prometheus.Counter
	untold  prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer, r *Replica) *metrics {
	f := promauto.With(registerer)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "evenkeel_replica_followers",
		Help: "Replicas that follow this one.",
	}, func() float64 { return float64(r.Followers()) })
	return &metrics{
		hearing: f.NewGauge(prometheus.GaugeOpts{
			Name: "evenkeel_replica_hearing",
			Help: "1 on a follower that its leader has told everything and keeps telling, else 0.",
		}),
		bytes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_replica_bytes_total",
			Help: "Size of the messages between replicas, before compression.",
		}, []string{"direction"}),
		untold: f.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_replica_untold_accepts_total",
			Help: "Times that a follower could not be told to accept what it holds, because too many such actions waited.",
		}),
		unread: f.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_replica_unread_total",
			Help: "Messages, or states of one Service, that another replica sent and that were not understood.",
		}),
	}
}
