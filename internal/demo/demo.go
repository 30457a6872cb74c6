// Package demo holds what it takes to show a load balancer at work on one machine: backends that
// behave like servers of a given speed without burning CPU, an open-loop load, a real Envoy as a child
// process, and the statistics of the result. The demo command and the benchmarks are built from it.
//
// It promises honest figures: a backend is busy for exactly the time that was drawn, however late its
// timers fire; latency counts from the moment a request should have been sent; load goes to loopback
// addresses and nowhere else.
//
// It knows the control plane only as a program with a command line, as its users do, and imports no
// package of this module: what it measures cannot be known to it in another way.
package demo
