package pipeline

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/rlsconfig"
)

// oldEnvoys are the fleets, by name, that have Envoys which take no bounds of limits in routes, and when one was
// last seen; zero for what is known from before a start, or from the leader before, until this replica leads and
// looks. One bound makes such an Envoy refuse all routes, so an Envoy that is only away for a moment counts.
type oldEnvoys map[string]time.Time

// oldStays is how long an old Envoy counts that is not connected: longer than any takes to come back after a restart
// of ours, and than followers take to tell a new leader whom they serve.
const oldStays = time.Minute

// look notes the fleets in which an old Envoy is connected, and gives the build of one of each.
func (c *core) look(now time.Time) map[string]string {
	builds := map[string]string{}
	if c.options.Limits.Proxies == nil || c.catalog == nil {
		return builds
	}
	for _, p := range c.options.Limits.Proxies() {
		if p.Agent == envoyAgent && !takesQuotas(p.Build) && c.catalog.Fleets[p.Fleet] != nil {
			builds[p.Fleet] = p.Build
			c.noteOld(p.Fleet, now)
		}
	}
	for name, seen := range c.limits.oldEnvoys {
		switch {
		case seen.IsZero():
			c.limits.oldEnvoys[name] = now
		case now.Sub(seen) >= oldStays || c.catalog.Fleets[name] == nil:
			delete(c.limits.oldEnvoys, name)
			c.unsaved = true
		}
	}
	return builds
}

func (c *core) noteOld(fleet string, seen time.Time) {
	if _, known := c.limits.oldEnvoys[fleet]; !known {
		c.unsaved = true
	}
	c.limits.oldEnvoys[fleet] = seen
}

// hasOld says whether a fleet's routes are to carry no bounds of limits.
func (c *core) hasOld(fleet string) bool {
	_, old := c.limits.oldEnvoys[fleet]
	return old
}

// quotas has the routes of fleets carry bounds of limits unless there is an Envoy that would refuse them.
func (c *core) quotas(now time.Time) {
	builds := c.look(now)
	for name, f := range c.fleets {
		if f.object == nil || f.noQuotas == c.hasOld(name) || !hasQuotas(f.object) {
			continue
		}
		why := "all connected Envoys take bounds of limits in routes"
		if build, connected := builds[name]; connected {
			why = "an Envoy " + build + " is connected, which takes no bounds of limits in routes"
		} else if c.hasOld(name) {
			why = "an Envoy that takes no bounds of limits in routes was connected a moment ago"
		}
		c.log.Info("routes change for the Envoys that are connected", "fleet", name, "why", why)
		c.makeAnew(now, name, f, why)
	}
}

// makeAnew makes a fleet's resources anew, with or without bounds of limits in routes.
func (c *core) makeAnew(now time.Time, name string, f *fleet, why string) {
	object := f.object
	f.object = nil
	c.guard("fleet "+name, func() { c.rebuildFleet(now, f, object, cause{why: why}) })
}

// envoyAgent is the user_agent_name of Envoys.
const envoyAgent = "envoy"

// takesQuotas says whether an Envoy of that build knows RateLimit.limit.rate_limit in routes (1.39). One that
// does not say is taken to.
func takesQuotas(build string) bool {
	major, rest, _ := strings.Cut(build, ".")
	minor, _, _ := strings.Cut(rest, ".")
	m, err := strconv.Atoi(major)
	n, err2 := strconv.Atoi(minor)
	return err != nil || err2 != nil || m > 1 || n >= 39
}

func hasQuotas(f *catalog.Fleet) bool {
	return slices.ContainsFunc(f.Rules, (*rlsconfig.Rule).HasQuota)
}
