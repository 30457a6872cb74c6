package main

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// unmapProgram takes the pages of the program out of the process that are as they are in its file. The start
// touches most of them once, to register API types and messages, and nothing needs those again; what is needed
// comes back from the system's cache at its next use. The system could take them at any time, and does when
// memory is short; until then they count as ours.
func unmapProgram() {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer maps.Close()
	for _, m := range cleanMappings(maps, program) {
		// On failure the pages stay, which is no worse than before.
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.start, m.end-m.start, syscall.MADV_DONTNEED)
	}
}

// mapping is a range of addresses.
type mapping struct{ start, end uintptr }

// cleanMappings are those of a file, as /proc/<pid>/smaps has them, that cannot be written and of which no page
// is another than in the file: not those that were relocated at the start, nor one with a breakpoint in it.
func cleanMappings(smaps io.Reader, file string) (all []mapping) {
	var current *mapping
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		// 00400000-01c37000 r-xp 00000000 fe:00 9994754                  /usr/bin/controlplane
		fields := strings.Fields(lines.Text())
		if start, end, ok := strings.Cut(fields[0], "-"); ok {
			current = nil
			from, errFrom := strconv.ParseUint(start, 16, 64)
			to, errTo := strconv.ParseUint(end, 16, 64)
			if errFrom == nil && errTo == nil && len(fields) == 6 && fields[5] == file && (fields[1] == "r-xp" || fields[1] == "r--p") {
				current = &mapping{uintptr(from), uintptr(to)}
			}
		} else if current != nil && fields[0] == "Anonymous:" && len(fields) == 3 && fields[1] == "0" {
			all = append(all, *current)
		}
	}
	return all
}
