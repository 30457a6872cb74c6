package pipeline

import (
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"evenkeel.io/controlplane/internal/catalog"
	"evenkeel.io/controlplane/internal/rlsconfig"
	"evenkeel.io/controlplane/internal/snapshot"
	"evenkeel.io/controlplane/internal/translate"
	"evenkeel.io/controlplane/internal/xds"
)

// Limiter is the rate limit service in this process. Package rls says what the methods mean.
type Limiter interface {
	Configure(fleet string, rules, old []*rlsconfig.Rule)
	SetFactors(factors map[string]map[string]float64)
}

// Limits say who counts requests, and where Envoys are told to ask.
type Limits struct {
	// Service is the one in this process; nil: there is none.
	Service Limiter
	// Address is where Envoys reach Service, "<ip>:<port>".
	Address string
	// Shared: the services of all replicas count together, so that any may be asked; else the leader's alone.
	// Elsewhere are the addresses of the followers' services, as far as a leader knows.
	Shared    bool
	Elsewhere func() []string
	// Reference is the Service, "<namespace>/<name>:<port>", whose endpoints are asked in place of Service:
	// reference rate limit services, which are configured over xDS.
	Reference string
	// Proxies are the connected clients of all fleets; nil: none is known.
	Proxies func() []xds.Proxy
	// Ask is how the numbers that limits follow are asked for; nil: they are not.
	Ask Asker
}

// contractAfter is how long the rules that Envoys may still ask by are kept when not all of them acknowledge
// what is served now.
const contractAfter = 30 * time.Second

// maxOld bounds the old rules of a fleet: of a burst of changes the newest are kept.
const maxOld = 1024

// describing are the types that say how Envoys describe and route requests.
var describing = []translate.Type{translate.CDS, translate.LDS, translate.RDS, translate.ECDS, translate.RTDS}

// limits is what the core knows of who counts, and of what is counted.
type limits struct {
	of map[string]*limited // by fleet
	// assignment is where Envoys ask; told are the addresses that a leader told a follower, nil before.
	assignment *snapshot.Resource
	told       []string
	// toldAddresses are those that followers were told.
	toldAddresses []string
	oldEnvoys     oldEnvoys
	adapting
}

// limited is a fleet's rules, as the service has them.
type limited struct {
	served *snapshot.Snapshot // with which they came
	rules  []*rlsconfig.Rule
	// old are those that Envoys may still ask by, since the last change.
	old   []*rlsconfig.Rule
	since time.Time
}

// expand has the service know the rules of what a key is about to be served, beside those that its Envoys ask by
// until they have it. Where Envoys are sent nothing new the rules of before are forgotten at once: the new
// bounds hold from the next request on.
func (c *core) expand(now time.Time, key string, next *snapshot.Snapshot) {
	l := c.limits.of[key]
	list := next.Get(translate.Limits, key)
	switch {
	case l == nil && list == nil:
		return
	case l == nil:
		l = &limited{}
		c.limits.of[key] = l
	}
	before := l.served
	l.served = next
	if versionOf(before.Get(translate.Limits, key)) == versionOf(list) && sameForEnvoys(before, next) {
		return
	}
	was := l.rules
	l.rules = list.Rules()
	switch {
	case before == nil:
	case sameForEnvoys(before, next):
		l.old = withOld(l.rules, l.old) // those of a change that is under way
	default:
		l.old, l.since = withOld(l.rules, was, l.old), now
	}
	c.configure(key)
}

// contract forgets, at a tick, the old rules of fleets whose Envoys have all acknowledged what they are served.
func (c *core) contract(now time.Time) {
	var proxies []xds.Proxy
	for key, l := range c.limits.of {
		if l.old == nil {
			continue
		}
		if proxies == nil && c.options.Limits.Proxies != nil {
			proxies = c.options.Limits.Proxies()
		}
		if now.Sub(l.since) >= contractAfter || acknowledged(proxies, key, l.served) {
			l.old = nil
			c.configure(key)
		}
	}
}

func (c *core) configure(key string) {
	l := c.limits.of[key]
	if c.options.Limits.Service != nil {
		c.options.Limits.Service.Configure(key, l.rules, l.old)
	}
	c.refer(key)
	if len(l.rules)+len(l.old) == 0 {
		delete(c.limits.of, key)
	}
}

// acknowledged says whether every Envoy of a fleet has all that it is served.
func acknowledged(proxies []xds.Proxy, fleet string, served *snapshot.Snapshot) bool {
	for _, p := range proxies {
		if p.Fleet != fleet {
			continue
		}
		for _, t := range describing {
			of, asked := p.Types[t]
			if !asked || of.State == xds.NotSubscribed {
				continue
			}
			if of.State != xds.Synced || of.Version != served.Version(t) {
				return false
			}
		}
	}
	return true
}

// sameForEnvoys says whether two snapshots differ in nothing that has requests described or routed otherwise.
func sameForEnvoys(a, b *snapshot.Snapshot) bool {
	for _, t := range describing {
		if a.Version(t) != b.Version(t) {
			return false
		}
	}
	return true
}

func versionOf(r *snapshot.Resource) string {
	if r == nil {
		return ""
	}
	return r.Version
}

// withOld are the rules of before that are not among the rules of now, the newest first.
func withOld(now []*rlsconfig.Rule, before ...[]*rlsconfig.Rule) (old []*rlsconfig.Rule) {
	seen := map[string]bool{}
	known := func(r *rlsconfig.Rule) bool {
		text, err := rlsconfig.Encode([]*rlsconfig.Rule{r})
		if err != nil {
			return true
		}
		key, err := proto.MarshalOptions{Deterministic: true}.Marshal(text)
		if err != nil || seen[string(key)] {
			return true
		}
		seen[string(key)] = true
		return false
	}
	for _, r := range now {
		known(r)
	}
	for _, r := range slices.Concat(before...) {
		if len(old) < maxOld && !known(r) {
			old = append(old, r)
		}
	}
	return old
}

// assign keeps the assignment of the rate limit service up to date, and has it served.
func (c *core) assign() {
	addresses, known := c.counters()
	if !known && c.limits.assignment != nil {
		return
	}
	next := c.encode(translate.RateLimitService(addresses), c.limits.assignment)
	if next == c.limits.assignment {
		return
	}
	c.limits.assignment = next
	c.patch(map[string]*snapshot.Resource{translate.RLSCluster: next}, true)
}

// counters are where Envoys are to ask; known is false where something better may be known soon.
func (c *core) counters() (addresses []string, known bool) {
	o := &c.options.Limits
	switch {
	case o.Reference != "":
		if c.catalog == nil {
			return nil, false
		}
		if s := c.catalog.Services[o.Reference]; s != nil {
			addresses = addressesOf(s)
		}
		return addresses, true
	case o.Service == nil:
		return nil, true
	case !c.role.Leads && c.limits.told != nil:
		return c.limits.told, true
	case !c.role.Leads:
		return []string{o.Address}, false // nobody leads yet: rather a count of one's own than none
	}
	addresses = []string{o.Address}
	if o.Shared && o.Elsewhere != nil {
		addresses = append(addresses, o.Elsewhere()...)
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), true
}

func addressesOf(s *catalog.Service) (addresses []string) {
	for _, e := range s.Endpoints {
		addresses = append(addresses, e.Address)
	}
	return addresses
}

// refer makes the snapshot of reference services follow a fleet's rules and factors. They are served nothing
// before something is known: an empty list would take all limits away.
func (c *core) refer(key string) {
	if c.options.Limits.Reference == "" {
		return
	}
	l := c.limits.of[key]
	before := c.limits.reference
	var configs []*snapshot.Resource
	for name, config := range before.Resources(translate.RLS) {
		if name != key {
			configs = append(configs, config)
		}
	}
	// Of a path that both have the last one's bound counts: the new rules come after the old.
	if rules := slices.Concat(l.old, l.rules); len(rules) > 0 {
		if r := c.encode(translate.RateLimitConfig(key, rules, c.factorsOf(key)), before.Get(translate.RLS, key)); r != nil {
			configs = append(configs, r)
		}
	}
	if next := snapshot.New(configs...); before == nil || !before.Equal(next) {
		c.limits.reference = next
		c.limits.referenceNews = true
	}
}

// takeLimits is what the service has to know before the outgoing snapshots are served: nothing is handed out
// that it does not know the rules of.
func (c *core) takeLimits(now time.Time, out []outgoing) []outgoing {
	for _, o := range out {
		if o.snapshot != nil && !strings.HasPrefix(o.key, edsOnlyPrefix) {
			c.expand(now, o.key, o.snapshot)
		} else if o.snapshot == nil && c.limits.of[o.key] != nil {
			// Its Envoys keep what they have, and so do their counters.
			c.log.Info("the limits of a fleet that is served nothing any more stay in force", "fleet", o.key)
		}
	}
	if c.limits.referenceNews {
		c.limits.referenceNews = false
		out = slices.Insert(out, 0, outgoing{translate.RLSFleet, c.limits.reference})
	}
	return out
}

// served are the rules that a fleet's Envoys are answered by, and whether old ones hold besides.
func (l *limits) rulesServed() map[string]LimitsServed {
	out := make(map[string]LimitsServed, len(l.of))
	for key, of := range l.of {
		out[key] = LimitsServed{Rules: of.rules, Changing: of.old != nil, Decisions: maps.Clone(l.decisions[key])}
	}
	return out
}
