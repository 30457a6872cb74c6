package translate

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"evenkeel.io/controlplane/internal/catalog"
)

var slotRequests = flag.Int("slots", 0, "measure what the filter slots cost with so many requests each")

// TestSlotCost measures the CPU of an Envoy per request with the slots as they are, without any, and with all
// of them enabled everywhere. The arms take turns, so that what else the machine does hits all of them:
//
//	go test ./test/translate -run SlotCost -slots 30000 -v
func TestSlotCost(t *testing.T) {
	if *slotRequests == 0 {
		t.Skip("measures only when asked: -slots 30000")
	}
	s := backend(t, "echo")
	hosts := []catalog.VirtualHost{{Domain: "*", Routes: []catalog.Route{{Name: "shop/web/0/0", Match: prefix("/"), Backends: to(s)}}}}
	arms := []struct {
		name  string
		alter func(*hcmv3.HttpConnectionManager)
		rig   *rig
		ticks int
	}{
		{name: "no slots", alter: func(m *hcmv3.HttpConnectionManager) { m.HttpFilters = m.HttpFilters[len(m.HttpFilters)-1:] }},
		{name: "empty slots", alter: func(*hcmv3.HttpConnectionManager) {}},
		{name: "empty slots, enabled", alter: func(m *hcmv3.HttpConnectionManager) {
			for _, f := range m.HttpFilters {
				f.Disabled = false
			}
		}},
	}
	for i := range arms {
		arms[i].rig = startWith(t, options{alter: func(l *listenerv3.Listener) {
			config := l.GetFilterChains()[0].GetFilters()[0].GetTypedConfig()
			m := &hcmv3.HttpConnectionManager{}
			if err := config.UnmarshalTo(m); err != nil {
				t.Fatal(err)
			}
			arms[i].alter(m)
			changed, err := anypb.New(m)
			if err != nil {
				t.Fatal(err)
			}
			l.FilterChains[0].Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: changed}
		}}, hosts, s)
	}
	const round = 500
	rounds := (*slotRequests + round - 1) / round
	for range rounds {
		for i := range arms {
			a := &arms[i]
			before := cpuTicks(t, a.rig.envoy.PID())
			for range round {
				a.rig.do("GET", "a", "/", nil)
			}
			a.ticks += cpuTicks(t, a.rig.envoy.PID()) - before
		}
	}
	for _, a := range arms {
		t.Logf("%-22s %6.1f us CPU a request, %d requests", a.name, float64(a.ticks)*1e4/float64(rounds*round), rounds*round)
	}
}

// cpuTicks is the CPU time that a process has used, in hundredths of a second (proc(5): utime and stime).
func cpuTicks(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Skip(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	sum := 0
	for _, i := range []int{11, 12} {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}
