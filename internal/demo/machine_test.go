package demo

import (
	"math"
	"testing"
)

func TestMachineTimeLeavesOutIdleAndDisk(t *testing.T) {
	//                                  user nice system idle iowait irq softirq steal guest guest_nice
	earlier, err := parseMachineTime("cpu  100 0 100 1000 50 0 0 0 40 0\ncpu0 1 1 1 1\n")
	if err != nil {
		t.Fatal(err)
	}
	later, err := parseMachineTime("cpu  130 10 120 1020 60 2 3 5 60 0\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := later.BusyShare(earlier); math.Abs(got-0.7) > 1e-12 {
		t.Errorf("busy share %v, want 70 of 100 ticks", got)
	}
	if got := earlier.BusyShare(earlier); got != 0 {
		t.Errorf("busy share of no time: %v", got)
	}
	for _, bad := range []string{"", "intr 1 2 3", "cpu 1 2", "cpu a b c d e f"} {
		if _, err := parseMachineTime(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
