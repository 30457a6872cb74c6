package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DefaultBalance is what holds where no BalancePolicy says otherwise. Every field but TargetRefs is
// set, so `policy.Over(DefaultBalance())` is complete and its pointers may be followed unchecked, those
// of the source of readings that it does not use excepted: of Scrape and Prometheus it has one.
func DefaultBalance() BalancePolicySpec {
	return BalancePolicySpec{
		Mode:     new(ModeEnforce),
		Strategy: new(StrategyCapacity),
		Blend:    new(Percent("100%")),
		Base:     new(BaseCPURequest),
		Signals: &Signals{
			Scrape: new(Scrape{
				Interval: duration(2 * time.Second),
				Timeout:  duration(time.Second),
				Preset:   new(PresetGo),
			}.expanded()),
			Prometheus: &Prometheus{
				Interval: duration(15 * time.Second),
				Preset:   new(PresetGo),
			},
			LoadReports: new(false),
		},
		Capacity: &CapacityParameters{
			SlowStart:                   duration(30 * time.Second),
			Floor:                       new(0.02),
			Ceiling:                     new(8.0),
			MaxRatio:                    new(4.0),
			Tilt:                        new(0.0),
			MaxShed:                     new(Percent("0%")),
			ConfiguredRequestsPerSecond: new(0.0),
		},
		RTT: &RTTParameters{
			Quantile: new(0.9),
			Alpha:    new(0.3),
			Window:   duration(5 * time.Second),
		},
		Publish: &Publish{
			Interval: duration(10 * time.Second),
			Deadband: new(Percent("8%")),
			Urgent:   new(Percent("20%")),
			Metadata: new(MetadataAuto),
		},
	}
}

func duration(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }
