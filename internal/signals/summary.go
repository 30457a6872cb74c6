package signals

import "time"

// Summary is what the Envoys of one replica of the control plane say of the endpoints of a Service: the last
// load reports of all of them, added up. It is what replicas tell each other, in JSON.
type Summary struct {
	Service string `json:"service"`
	// Subscribers are how many nodes take the endpoints from that replica, Silent how many of these do not
	// report.
	Subscribers int `json:"subscribers,omitempty"`
	Silent      int `json:"silent,omitempty"`
	// Interval is the time that the counts are of, and Age how long ago it ended when the Summary was told:
	// clocks of replicas differ. An Interval of 0: nobody reported.
	Interval time.Duration `json:"interval,omitempty"`
	Age      time.Duration `json:"age,omitempty"`
	// Endpoints are those that had something to do.
	Endpoints []SummaryOf `json:"endpoints,omitempty"`
}

// SummaryOf is a Summary's part about one endpoint, in the terms of Reported.
type SummaryOf struct {
	Address  string  `json:"a"`
	Done     float64 `json:"d,omitempty"`
	Failed   float64 `json:"f,omitempty"`
	Issued   float64 `json:"i,omitempty"`
	InFlight float64 `json:"n,omitempty"`
}
