package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"evenkeel.io/controlplane/internal/demo"
)

// floodRole is what this program is started as to have an attacker come with new keys all the time.
const floodRole = "flood"

// attackers are how many calls of new keys are under way at a time.
const attackers = 64

// flood is a run of it.
type flood struct {
	keys    int           // that an attacker comes with
	within  time.Duration // as long as the machine keeps up
	room    int           // for keys, in the service
	service *demo.Process
	metrics string // where the service has them
	client  []rlsv3.RateLimitServiceClient
}

// victim is a client that asks all the time, for much more than its limit.
type victim struct {
	name, rule      string
	asked, admitted int
	first, last     time.Time
}

// memoryOf is what the service's process has of memory, in bytes.
type memoryOf struct{ resident, peak, heap float64 }

func runFlood(ctx context.Context, args []string) error {
	f := &flood{}
	flags := flag.NewFlagSet("limits "+floodRole, flag.ExitOnError)
	flags.IntVar(&f.keys, "keys", 1_000_000, "keys that the attacker comes with, each once")
	flags.DurationVar(&f.within, "for", time.Minute, "in how long")
	flags.IntVar(&f.room, "room", 100_000, "for how many keys the service has room")
	_ = flags.Parse(args) // exits on an error
	if f.keys < 1 || f.within < 10*time.Second || f.room < 1000 {
		return errors.New("expected at least one key, ten seconds, and room for 1000 keys")
	}
	dir, err := os.MkdirTemp("", "limits-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var address string
	if f.service, address, f.metrics, err = startFlooded(ctx, dir, f.room); err != nil {
		return err
	}
	defer f.service.Kill()
	for range 2 {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		f.client = append(f.client, rlsv3.NewRateLimitServiceClient(conn))
	}
	return f.run(ctx)
}

func (f *flood) run(ctx context.Context) error {
	victims := []*victim{{name: "of the attacked limit", rule: attackedRule}, {name: "of another limit", rule: otherRule}}
	for _, v := range victims { // connects, and takes nothing of what is counted later
		if _, err := f.admitted(ctx, 0, v.rule, "first "+v.rule); err != nil {
			return err
		}
	}
	before, err := f.memory()
	if err != nil {
		return err
	}
	attack, over := context.WithCancel(ctx)
	defer over()
	errs := make(chan error, len(victims))
	var wait sync.WaitGroup
	for i, v := range victims {
		wait.Go(func() { errs <- f.ask(ctx, attack, i, v) })
	}
	began := time.Now()
	most, refused, err := f.attack(ctx, began)
	took := time.Since(began)
	over()
	wait.Wait()
	close(errs)
	for failed := range errs {
		err = errors.Join(err, failed)
	}
	if err != nil {
		return err
	}
	after, err := f.memory()
	if err != nil {
		return err
	}
	forgotten, err := f.metric("evenkeel_rls_forgotten_keys_total")
	if err != nil {
		return err
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	mib := func(n float64) string { return fmt.Sprintf("%.1f", n/(1<<20)) }
	line("# A flood of keys")
	line("")
	line("Made by `%s`; %d CPUs, %s/%s, %s.", strings.Join(append([]string{"go run ./bench/limits"}, os.Args[1:]...), " "), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	line("An attacker came with %d keys, each once, in %.1f s (%.0f calls/s over gRPC), under a limit of %d requests in %v", f.keys, took.Seconds(), float64(f.keys)/took.Seconds(), floodRequests, floodPer)
	line("with a burst of %d, which remembers each of them for %v. The service has room for %d keys: it had %.0f at most,", floodBurst, floodPer/floodRequests, f.room, most)
	line("and forgot %.0f that it should have remembered. It refused %d of the attacker's calls: each is the first of its key.", forgotten, refused)
	line("Meanwhile a client of the same limit, and one of another, asked ten times a second.")
	line("")
	line("| client | asked | admitted | its limit says |")
	line("|---|---|---|---|")
	for _, v := range victims {
		least, most := v.expected()
		line("| %s | %d | %d | %d to %d |", v.name, v.asked, v.admitted, least, most)
		if v.admitted < least || v.admitted > most {
			err = errors.Join(err, fmt.Errorf("the client %s was admitted %d times: expected %d to %d", v.name, v.admitted, least, most))
		}
	}
	line("")
	line("| memory of the service, MiB | before | after | peak |")
	line("|---|---|---|---|")
	line("| resident | %s | %s | %s |", mib(before.resident), mib(after.resident), mib(after.peak))
	line("| heap, in use or not yet collected | %s | %s | |", mib(before.heap), mib(after.heap))
	if most > float64(f.room)*1.01 {
		err = errors.Join(err, fmt.Errorf("%.0f keys were kept: expected %d at most", most, f.room))
	}
	if forgotten == 0 {
		err = errors.Join(err, errors.New("no key was forgotten: this was no flood"))
	}
	_, failed := io.WriteString(os.Stdout, b.String())
	return errors.Join(err, failed)
}

// attack comes with all keys, as evenly as the machine can, and says how many keys the service had at most.
func (f *flood) attack(ctx context.Context, began time.Time) (most float64, refused int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, over atomic.Int64
	var wait sync.WaitGroup
	for i := range attackers {
		wait.Go(func() {
			for ctx.Err() == nil {
				n := next.Add(1) - 1
				if n >= int64(f.keys) {
					return
				}
				time.Sleep(time.Until(began.Add(f.within * time.Duration(n) / time.Duration(f.keys))))
				ok, err := f.admitted(ctx, i, attackedRule, fmt.Sprintf("%x", rand.Uint64()))
				if err != nil {
					cancel(err)
				} else if !ok {
					over.Add(1)
				}
			}
		})
	}
	ended := make(chan struct{})
	go func() { wait.Wait(); close(ended) }()
	for {
		select {
		case <-ended:
			return most, over.Load(), context.Cause(ctx)
		case <-time.After(time.Second):
		}
		keys, err := f.metric("evenkeel_rls_keys")
		if err != nil {
			cancel(err)
		}
		most = max(most, keys)
	}
}

// ask asks as a victim until the attack is over.
func (f *flood) ask(ctx, attack context.Context, connection int, v *victim) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	v.first = time.Now()
	for attack.Err() == nil {
		ok, err := f.admitted(ctx, connection, v.rule, "victim")
		if err != nil {
			return fmt.Errorf("the client %s: %w", v.name, err)
		}
		v.asked++
		if ok {
			v.admitted++
		}
		v.last = time.Now()
		<-tick.C
	}
	return nil
}

// expected is what GCRA admits of one that always asks for more: the burst, and what is earned in the time. The
// service's time is ours but for that of the first call and the last.
func (v *victim) expected() (least, most int) {
	earned := int(v.last.Sub(v.first) * floodRequests / floodPer)
	return floodBurst + earned - 1, floodBurst + earned + 1
}

func (f *flood) admitted(ctx context.Context, connection int, rule, tenant string) (bool, error) {
	answer, err := f.client[connection%len(f.client)].ShouldRateLimit(ctx, &rlsv3.RateLimitRequest{
		Domain: domain, Descriptors: []*commonv3.RateLimitDescriptor{descriptor(rule, tenant)},
	})
	if err != nil {
		return false, err
	}
	if answer.GetStatuses()[0].GetCurrentLimit() == nil {
		return false, fmt.Errorf("a call by %s was not counted", rule)
	}
	return answer.GetOverallCode() == rlsv3.RateLimitResponse_OK, nil
}

// metric is the sum of a metric of the service.
func (f *flood) metric(name string) (sum float64, err error) {
	response, err := http.Get(f.metrics)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	found := false
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		value, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, err
		}
		sum, found = sum+value, true
	}
	if !found {
		return 0, fmt.Errorf("the service has no metric %s", name)
	}
	return sum, nil
}

// memory is from the service's metrics and from proc(5).
func (f *flood) memory() (m memoryOf, err error) {
	if m.heap, err = f.metric("go_memstats_heap_alloc_bytes"); err != nil {
		return m, err
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.service.PID()))
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(text)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kib); err == nil {
			m.resident = kib * 1024
		}
		if _, err := fmt.Sscanf(line, "VmHWM: %f kB", &kib); err == nil {
			m.peak = kib * 1024
		}
	}
	return m, nil
}
