// Package demo holds what it takes to show a load balancer at work on one machine: backends that
// behave like servers of a given speed without burning CPU, an open-loop load, a real Envoy as a child
// process, and the statistics of the result. The demo command and the benchmarks are built from it.
//
// It promises honest figures: a backend is busy for exactly the time that was drawn, however late its
// timers fire; latency counts from the moment a request should have been sent; load goes to loopback
// addresses and nowhere else.
//
// It knows nothing of the control plane: what it measures would be the same for any other. It imports
// no package of this module.
package demo
