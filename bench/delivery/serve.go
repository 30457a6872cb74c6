package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/grpc/credentials"
)

// Serving are the calls that the server process answers. They come one after the other.
type Serving struct {
	server server
	shape  Shape
}

// Start says what to serve: all resources of a shape, as of tick 0.
type Start struct {
	Server       string
	Shape        Shape
	Certificates *Certificates // nil: plaintext
}

// Start answers with the address.
func (s *Serving) Start(how Start, address *string) error {
	var err error
	if s.server, err = serverOf(how.Server); err != nil {
		return err
	}
	var creds credentials.TransportCredentials
	if how.Certificates != nil {
		if creds, err = how.Certificates.server(); err != nil {
			return err
		}
		if o, ok := s.server.(*ours); ok {
			if o.gate, err = how.Certificates.gate(); err != nil {
				return err
			}
		}
	}
	s.shape = how.Shape
	if err := s.server.set(s.shape.clusters(), s.shape.assignments(s.shape.spread(s.shape.Clusters), 0)); err != nil {
		return err
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.server.start(lis, creds)
	*address = lis.Addr().String()
	return nil
}

// Patch gives so many clusters, spread evenly, the load assignments of a tick.
type Patch struct {
	Changed, Tick int
}

// Patched tells when the delivery began, and the CPU that was used until then and in preparation.
type Patched struct {
	Began          time.Time
	CPU            time.Duration
	PreparationCPU time.Duration
}

// Patch returns when the server has been told.
func (s *Serving) Patch(p Patch, done *Patched) error {
	changed := s.shape.assignments(s.shape.spread(p.Changed), p.Tick)
	runtime.GC() // what making them left behind is not the server's
	before := cpuTime()
	deliver, err := s.server.prepare(changed)
	if err != nil {
		return err
	}
	done.CPU = cpuTime()
	done.PreparationCPU = done.CPU - before
	done.Began = time.Now()
	return deliver()
}

// Usage is what the server process takes.
type Usage struct {
	CPU            time.Duration // user and system, so far
	Resident, Peak int           // bytes
	Heap, Stacks   int           // bytes in use
	Goroutines     int
	StillBusy      bool // it did not come to rest within the time given
}

// rest is how long a process must use next to nothing to be at rest.
const rest = 100 * time.Millisecond

// Rest waits, at most so long, until the process does nothing any more: acknowledgements of a push come in
// after its clients have what they waited for.
func (s *Serving) Rest(most time.Duration, u *Usage) error {
	u.StillBusy = true
	last := cpuTime()
	for deadline := time.Now().Add(most); time.Now().Before(deadline); {
		time.Sleep(rest)
		now := cpuTime()
		if now-last < rest/100 {
			u.StillBusy = false
			break
		}
		last = now
	}
	u.CPU = cpuTime()
	return nil
}

// Memory collects garbage, gives back what is free, and tells what is in use.
func (s *Serving) Memory(_ struct{}, u *Usage) error {
	runtime.GC()
	debug.FreeOSMemory()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	u.CPU, u.Heap, u.Stacks, u.Goroutines = cpuTime(), int(stats.HeapAlloc), int(stats.StackInuse), runtime.NumGoroutine()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	if u.Resident, err = kilobytes(status, "VmRSS:"); err != nil {
		return err
	}
	u.Peak, err = kilobytes(status, "VmHWM:")
	return err
}

// kilobytes reads a field of /proc/self/status, in bytes.
func kilobytes(status []byte, name string) (int, error) {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte(name)); ok {
			n, err := strconv.Atoi(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))))
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/self/status has no %s", name)
}

// cpuTime is what this process used so far, user and system.
func cpuTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
