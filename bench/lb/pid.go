package main

import (
	"math"
	"time"
)

// pid raises the weight of servers that are used less than the average and lowers that of the others, as
// Robinhood does (Dropbox, "Robinhood: in-house load balancing service", 2024):
//
//	u = max(CPU, in-flight / (workers * pidInFlight)), smoothed
//	e = (mean u - u) / mean u
//	ln w += kp (e - e before) + ki e + kd (e - 2 e before + e before that)
//
// A tick sees some fifty requests of very uneven size per server, so a sample of the CPU scatters by a third
// of its value. The gains are from a search (kp 0 to 0.5, ki 0.02 to 0.16, kd 0 and 0.1, smoothing 1 to 0.1)
// on servers of speed 1 to 4 with just that scatter, for the least max/avg utilisation in the fourth minute
// from equal weights, and among equals for the least in the second. Half the integral gain needs three
// minutes to get there, twice as much follows the scatter; kp and kd hardly matter. On the rig's servers,
// in virtual time and picked exactly by weight, max/avg over a minute is then 1.08 in the second minute and
// 1.05 in the third. In-flight requests count only when a queue has formed, or it would be their scatter that is evened out. A server that
// says nothing of its CPU keeps its weight and is not part of the mean.
type pid struct {
	Servers []pidServer
}

type pidServer struct {
	Log              float64 // ln of the weight
	Utilisation      float64 // smoothed
	Last, BeforeLast float64 // errors
	Known            bool
}

const (
	pidKp, pidKi, pidKd = 0.2, 0.08, 0.1
	// pidSmoothing is the weight of the newest sample.
	pidSmoothing = 0.25
	// pidInFlight is how many requests per worker count as full use.
	pidInFlight = 4
	// pidBound keeps weights within a factor e^pidBound of 1.
	pidBound = 2.5
	// pidPeriod is the time between two ticks.
	pidPeriod = 2 * time.Second
)

// pidSample is what a server's metrics page says of the time since the last one.
type pidSample struct {
	cpu      float64 // share of its workers' time
	inFlight float64 // requests per worker
	ok       bool
}

func newPID(servers int) *pid { return &pid{Servers: make([]pidServer, servers)} }

// tick takes a sample of each server.
func (p *pid) tick(samples []pidSample) {
	sum, n := 0.0, 0
	for i, sample := range samples {
		if !sample.ok {
			continue
		}
		s := &p.Servers[i]
		use := max(sample.cpu, sample.inFlight/pidInFlight)
		if s.Utilisation == 0 {
			s.Utilisation = use
		}
		s.Utilisation += pidSmoothing * (use - s.Utilisation)
		sum += s.Utilisation
		n++
	}
	if sum == 0 {
		return
	}
	mean := sum / float64(n)
	for i, sample := range samples {
		if !sample.ok {
			continue
		}
		s := &p.Servers[i]
		e := (mean - s.Utilisation) / mean
		if !s.Known {
			s.Last, s.BeforeLast, s.Known = e, e, true
		}
		s.Log += pidKp*(e-s.Last) + pidKi*e + pidKd*(e-2*s.Last+s.BeforeLast)
		s.Log = min(pidBound, max(-pidBound, s.Log))
		s.Last, s.BeforeLast = e, s.Last
	}
}

// weights of the servers as Envoy takes them.
func (p *pid) weights() []uint32 {
	weights := make([]uint32, len(p.Servers))
	for i, s := range p.Servers {
		weights[i] = uint32(max(1, math.Round(1000*math.Exp(s.Log))))
	}
	return weights
}
