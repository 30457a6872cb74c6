package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestCleanMappings: only what is in the file, and nowhere else, is given up.
func TestCleanMappings(t *testing.T) {
	smaps := `00400000-01c37000 r-xp 00000000 fe:00 99 /usr/bin/controlplane
Rss:               18968 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
01c37000-0378b000 r--p 01837000 fe:00 99 /usr/bin/controlplane
Anonymous:             4 kB
0378b000-0384b000 rw-p 0338b000 fe:00 99 /usr/bin/controlplane
Anonymous:             0 kB
0384b000-0385b000 r--p 0338b000 fe:00 99 /usr/bin/other
Anonymous:             0 kB
c000000000-c000800000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00001000 fe:00 99 /usr/bin/controlplane
Anonymous:             0 kB
`
	want := []mapping{{0x400000, 0x1c37000}, {0x7f0000000000, 0x7f0000001000}}
	if got := cleanMappings(strings.NewReader(smaps), "/usr/bin/controlplane"); !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

// TestUnmapProgram: fewer pages of the program are mapped after it, and it goes on as before.
func TestUnmapProgram(t *testing.T) {
	before := rssFile(t)
	unmapProgram()
	after := rssFile(t)
	if after >= before/2 {
		t.Errorf("%d KB of files are mapped, %d KB before", after, before)
	}
	if _, err := newLogger(serveOptions{logFormat: "no such", logLevel: "info"}, nil); err == nil || !strings.Contains(fmt.Sprint(err), "no such") {
		t.Errorf("a program that was unmapped says %v", err)
	}
}

func rssFile(t *testing.T) int {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "RssFile:" {
			kb, _ := strconv.Atoi(fields[1])
			return kb
		}
	}
	t.Skip("the system does not tell")
	return 0
}
