package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// profileEvery is how many bytes there are between two allocations that the heap profile knows.
const profileEvery = 4096

// measureMemory takes the memory of an idle program apart.
func measureMemory(ctx context.Context, c *cluster, program, dir string) error {
	p, err := startPlane(ctx, program, dir, c.server.Kubeconfig(), fmt.Sprint("GODEBUG=memprofilerate=", profileEvery))
	if err != nil {
		return err
	}
	defer p.stop()
	ready, err := p.rss()
	if err != nil {
		return err
	}
	if _, _, err := p.settle(ctx); err != nil {
		return err
	}
	progress("taking the memory apart, after %v", c.idle)
	if err := sleep(ctx, c.idle); err != nil {
		return err
	}
	memory, err := p.rss()
	if err != nil {
		return err
	}
	m, err := p.metrics(ctx)
	if err != nil {
		return err
	}
	earlier, err := p.heapByRoom(ctx)
	if err != nil {
		return err
	}
	if err := sleep(ctx, c.idle); err != nil {
		return err
	}
	if c.profile != "" {
		if err := p.saveHeap(ctx, c.profile); err != nil {
			return err
		}
	}
	rooms, err := p.heapByRoom(ctx)
	if err != nil {
		return err
	}
	var all room
	for name, r := range rooms {
		r.allocated = max(0, r.allocated-earlier[name].allocated)
		rooms[name], all = r, all.and(r)
	}
	inUse := all.bytes
	mb := func(name string) float64 { return m["go_memstats_"+name] / 1e6 }
	fmt.Printf("\n## The memory, taken apart\n\nA program that profiles its heap, %v after it has found every status written.\n\n| | MB |\n|---|---|\n", c.idle)
	fmt.Printf("| pages of the program and its read-only data; %.1f when it was ready | %.1f |\n", ready.file, memory.file)
	fmt.Printf("| allocated from the system; %.1f when it was ready | %.1f |\n", ready.anonymous, memory.anonymous)
	fmt.Printf("| ... objects that are in use | %.1f |\n", inUse/1e6)
	fmt.Printf("| ... garbage, until the next collection | %.1f |\n", mb("heap_alloc_bytes")-inUse/1e6)
	fmt.Printf("| ... room between objects | %.1f |\n", mb("heap_inuse_bytes")-mb("heap_alloc_bytes"))
	fmt.Printf("| ... free, not given back yet | %.1f |\n", mb("heap_idle_bytes")-mb("heap_released_bytes"))
	fmt.Printf("| ... stacks | %.1f |\n| ... the collector's own, and the allocator's | %.1f |\n| ... the profile | %.1f |\n", mb("stack_inuse_bytes"),
		mb("gc_sys_bytes")+mb("mspan_sys_bytes")+mb("mcache_sys_bytes")+mb("other_sys_bytes"), mb("buck_hash_sys_bytes"))
	fmt.Printf("\nObjects in use, and what is allocated in an idle second, by the package of ours that asked for it, or the library's:\n\n")
	fmt.Print("| | MB | thousands | KB/s |\n|---|---|---|---|\n")
	others := room{}
	row := func(name string, r room) {
		fmt.Printf("| %s | %.2f | %.1f | %.0f |\n", name, r.bytes/1e6, r.objects/1e3, r.allocated/1e3/c.idle.Seconds())
	}
	for _, name := range slices.SortedFunc(maps.Keys(rooms), func(a, b string) int { return cmp.Compare(rooms[b].bytes, rooms[a].bytes) }) {
		if r := rooms[name]; r.bytes >= inUse/100 || r.allocated >= all.allocated/50 {
			row(name, r)
		} else {
			others = others.and(r)
		}
	}
	row("others", others)
	row("together", all)
	return nil
}

// room is what a package has in memory, and what it has allocated since the start.
type room struct{ bytes, objects, allocated float64 }

func (r room) and(other room) room {
	return room{r.bytes + other.bytes, r.objects + other.objects, r.allocated + other.allocated}
}

// heapByRoom are the objects that a collection leaves, by the innermost package of ours in the stack that
// allocated them, or else the outermost library's.
func (p *plane) heapByRoom(ctx context.Context) (map[string]room, error) {
	body, err := p.get(ctx, "/debug/pprof/heap?debug=1&gc=1")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	rooms := map[string]room{}
	var now room // of one stack
	ours, outermost := "", ""
	take := func() {
		name := cmp.Or(ours, outermost)
		rooms[name] = rooms[name].and(now)
		now, ours, outermost = room{}, "", ""
	}
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		line := lines.Text()
		switch fields := strings.Fields(line); {
		case strings.HasPrefix(line, "# runtime.MemStats"):
			take()
			return rooms, nil
		case strings.HasPrefix(line, "heap profile:"), line == "":
		case line[0] != '#': // 3: 96 [5: 160] @ 0x... : in use and ever allocated
			take()
			now.objects, now.bytes = sampled(fields[0], fields[1])
			_, now.allocated = sampled(strings.TrimPrefix(fields[2], "["), strings.TrimSuffix(fields[3], "]"))
		case len(fields) >= 3: // # 0x... function+0x... file:line
			function := fields[2]
			if name, found := strings.CutPrefix(packageOf(function), "evenkeel.io/controlplane/"); found && ours == "" {
				ours = name
			}
			if !strings.HasPrefix(function, "runtime.") && !strings.HasPrefix(function, "main.") || outermost == "" {
				outermost = packageOf(function)
			}
		}
	}
	return nil, fmt.Errorf("%s/debug/pprof/heap ended early: %w", p.admin, lines.Err())
}

// sampled are the objects and bytes for which "n:" and "bytes" of a profile stand: of an allocation it
// knows with a probability that rises with its size.
func sampled(n, bytes string) (objects, size float64) {
	objects, _ = strconv.ParseFloat(strings.TrimSuffix(n, ":"), 64)
	if objects == 0 {
		return 0, 0
	}
	size, _ = strconv.ParseFloat(bytes, 64)
	known := 1 - math.Exp(-size/objects/profileEvery)
	return objects / known, size / known
}

// saveHeap writes the heap profile to a file.
func (p *plane) saveHeap(ctx context.Context, file string) error {
	body, err := p.get(ctx, "/debug/pprof/heap?gc=1")
	if err != nil {
		return err
	}
	defer body.Close()
	profile, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	return os.WriteFile(file, profile, 0o600)
}

// packageOf is the import path of a function's package.
func packageOf(function string) string {
	slash := strings.LastIndexByte(function, '/') + 1
	name, _, _ := strings.Cut(function[slash:], ".")
	return function[:slash] + name
}

// metrics are those of /metrics that have no labels.
func (p *plane) metrics(ctx context.Context) (map[string]float64, error) {
	body, err := p.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	all := map[string]float64{}
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok && !strings.HasPrefix(name, "#") {
			all[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	return all, lines.Err()
}

func (p *plane) get(ctx context.Context, path string) (io.ReadCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.admin+path, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		cancel()
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		cancel()
		return nil, fmt.Errorf("%s%s: %s", p.admin, path, response.Status)
	}
	return body{response.Body, cancel}, nil
}

// body ends its request when it is closed.
type body struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b body) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
