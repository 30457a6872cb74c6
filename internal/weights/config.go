package weights

import (
	"errors"
	"fmt"
	"time"
)

// DefaultConfig is what a BalancePolicy that says nothing means.
func DefaultConfig() Config {
	return Config{
		Mode:            Enforce,
		Strategy:        Capacity,
		Blend:           1,
		SlowStart:       30 * time.Second,
		Floor:           0.02,
		Ceiling:         8,
		MaxRatio:        4,
		MaxShed:         0,
		RTTQuantile:     0.9,
		RTTAlpha:        0.3,
		RTTWindow:       5 * time.Second,
		PublishInterval: 10 * time.Second,
		Deadband:        0.08,
		Urgent:          0.2,
		Metadata:        true,
	}
}

// rule is what one field of a Config must satisfy. field is its path in BalancePolicy.spec.
type rule struct {
	field, want string
	value       func(*Config) any
	ok          func(*Config) bool
	reset       func(c, defaults *Config)
}

// Comparisons are written so that NaN fails them.
var rules = []rule{
	{"mode", "Enforce, Shadow or Equal",
		func(c *Config) any { return c.Mode },
		func(c *Config) bool { return c.Mode == Enforce || c.Mode == Shadow || c.Mode == Equal },
		func(c, d *Config) { c.Mode = d.Mode }},
	{"strategy", "Capacity, RTT or Static",
		func(c *Config) any { return c.Strategy },
		func(c *Config) bool { return strategies[c.Strategy] != nil },
		func(c, d *Config) { c.Strategy = d.Strategy }},
	{"blend", "0 to 1",
		func(c *Config) any { return c.Blend },
		func(c *Config) bool { return c.Blend >= 0 && c.Blend <= 1 },
		func(c, d *Config) { c.Blend = d.Blend }},
	{"capacity.slowStart", "0s to 15m",
		func(c *Config) any { return c.SlowStart },
		func(c *Config) bool { return c.SlowStart >= 0 && c.SlowStart <= 15*time.Minute },
		func(c, d *Config) { c.SlowStart = d.SlowStart }},
	{"capacity.floor", "more than 0, less than 1",
		func(c *Config) any { return c.Floor },
		func(c *Config) bool { return c.Floor > 0 && c.Floor < 1 },
		func(c, d *Config) { c.Floor = d.Floor }},
	{"capacity.ceiling", "more than 1, at most 100",
		func(c *Config) any { return c.Ceiling },
		func(c *Config) bool { return c.Ceiling > 1 && c.Ceiling <= 100 },
		func(c, d *Config) { c.Ceiling = d.Ceiling }},
	{"capacity.maxRatio", "1 to 100",
		func(c *Config) any { return c.MaxRatio },
		func(c *Config) bool { return c.MaxRatio >= 1 && c.MaxRatio <= 100 },
		func(c, d *Config) { c.MaxRatio = d.MaxRatio }},
	{"capacity.maxShed", "0 to 0.9",
		func(c *Config) any { return c.MaxShed },
		func(c *Config) bool { return c.MaxShed >= 0 && c.MaxShed <= 0.9 },
		func(c, d *Config) { c.MaxShed = d.MaxShed }},
	{"capacity.tilt", "0 to 1",
		func(c *Config) any { return c.Tilt },
		func(c *Config) bool { return c.Tilt >= 0 && c.Tilt <= 1 },
		func(c, d *Config) { c.Tilt = d.Tilt }},
	{"capacity.configuredRequestsPerSecond", "0 to 1e12",
		func(c *Config) any { return c.ConfiguredRequestsPerSecond },
		func(c *Config) bool {
			return c.ConfiguredRequestsPerSecond >= 0 && c.ConfiguredRequestsPerSecond <= maxRate
		},
		func(c, d *Config) { c.ConfiguredRequestsPerSecond = d.ConfiguredRequestsPerSecond }},
	{"rtt.quantile", "0.5 or 0.9",
		func(c *Config) any { return c.RTTQuantile },
		func(c *Config) bool { return c.RTTQuantile == 0.5 || c.RTTQuantile == 0.9 },
		func(c, d *Config) { c.RTTQuantile = d.RTTQuantile }},
	{"rtt.alpha", "0 to 10",
		func(c *Config) any { return c.RTTAlpha },
		func(c *Config) bool { return c.RTTAlpha >= 0 && c.RTTAlpha <= 10 },
		func(c, d *Config) { c.RTTAlpha = d.RTTAlpha }},
	{"rtt.window", "2s to 5m",
		func(c *Config) any { return c.RTTWindow },
		func(c *Config) bool { return c.RTTWindow >= 2*time.Second && c.RTTWindow <= 5*time.Minute },
		func(c, d *Config) { c.RTTWindow = d.RTTWindow }},
	{"publish.interval", "2s to 10m",
		func(c *Config) any { return c.PublishInterval },
		func(c *Config) bool {
			return c.PublishInterval >= 2*time.Second && c.PublishInterval <= 10*time.Minute
		},
		func(c, d *Config) { c.PublishInterval = d.PublishInterval }},
	{"publish.deadband", "0 to 1",
		func(c *Config) any { return c.Deadband },
		func(c *Config) bool { return c.Deadband >= 0 && c.Deadband <= 1 },
		func(c, d *Config) { c.Deadband = d.Deadband }},
	{"publish.urgent", "the deadband to 1",
		func(c *Config) any { return c.Urgent },
		func(c *Config) bool { return c.Urgent >= c.Deadband && c.Urgent <= 1 },
		func(c, d *Config) { c.Urgent = max(d.Urgent, c.Deadband) }},
}

// Validate returns an error per field that is out of its range, joined; each begins with the field's
// path in BalancePolicy.spec.
func (c Config) Validate() error {
	var errs []error
	for _, r := range rules {
		if !r.ok(&c) {
			errs = append(errs, fmt.Errorf("%s: %v: want %s", r.field, r.value(&c), r.want))
		}
	}
	return errors.Join(errs...)
}

// usable is c with the default in place of every field that Validate would refuse.
func (c Config) usable() Config {
	defaults := DefaultConfig()
	for _, r := range rules {
		if !r.ok(&c) {
			r.reset(&c, &defaults)
		}
	}
	return c
}
