package xds

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

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
