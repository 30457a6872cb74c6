package main

import "testing"

// TestRests: memory is given back after work, not during it, and only if there is some.
func TestRests(t *testing.T) {
	const mb = 1 << 20
	for name, test := range map[string]struct {
		last, now heap
		back      bool
	}{
		"nothing happens, garbage is left": {heap{allocated: 100 * mb}, heap{101 * mb, 25 * mb, 45 * mb, 0}, true},
		"nothing happens, free memory is":  {heap{allocated: 100 * mb}, heap{101 * mb, 25 * mb, 26 * mb, 20 * mb}, true},
		"nothing happens, little is left":  {heap{allocated: 100 * mb}, heap{101 * mb, 25 * mb, 28 * mb, 2 * mb}, false},
		"there is work":                    {heap{allocated: 100 * mb}, heap{110 * mb, 25 * mb, 45 * mb, 20 * mb}, false},
		"a collection is under way":        {heap{allocated: 100 * mb}, heap{101 * mb, 25 * mb, 24 * mb, 2 * mb}, false},
	} {
		if back := test.now.rests(test.last) && test.now.spare() >= worthwhile; back != test.back {
			t.Errorf("%s: given back %v, want %v", name, back, test.back)
		}
	}
	if h := readHeap(); h.allocated == 0 || h.objects == 0 {
		t.Errorf("the runtime tells %+v", h)
	}
}
