package xds

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// The messages are what Envoy 1.40.0 says.
func TestSuspect(t *testing.T) {
	carried := func(names ...string) func(string) bool {
		return func(name string) bool {
			for _, n := range names {
				if n == name {
					return true
				}
			}
			return false
		}
	}
	for _, c := range []struct {
		message string
		names   []string
		only    string
		want    string
	}{
		{`Proto constraint validation failed (ClusterLoadAssignmentValidationError.Endpoints[0]: embedded message failed validation | caused by ...): goo.gle/debugproto   cluster_name: "shop/cart:80" endpoints { lb_endpoints { } }`,
			[]string{"shop/cart:80", "shop/pay:80"}, "", "shop/cart:80"},
		{`Proto constraint validation failed (RouteConfigurationValidationError...): goo.gle/debugonly  name: "shop/edge/80" virtual_hosts { name: "all" }`,
			[]string{"shop/edge/80"}, "shop/edge/80", "shop/edge/80"},
		{`Error adding/updating cluster(s) shop/pay:80: cluster: ring hash is not supported`, []string{"shop/cart:80", "shop/pay:80"}, "", "shop/pay:80"},
		{`Error adding/updating listener(s) shop/edge/80: cannot bind '127.0.0.1:80': Permission denied`, []string{"shop/edge/80", "shop/edge/81"}, "", "shop/edge/80"},
		{`Unexpected EDS cluster (expecting shop/cart:80): shop/pay:80`, []string{"shop/cart:80", "shop/pay:80"}, "", "shop/pay:80"},
		{`malformed IP address: foo.bar`, []string{"shop/cart:80", "shop/pay:80"}, "", ""},
		{`malformed IP address: foo.bar`, []string{"shop/cart:80"}, "shop/cart:80", "shop/cart:80"},
		{`cluster_name: "not ours"`, []string{"shop/cart:80", "shop/pay:80"}, "", ""},
	} {
		if got := suspect(c.message, carried(c.names...), c.only); got != c.want {
			t.Errorf("%s: %q, want %q", c.message, got, c.want)
		}
	}
}

func TestNackRingIsBounded(t *testing.T) {
	var r nackRing
	for i := range maxNacks + 10 {
		r.add(Nack{Node: fmt.Sprint(i)})
	}
	if n := r.add(Nack{Node: "100"}); n.Count != 2 {
		t.Errorf("refused again: count %d, want 2", n.Count)
	}
	nacks := r.newestFirst()
	if len(nacks) != maxNacks || nacks[0].Node != "100" || nacks[1].Node != fmt.Sprint(maxNacks+9) || nacks[maxNacks-1].Node != "10" {
		t.Errorf("%d refusals, newest %s, %s, oldest %s", len(nacks), nacks[0].Node, nacks[1].Node, nacks[len(nacks)-1].Node)
	}
}

func FuzzPlain(f *testing.F) {
	f.Add("a\x1b[2Jb\r\n", 4)
	f.Add(strings.Repeat("ä", 10), 5)
	f.Add("\xff\xfe", 1)
	f.Add("\u202etxt", 9)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = max(0, min(limit, 1<<16))
		p := plain(s, limit)
		if len(p) > limit || !utf8.ValidString(p) || strings.ContainsFunc(p, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("plain(%q, %d) = %q", s, limit, p)
		}
		if len(s) <= limit && utf8.ValidString(s) && !hasUnprintable(s) && p != s {
			t.Errorf("plain(%q) changed to %q", s, p)
		}
	})
}
