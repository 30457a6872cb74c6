// Command kube measures the control plane in front of a real API server: how soon it is ready, what it
// takes in memory, how fast a change of one endpoint reaches every stream, and how it bears many changes a
// second. It prints a report in Markdown.
//
//	go run ./bench/kube > docs/benchmarks/kube.md
//	go run ./bench/kube -scenario start,one
//	go run ./bench/kube -services 100 -scenario churn -churn 10s
//
// It starts an etcd and a kube-apiserver of its own (hack/tools.sh kube installs them), fills them, builds
// the program and runs it as a process. Times are taken from the moment at which a watch of the bench's own
// tells of a change: what the API server needs before is not ours. Where it does not make as many changes a
// second as are asked for, a stand-in plays its recorded watch to another program of ours, at that speed.
//
//	objects and changes    cluster.go
//	a recorded watch       tape.go
//	the program            plane.go
//	xDS streams            streams.go
//	what is measured       scenarios.go, memory.go
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kube:", err)
		os.Exit(1)
	}
}

// shape is how much there is, and how it is measured.
type shape struct {
	services, endpoints int // endpoints of each
	streams             []int
	pods                int // of the scenario pods
	starts              int // of which the median is taken
	changes             int // of one endpoint, of which the median is taken
	idle                time.Duration
	churn               time.Duration
	perSecond           int    // changes in a churn
	profile             string // file that the heap profile goes to, "" for none
}

func bench(ctx context.Context, args []string) error {
	var s shape
	flags := flag.NewFlagSet("kube", flag.ExitOnError)
	chosen := flags.String("scenario", "status,start,memory,one,churn", "what is measured, comma-separated: status, start, memory, one, churn, and pods, which wants hack/kube/netns.sh before the command")
	flags.IntVar(&s.services, "services", 1000, "Services, each with a route, 1 to 10000")
	flags.IntVar(&s.endpoints, "endpoints", 10, "endpoints of each Service, 2 to 100")
	streams := flags.String("streams", "10,100", "numbers of xDS streams beside which one endpoint changes, comma-separated, each 1 to 1000; a churn takes the first")
	flags.IntVar(&s.starts, "starts", 5, "starts of which the median is taken, 1 to 100")
	flags.IntVar(&s.changes, "changes", 50, "changes of one endpoint of which the median is taken, 1 to 1000")
	flags.DurationVar(&s.idle, "idle", 20*time.Second, "how long the program idles before its memory is read")
	flags.DurationVar(&s.churn, "churn", time.Minute, "how long endpoints come and go")
	flags.IntVar(&s.perSecond, "per-second", 500, "changes of an endpoint per second meanwhile, 1 to 5000")
	flags.IntVar(&s.pods, "pods", 1000, "Pods of the scenario pods, ten for each of as many more Services, 10 to 2550")
	flags.StringVar(&s.profile, "profile", "", "the file that the heap profile of the scenario memory is written to, for go tool pprof")
	_ = flags.Parse(args) // exits on an error
	scenarios := strings.Split(*chosen, ",")
	for _, text := range strings.Split(*streams, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1000 {
			return fmt.Errorf("-streams %q: want numbers from 1 to 1000", *streams)
		}
		s.streams = append(s.streams, n)
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("argument %q: want flags only", flags.Arg(0))
	case s.services < 1 || s.services > 10_000 || s.endpoints < 2 || s.endpoints > 100:
		return errors.New("want 1 to 10000 -services, 2 to 100 -endpoints")
	case s.pods < podsEach || s.pods > 255*podsEach || s.pods%podsEach != 0:
		return errors.New("want 10 to 2550 -pods, ten for each Service")
	case s.starts < 1 || s.starts > 100 || s.changes < 1 || s.changes > 1000 || s.perSecond < 1 || s.perSecond > 5000 || s.idle < 0 || s.churn <= 0:
		return errors.New("want 1 to 100 -starts, 1 to 1000 -changes, 1 to 5000 -per-second, and times above 0")
	}
	for _, name := range scenarios {
		if !slices.Contains([]string{"status", "start", "memory", "one", "churn", "pods"}, name) {
			return fmt.Errorf("-scenario %q: want some of status, start, memory, one, churn, pods", name)
		}
	}

	dir, err := os.MkdirTemp("", "evenkeel-bench-kube-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := startCluster(ctx, dir, s)
	if err != nil {
		return err
	}
	defer c.stop()
	program, err := build(ctx, dir)
	if err != nil {
		return err
	}

	fmt.Printf("# In front of a Kubernetes API server\n\n`%s`, %d CPUs shared with the API server, etcd and the clients, %s.\n",
		strings.Join(append([]string{"go run ./bench/kube"}, args...), " "), runtime.NumCPU(), runtime.Version())
	fmt.Printf("%d Services with %d endpoints each, in one EndpointSlice, and an HTTPRoute each; no Pods. "+
		"Times of delivery begin when a watch beside the program's tells of the change and end at the last of the streams.\n", s.services, s.endpoints)
	if slices.Contains(scenarios, "status") {
		if err := measureStatus(ctx, c, program, dir); err != nil {
			return err
		}
	}
	if slices.Contains(scenarios, "start") {
		if err := measureStarts(ctx, c, program, dir); err != nil {
			return err
		}
	}
	if slices.Contains(scenarios, "memory") {
		if err := measureMemory(ctx, c, program, dir); err != nil {
			return err
		}
	}
	if slices.Contains(scenarios, "pods") {
		if err := measurePods(ctx, c, program, dir); err != nil {
			return err
		}
	}
	if !slices.Contains(scenarios, "one") && !slices.Contains(scenarios, "churn") {
		return nil
	}
	p, err := startPlane(ctx, program, dir, c.server.Kubeconfig())
	if err != nil {
		return err
	}
	defer p.stop()
	if slices.Contains(scenarios, "one") {
		for _, streams := range s.streams {
			if err := beside(ctx, c, p, streams, func(s *swarm) error { return measureOne(ctx, c, p, s) }); err != nil {
				return err
			}
		}
	}
	if !slices.Contains(scenarios, "churn") {
		return nil
	}
	var recorded *tape
	absent := slices.Clone(c.absent)
	if err := beside(ctx, c, p, s.streams[0], func(s *swarm) error {
		recorded, err = measureChurn(ctx, c, p, s)
		return err
	}); err != nil {
		return err
	}
	p.stop()
	return measureReplay(ctx, c, program, dir, recorded, absent)
}

// beside opens streams, which are told of every change that a watch tells of, and measures what reaches them.
func beside(ctx context.Context, c *cluster, p *plane, streams int, measure func(*swarm) error) error {
	swarm, err := openStreams(ctx, p.xds, streams, c)
	if err != nil {
		return err
	}
	defer swarm.close()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	if err := c.follow(watching, swarm); err != nil {
		return err
	}
	return measure(swarm)
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
