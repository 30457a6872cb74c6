package main

import (
	"strings"
	"testing"
	"time"
)

func TestMediansLeaveOutRunsThatDoNotCount(t *testing.T) {
	chosen, err := armsOf("LEAST_REQUEST,Capacity")
	if err != nil {
		t.Fatal(err)
	}
	x := experiment{arms: chosen, scenarios: scenarios[:1]}
	one := func(arm string, p99 time.Duration, counted bool) run {
		return run{scenario: "uneven", arm: arm, imbalance: 1.5, imbalance5s: 1.5, p50: time.Millisecond, p99: p99, goodput: 1, busy: 0.5, counted: counted}
	}
	var out strings.Builder
	x.print(&out, "go run ./bench/lb", []run{
		one("LEAST_REQUEST", 400*time.Millisecond, true), one("Capacity", 100*time.Millisecond, true),
		one("LEAST_REQUEST", 9000*time.Millisecond, false), one("Capacity", 300*time.Millisecond, true),
	})
	for _, want := range []string{
		"| LEAST_REQUEST | 1 | 1.500 | 1.500 | 1.0 | 400 | 100.000 | 50 |",
		"| Capacity | 2 | 1.500 | 1.500 | 1.0 | 200 | 100.000 | 50 |",
		"| Capacity / LEAST_REQUEST | | 1.00 | 1.00 | 1.00 | 0.50 | 1.00 | 1.00 |",
		"| LEAST_REQUEST 1 | no: machine too busy | 1.500 | 1.500 | 1.0 | 9000 |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report has no line %s\n%s", want, out.String())
		}
	}
}

func TestArmWithoutARunThatCountsHasNoFigures(t *testing.T) {
	chosen, _ := armsOf("LEAST_REQUEST")
	var out strings.Builder
	experiment{arms: chosen, scenarios: scenarios[:1]}.print(&out, "go run ./bench/lb", []run{{scenario: "uneven", arm: "LEAST_REQUEST", imbalance: 1.5}})
	if want := "| LEAST_REQUEST | 0 | - | - | - | - | - | - |"; !strings.Contains(out.String(), want) {
		t.Errorf("the report has no line %s\n%s", want, out.String())
	}
}
