package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// values are the figures of one server in a scenario, by column.
type values map[string]float64

// scenario is something that is measured.
type scenario struct {
	name, what string
	servers    []string // that it makes sense for
	shape      Shape
	streams    int
	changed    int // clusters per push
	measure    func(ctx context.Context, r *run) (values, error)
	columns    []column
	targets    []target
}

// column is a figure with the head of its column and the format of its value.
type column struct{ key, head, format string }

// target is what must hold of ours.
type target struct {
	what    string
	atLeast bool // else at most
	limit   float64
	format  string
	// value is NaN if a server that it takes was not measured.
	value func(of map[string]values) float64
}

func (t target) met(value float64) bool {
	if t.atLeast {
		return value >= t.limit
	}
	return value <= t.limit
}

func scenarioName(s scenario) string { return s.name }

var delivering = []string{"ours", "stock", "linear", "floor"}

var scenarios = []scenario{
	{
		name: "all", what: "every load assignment changes at once",
		servers: delivering, shape: Shape{Clusters: 500, Endpoints: 20}, streams: 100, changed: 500,
		measure: measurePushes, columns: pushColumns,
		targets: []target{
			{what: "CPU per stream and push, of the floor's", limit: 2, format: "%.1fx", value: ratio("perStream", "ours", "floor")},
			{what: "the same with the encoding", limit: 2, format: "%.1fx", value: ratio("whole", "ours", "floor")},
			{what: "stock's CPU per stream and push, of ours", atLeast: true, limit: 50, format: "%.1fx", value: ratio("perStream", "stock", "ours")},
		},
	},
	{
		name: "some", what: "one load assignment in twenty changes",
		servers: delivering, shape: Shape{Clusters: 500, Endpoints: 20}, streams: 1000, changed: 25,
		measure: measurePushes, columns: pushColumns,
		targets: []target{{what: "CPU of a push, with the encoding", limit: 100, format: "%.0f ms", value: figure("whole")}},
	},
	{
		name: "memory", what: "what a stream takes, and a tick in which one load assignment in twenty changes",
		servers: append([]string{"bare"}, delivering...), shape: Shape{Clusters: 500, Endpoints: 20}, streams: 5000, changed: 25,
		measure: measureMemory,
		columns: []column{
			{"heap", "heap and stacks KB/stream", "%.1f"}, {"resident", "RSS KB/stream", "%.1f"}, {"peak", "peak RSS MB", "%.0f"},
			{"opened", "all connected s", "%.1f"}, {"cpu", "CPU of a tick ms", "%.0f"}, {"acked", "last ACK ms", "%.0f"},
		},
		targets: []target{
			{what: "heap and stacks per stream above bare", limit: 8, format: "%.1f KB", value: difference("heap", "ours", "bare")},
			{what: "RSS per stream above bare", limit: 8, format: "%.1f KB", value: difference("resident", "ours", "bare")},
			{what: "time until the last of all has acknowledged", limit: 5000, format: "%.0f ms", value: figure("slowestAcked")},
		},
	},
	{
		name: "field", what: "a large mesh: one load assignment changes, then 200 at once",
		servers: delivering, shape: Shape{Clusters: 1000, Endpoints: 10}, streams: 100, changed: 1,
		measure: measureField,
		columns: []column{
			{"oneLast", "one: last stream ms", "%.1f"}, {"oneCPU", "one: CPU ms", "%.1f"},
			{"manyLast", "200: last stream ms", "%.1f"}, {"manyCPU", "200: CPU ms", "%.0f"}, {"manyResponses", "200: responses", "%.0f"},
		},
		targets: []target{
			{what: "one changed: time to the last stream", limit: 20, format: "%.1f ms", value: figure("oneLast")},
			{what: "one changed: CPU", limit: 15, format: "%.1f ms", value: figure("oneCPU")},
			{what: "200 changed: responses", limit: 200, format: "%.0f", value: figure("manyResponses")},
			{what: "200 changed: CPU", limit: 200, format: "%.0f ms", value: figure("manyCPU")},
		},
	},
	{
		name: "hostile", what: "50 clients that never read, 50 that never acknowledge, 50 that refuse everything, beside healthy ones",
		servers: delivering, shape: Shape{Clusters: 500, Endpoints: 20}, streams: 100, changed: 25,
		measure: measureHostile,
		columns: []column{
			{"alone", "p99 alone ms", "%.1f"}, {"beside", "p99 beside them ms", "%.1f"},
			{"heapGrowth", "heap at the end, of half-way", "%.2fx"}, {"residentGrowth", "RSS at the end, of half-way", "%.2fx"},
			{"toHostile", "responses to them", "%.0f"}, {"ended", "of them ended", "%.0f"},
		},
		targets: []target{
			{what: "p99 from change to receipt, of the run without them", limit: 1.2, format: "%.2fx",
				value: func(of map[string]values) float64 { return figure("beside")(of) / figure("alone")(of) }},
			{what: "heap at the end, of half-way", limit: 1.1, format: "%.2fx", value: figure("heapGrowth")},
			{what: "RSS at the end, of half-way", limit: 1.1, format: "%.2fx", value: figure("residentGrowth")},
		},
	},
	{
		name: "restart", what: "the server restarts; clients come back with the versions that they have",
		servers: []string{"ours", "stock", "linear"}, shape: Shape{Clusters: 500, Endpoints: 20}, streams: 1000, changed: 1,
		measure: measureRestart,
		columns: []column{
			{"bodies", "bodies sent again", "%.0f"}, {"responses", "responses", "%.0f"}, {"opened", "all connected s", "%.1f"},
			{"cpu", "CPU ms", "%.0f"}, {"last", "a change afterwards: last stream ms", "%.1f"},
		},
		targets: []target{{what: "resource bodies sent again", limit: 0, format: "%.0f", value: figure("bodies")}},
	},
	{
		name: "idle", what: "nothing happens",
		servers: delivering, shape: Shape{Clusters: 500, Endpoints: 20}, streams: 100, changed: 1,
		measure: measureIdle,
		columns: []column{{"responses", "responses", "%.0f"}, {"cpu", "CPU ms per minute", "%.1f"}},
		targets: []target{{what: "responses", limit: 0, format: "%.0f", value: figure("responses")}},
	},
}

var pushColumns = []column{
	{"perStream", "CPU per stream ms", "%.3f"}, {"cpu", "CPU ms", "%.0f"}, {"preparation", "to encode, once, ms", "%.1f"},
	{"last", "last stream ms", "%.0f"}, {"responses", "responses", "%.0f"}, {"bodies", "bodies per stream", "%.1f"},
}

// figure is one of ours.
func figure(key string) func(map[string]values) float64 {
	return func(of map[string]values) float64 { return get(of, "ours", key) }
}

func ratio(key, of, to string) func(map[string]values) float64 {
	return func(all map[string]values) float64 { return get(all, of, key) / get(all, to, key) }
}

func difference(key, of, to string) func(map[string]values) float64 {
	return func(all map[string]values) float64 { return get(all, of, key) - get(all, to, key) }
}

func get(all map[string]values, server, key string) float64 {
	if v, ok := all[server][key]; ok {
		return v
	}
	return math.NaN()
}

func measurePushes(ctx context.Context, r *run) (values, error) {
	if _, err := r.open(ctx, r.clients, r.streams, acking, false); err != nil {
		return nil, err
	}
	pushes, err := r.pushAll(ctx, r.changed)
	if err != nil {
		return nil, err
	}
	cpu := medianOf(pushes, func(p pushed) float64 { return milliseconds(p.cpu) })
	return values{
		"cpu": cpu, "perStream": cpu / float64(r.streams),
		"whole":       medianOf(pushes, func(p pushed) float64 { return milliseconds(p.cpu + p.preparation) }),
		"preparation": medianOf(pushes, func(p pushed) float64 { return milliseconds(p.preparation) }),
		"last":        medianOf(pushes, func(p pushed) float64 { return milliseconds(p.last()) }),
		"responses":   medianOf(pushes, func(p pushed) float64 { return float64(p.counts.Responses) }),
		"bodies":      medianOf(pushes, func(p pushed) float64 { return float64(p.counts.Bodies) }) / float64(r.streams),
	}, nil
}

func measureMemory(ctx context.Context, r *run) (values, error) {
	before, err := r.memory(ctx)
	if err != nil {
		return nil, err
	}
	behaviour := acking
	if r.silent {
		behaviour = deaf
	}
	opened, err := r.open(ctx, r.clients, r.streams, behaviour, false)
	if err != nil {
		return nil, err
	}
	out := values{"opened": opened.Seconds()}
	if !r.silent {
		pushes, err := r.pushAll(ctx, r.changed)
		if err != nil {
			return nil, err
		}
		out["cpu"] = medianOf(pushes, func(p pushed) float64 { return milliseconds(p.cpu) })
		out["acked"] = medianOf(pushes, func(p pushed) float64 { return milliseconds(p.acked) })
		for _, p := range pushes {
			out["slowestAcked"] = max(out["slowestAcked"], milliseconds(p.acked))
		}
	}
	after, err := r.memory(ctx)
	if err != nil {
		return nil, err
	}
	perStream := func(bytes int) float64 { return float64(bytes) / 1024 / float64(r.streams) }
	out["heap"] = perStream(after.Heap + after.Stacks - before.Heap - before.Stacks)
	out["resident"] = perStream(after.Resident - before.Resident)
	out["peak"] = float64(after.Peak) / (1 << 20)
	return out, nil
}

// burst is how many clusters of the field change at once.
const burst = 200

func measureField(ctx context.Context, r *run) (values, error) {
	if _, err := r.open(ctx, r.clients, r.streams, acking, false); err != nil {
		return nil, err
	}
	one, err := r.pushAll(ctx, r.changed)
	if err != nil {
		return nil, err
	}
	many, err := r.pushAll(ctx, min(burst, r.shape.Clusters))
	if err != nil {
		return nil, err
	}
	cpu := func(p pushed) float64 { return milliseconds(p.cpu + p.preparation) }
	last := func(p pushed) float64 { return milliseconds(p.last()) }
	return values{
		"oneLast": medianOf(one, last), "oneCPU": medianOf(one, cpu),
		"manyLast": medianOf(many, last), "manyCPU": medianOf(many, cpu),
		"manyResponses": medianOf(many, func(p pushed) float64 { return float64(p.counts.Responses) }),
	}, nil
}

// hostilePushes are so many times as many as elsewhere: a p99 takes samples, and memory takes time to grow.
// It is even, since memory is looked at half-way.
const hostilePushes = 4

func measureHostile(ctx context.Context, r *run) (values, error) {
	if _, err := r.open(ctx, r.clients, r.streams, acking, false); err != nil {
		return nil, err
	}
	// half pushes half of what is measured in each part.
	half := func() ([]time.Duration, error) {
		var latencies []time.Duration
		for range r.pushes * hostilePushes / 2 {
			p, err := r.push(ctx, r.changed)
			if err != nil {
				return nil, err
			}
			latencies = append(latencies, p.latencies...)
		}
		return latencies, nil
	}
	both := func() (latencies []time.Duration, middle, end Usage, err error) {
		if latencies, err = half(); err != nil {
			return nil, middle, end, err
		}
		if middle, err = r.memory(ctx); err != nil {
			return nil, middle, end, err
		}
		more, err := half()
		if err != nil {
			return nil, middle, end, err
		}
		end, err = r.memory(ctx)
		return append(latencies, more...), middle, end, err
	}
	if _, err := r.push(ctx, r.changed); err != nil { // to warm up
		return nil, err
	}
	alone, _, _, err := both()
	if err != nil {
		return nil, err
	}
	enemies, err := startProcess(clientsRole)
	if err != nil {
		return nil, err
	}
	defer enemies.stop()
	for _, behaviour := range []Behaviour{deaf, unacking, nacking} {
		if _, err := r.open(ctx, enemies, max(r.streams/2, 1), behaviour, false); err != nil {
			return nil, fmt.Errorf("clients of which each %s: %w", behaviour, err)
		}
	}
	if _, err := half(); err != nil { // so that half-way has all that they can make it keep
		return nil, err
	}
	beside, middle, end, err := both()
	if err != nil {
		return nil, err
	}
	counts, err := call[Counts](ctx, enemies, "Swarming.Count", struct{}{})
	if err != nil {
		return nil, err
	}
	return values{
		"alone": milliseconds(quantile(alone, 0.99)), "beside": milliseconds(quantile(beside, 0.99)),
		"heapGrowth":     float64(end.Heap+end.Stacks) / float64(middle.Heap+middle.Stacks),
		"residentGrowth": float64(end.Resident) / float64(middle.Resident),
		"toHostile":      float64(counts.Responses), "ended": float64(counts.Ended),
	}, nil
}

func measureRestart(ctx context.Context, r *run) (values, error) {
	if _, err := r.open(ctx, r.clients, r.streams, acking, false); err != nil {
		return nil, err
	}
	if _, err := call[struct{}](ctx, r.clients, "Swarming.Close", struct{}{}); err != nil {
		return nil, err
	}
	r.server.stop()
	if err := r.startServer(ctx, r.kind); err != nil {
		return nil, err
	}
	cpu, err := r.rest(ctx)
	if err != nil {
		return nil, err
	}
	before, err := r.count(ctx)
	if err != nil {
		return nil, err
	}
	opened, err := r.open(ctx, r.clients, r.streams, acking, true)
	if err != nil {
		return nil, err
	}
	used, err := r.rest(ctx)
	if err != nil {
		return nil, err
	}
	after, err := r.count(ctx)
	if err != nil {
		return nil, err
	}
	// That they sent nothing again counts only of clients that are there.
	change, err := r.push(ctx, r.changed)
	if err != nil {
		return nil, err
	}
	return values{
		"bodies": float64(after.Bodies - before.Bodies), "responses": float64(after.Responses - before.Responses),
		"opened": opened.Seconds(), "cpu": milliseconds(used - cpu), "last": milliseconds(change.last()),
	}, nil
}

func measureIdle(ctx context.Context, r *run) (values, error) {
	if _, err := r.open(ctx, r.clients, r.streams, acking, false); err != nil {
		return nil, err
	}
	cpu, err := r.rest(ctx)
	if err != nil {
		return nil, err
	}
	before, err := r.count(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(r.idle):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	used, err := r.rest(ctx)
	if err != nil {
		return nil, err
	}
	after, err := r.count(ctx)
	if err != nil {
		return nil, err
	}
	return values{
		"responses": float64(after.Responses - before.Responses),
		"cpu":       milliseconds(used-cpu) / r.idle.Minutes(),
	}, nil
}

// runs says whether the scenario makes sense for a server.
func (s scenario) runs(server string) bool { return slices.Contains(s.servers, server) }
