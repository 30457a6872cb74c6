package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"evenkeel.io/controlplane/api/v1alpha1"
)

// Describe is the catalog as text, for tests and for people: fleets with their listeners and routes,
// then services with their endpoints. What has its default is left out.
func (c *Catalog) Describe() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c.Fleets)) {
		b.WriteString(c.Fleets[name].Describe())
	}
	for _, name := range slices.Sorted(maps.Keys(c.Services)) {
		b.WriteString(c.Services[name].Describe())
	}
	return b.String()
}

// Describe is the fleet as text.
func (f *Fleet) Describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "fleet %s\n", f.Name)
	for _, r := range f.Rules {
		fmt.Fprintf(&b, "  limit %s %s\n", r.ID, describeBound(&r.Limit))
	}
	for _, l := range f.Listeners {
		fmt.Fprintf(&b, "  listener %s", l.Name)
		if l.Address != "" {
			fmt.Fprintf(&b, " at %s", l.Address)
		}
		b.WriteByte('\n')
		for _, v := range l.VirtualHosts {
			fmt.Fprintf(&b, "    host %s\n", v.Domain)
			for i := range v.Routes {
				fmt.Fprintf(&b, "      %s\n", v.Routes[i].Describe())
			}
		}
	}
	return b.String()
}

// Describe is the route as a line: its match, where it leads, and its name.
func (r *Route) Describe() string {
	words := []string{r.Match.describe(), "->"}
	switch {
	case r.Redirect != nil:
		words = append(words, r.Redirect.describe())
	case len(r.Backends) == 0:
		words = append(words, "500")
	}
	for i, backend := range r.Backends {
		if i > 0 {
			words = append(words, "+")
		}
		words = append(words, backend.describe())
	}
	words = append(words, changes("request", r.RequestHeaders), changes("response", r.ResponseHeaders))
	if r.Rewrite != nil {
		words = append(words, "rewrite("+joinWords(word("host", r.Rewrite.Hostname), r.Rewrite.Path.describe())+")")
	}
	if r.Timeout >= 0 {
		words = append(words, word("timeout", r.Timeout.String()))
	}
	if r.BackendTimeout != 0 {
		words = append(words, word("per-try", r.BackendTimeout.String()))
	}
	if limits := r.describeLimits(); limits != "" {
		words = append(words, "limits("+limits+")")
	}
	return joinWords(append(words, "["+r.Name+"]")...)
}

func (r *Route) describeLimits() string {
	var limits []string
	for _, l := range r.Limits {
		words := []string{l.Rule.ID}
		for _, label := range slices.Sorted(maps.Keys(l.Labels)) {
			words = append(words, word(label, l.Labels[label]))
		}
		limits = append(limits, joinWords(words...))
	}
	return strings.Join(limits, ", ")
}

func describeBound(l *v1alpha1.Limit) string {
	bound := ""
	if l.Rate != nil {
		bound = fmt.Sprintf("%d per %s burst %d", l.Rate.Requests, l.Rate.Per.Duration, *l.Rate.Burst)
	} else if l.Concurrency != nil {
		bound = fmt.Sprintf("%d at a time", *l.Concurrency)
	}
	return joinWords(string(*l.Mode), string(*l.Scope), bound, word("by", strings.Join(l.Key, "+")))
}

func (m *Match) describe() string {
	words := []string{strings.ToLower(string(m.Path.Type)), m.Path.Value, m.Method}
	for _, h := range m.Headers {
		words = append(words, h.describe("header "))
	}
	for _, q := range m.Queries {
		words = append(words, q.describe("query "))
	}
	return joinWords(words...)
}

func (v ValueMatch) describe(kind string) string {
	if v.Type == Regex {
		return kind + v.Name + "~" + v.Value
	}
	return kind + v.Name + "=" + v.Value
}

func (b Backend) describe() string {
	name := b.Service
	if name == "" {
		name = "500"
	}
	if b.Weight != 1 {
		name += " x" + strconv.FormatUint(uint64(b.Weight), 10)
	}
	return joinWords(name, changes("request", b.RequestHeaders), changes("response", b.ResponseHeaders))
}

func (r *Redirect) describe() string {
	port := ""
	if r.Port != 0 {
		port = strconv.FormatUint(uint64(r.Port), 10)
	}
	return fmt.Sprintf("redirect(%s)", joinWords(strconv.Itoa(r.Code), word("scheme", r.Scheme), word("host", r.Hostname), word("port", port), r.Path.describe()))
}

func (p *PathChange) describe() string {
	switch {
	case p == nil:
		return ""
	case p.Full != nil:
		return "path=" + *p.Full
	}
	return "prefix=" + *p.Prefix
}

func changes(of string, c HeaderChange) string {
	var words []string
	for _, h := range c.Set {
		words = append(words, h.Name+"="+h.Value)
	}
	for _, h := range c.Add {
		words = append(words, "+"+h.Name+"="+h.Value)
	}
	for _, name := range c.Remove {
		words = append(words, "-"+name)
	}
	if len(words) == 0 {
		return ""
	}
	return of + "(" + strings.Join(words, " ") + ")"
}

// Describe is the service as text, an endpoint to a line.
func (s *Service) Describe() string {
	var b strings.Builder
	policy := ""
	if s.HasPolicy {
		var names []string
		for _, ref := range s.Policies {
			names = append(names, ref.Namespace+"/"+ref.Name)
		}
		policy = fmt.Sprintf("%s %s by %s", *s.Policy.Mode, *s.Policy.Strategy, strings.Join(names, " over "))
	}
	protocol := ""
	if s.HTTP2 {
		protocol = "h2c"
	}
	fmt.Fprintln(&b, joinWords("service", s.Name, word("port", s.PortName), protocol, policy, word("readers", strings.Join(s.Readers, ","))))
	for i := range s.Endpoints {
		fmt.Fprintf(&b, "  %s\n", s.Endpoints[i].describe())
	}
	return b.String()
}

func (e *Endpoint) describe() string {
	number := func(name string, value, usual float64) string {
		if value == usual {
			return ""
		}
		return word(name, strconv.FormatFloat(value, 'g', 4, 64))
	}
	since := ""
	if !e.ReadySince.IsZero() {
		since = e.ReadySince.Format(time.RFC3339)
	}
	return joinWords(e.Address, word("zone", e.Zone), word("pod", e.Pod), word("instance", e.Instance), word("ready", since),
		number("base", e.Base, 1), number("multiplier", e.Multiplier, 1), number("cpu", e.CPULimit, 0), word("scrape", e.ScrapeURL))
}

// Describe is the verdict as a line: what is well in a word, what is not with field and message.
func (v *Verdict) Describe() string {
	parent := ""
	if v.Parent.Kind != "" {
		parent = "of " + v.Parent.String()
	}
	port := ""
	if v.Port != 0 {
		port = strconv.FormatUint(uint64(v.Port), 10)
	}
	words := []string{v.Object.String(), parent, word("section", v.Section), word("port", port)}
	line := joinWords(words...) + ": " + v.Accepted.describe("Accepted")
	if !v.ResolvedRefs.OK {
		line += "; " + v.ResolvedRefs.describe("ResolvedRefs")
	}
	return line
}

func (c Condition) describe(name string) string {
	switch {
	case c.OK && c.Message == "":
		return joinWords(name, reasonUnless(c.Reason, name))
	case c.OK:
		return joinWords(name, reasonUnless(c.Reason, name)) + ": " + c.Message
	case c.Field == "":
		return fmt.Sprintf("not %s %s: %s", name, c.Reason, c.Message)
	}
	return fmt.Sprintf("not %s %s: %s: %s", name, c.Reason, c.Field, c.Message)
}

func reasonUnless(reason, name string) string {
	if reason == name {
		return ""
	}
	return reason
}

// word is name=value, "" for an empty value.
func word(name, value string) string {
	if value == "" {
		return ""
	}
	return name + "=" + value
}

func joinWords(words ...string) string {
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
}
