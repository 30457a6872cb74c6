// Command delivery measures what it costs to bring a change to every stream: the product's xDS server, the
// servers of go-control-plane, and the least that a gRPC server can do, under the same clients. It prints
// a report in Markdown.
//
//	go run ./bench/delivery > docs/benchmarks/delivery.md
//	go run ./bench/delivery -scenario all,field -server ours,floor
//	go run ./bench/delivery -scenario memory -server bare,ours -tls
//
// The command starts itself again as the server and as the clients, so that the server's CPU time and
// memory are those of a process that does nothing else, and tells both what to do through their standard
// input. Nothing is decoded on the clients' side but what shows that something has arrived.
//
//	what is delivered      resources.go
//	servers                servers.go, floor.go; serve.go is their process
//	clients                clients.go, wire.go
//	runs                   bench.go, scenarios.go, report.go
//	processes              process.go, certificates.go
//
// What does not belong here: what is right to send, and when. Those are tests of package xds.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if child(os.Args) {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := benchmark(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "delivery:", err)
		os.Exit(1)
	}
}

const examples = `
Examples:
  go run ./bench/delivery > docs/benchmarks/delivery.md
  go run ./bench/delivery -scenario all,field -server ours,floor
  go run ./bench/delivery -scenario memory -server bare,ours -tls
`

func benchmark(ctx context.Context, args []string) error {
	b := bench{}
	flags := flag.NewFlagSet("delivery", flag.ExitOnError)
	scenarioList := flags.String("scenario", "", "scenarios, comma-separated; empty: all of "+nameList(scenarios, scenarioName))
	serverList := flags.String("server", "", "servers, comma-separated; empty: all of "+nameList(kinds, kindName))
	streams := flags.Int("streams", 0, "streams, 1 to 10000; 0: as many as the scenario has")
	clusters := flags.Int("clusters", 0, "clusters, 1 to 10000; 0: as many as the scenario has, else with the same part of them changing")
	flags.IntVar(&b.pushes, "pushes", 5, "pushes of which the median is taken, 1 to 1000")
	flags.IntVar(&b.perConnection, "streams-per-connection", 1, "streams of each connection, 1 to 100; an Envoy has one")
	flags.IntVar(&b.nodeBytes, "node-bytes", 61_000, "length of the node in a stream's first request; an Envoy's is 61 KB")
	flags.DurationVar(&b.idle, "idle", time.Minute, "how long the scenario idle lasts")
	flags.DurationVar(&b.limit, "limit", 3*time.Minute, "of every wait; a server that takes longer is not measured")
	withTLS := flags.Bool("tls", false, "mutual TLS in place of plaintext")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "delivery measures what it costs to bring a change to every stream.")
		flags.PrintDefaults()
		fmt.Fprint(flags.Output(), examples)
	}
	_ = flags.Parse(args) // exits on an error

	chosen, err := choose("-scenario", *scenarioList, scenarios, scenarioName)
	if err != nil {
		return err
	}
	used, err := choose("-server", *serverList, kinds, kindName)
	if err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("argument %q: want flags only", flags.Arg(0))
	case *streams < 0 || *streams > 10_000 || *clusters < 0 || *clusters > 10_000:
		return errors.New("want at most 10000 -streams and 10000 -clusters")
	case b.pushes < 1 || b.pushes > 1000 || b.perConnection < 1 || b.perConnection > 100:
		return errors.New("want 1 to 1000 -pushes, and 1 to 100 -streams-per-connection")
	case b.nodeBytes < 0 || b.nodeBytes > 1<<20 || b.idle <= 0 || b.limit <= 0:
		return errors.New("want 0 to 1048576 -node-bytes, and times above 0")
	}
	if *withTLS {
		if b.certificates, err = newCertificates(); err != nil {
			return err
		}
	}
	for i, sc := range chosen {
		chosen[i] = sc.scaled(*streams, *clusters)
		if err := allowDescriptors(chosen[i].streams, b.perConnection); err != nil {
			return err
		}
	}
	b.printHead(os.Stdout, strings.Join(append([]string{"go run ./bench/delivery"}, args...), " "), used)
	for _, sc := range chosen {
		outcomes, err := b.compare(ctx, sc, used)
		if err != nil {
			return err
		}
		sc.print(os.Stdout, outcomes)
	}
	return nil
}

// scaled is the scenario with another number of streams and clusters; 0 changes nothing.
func (s scenario) scaled(streams, clusters int) scenario {
	s.streams = cmp.Or(streams, s.streams)
	if clusters != 0 {
		s.changed = max(1, s.changed*clusters/s.shape.Clusters)
		s.shape.Clusters = clusters
	}
	return s
}

// compare measures the servers one after the other. One that fails is an outcome; only the end of ctx is
// an error.
func (b *bench) compare(ctx context.Context, sc scenario, used []kind) ([]outcome, error) {
	var out []outcome
	for _, k := range used {
		if !sc.runs(k.name) {
			continue
		}
		began := time.Now()
		o := outcome{server: k.name}
		o.values, o.err = b.measure(ctx, sc, k.name)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if o.err != nil {
			progress("%s, %s: %v", sc.name, k.name, o.err)
		} else {
			progress("%s, %s: %.1f s", sc.name, k.name, time.Since(began).Seconds())
		}
		out = append(out, o)
	}
	return out, nil
}

func (b *bench) measure(ctx context.Context, sc scenario, server string) (values, error) {
	r, err := b.start(ctx, sc, server)
	if err != nil {
		return nil, err
	}
	defer r.stop()
	return sc.measure(ctx, r)
}

func nameList[T any](all []T, name func(T) string) string {
	var names []string
	for _, one := range all {
		names = append(names, name(one))
	}
	return strings.Join(names, ", ")
}

// choose are those of all that a comma-separated list names, in the order of all; all of them if it names
// none.
func choose[T any](flagName, list string, all []T, name func(T) string) ([]T, error) {
	if list == "" {
		return slices.Clone(all), nil
	}
	var wanted []string
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if !slices.ContainsFunc(all, func(one T) bool { return name(one) == part }) {
			return nil, fmt.Errorf("%s %q: want some of %s", flagName, part, nameList(all, name))
		}
		wanted = append(wanted, part)
	}
	return slices.DeleteFunc(slices.Clone(all), func(one T) bool { return !slices.Contains(wanted, name(one)) }), nil
}
