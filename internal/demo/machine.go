package demo

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// MachineTime is what all CPUs of the machine have spent since it booted, in ticks of the kernel.
type MachineTime struct{ Busy, Total uint64 }

// ReadMachineTime reads /proc/stat (proc(5)), which only Linux has. Waiting for a disk is not busy; time
// that a hypervisor gave to others is, for it was not ours to use.
func ReadMachineTime() (MachineTime, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return MachineTime{}, err
	}
	return parseMachineTime(string(stat))
}

func parseMachineTime(stat string) (MachineTime, error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	const idle, iowait, guest = 4, 5, 9 // guest time is contained in user time already
	if len(fields) <= iowait || fields[0] != "cpu" {
		return MachineTime{}, errors.New(`/proc/stat: want "cpu" and its times in the first line`)
	}
	var t MachineTime
	for i, field := range fields[1:min(guest, len(fields))] {
		ticks, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return MachineTime{}, fmt.Errorf("/proc/stat: %w", err)
		}
		t.Total += ticks
		if column := i + 1; column != idle && column != iowait {
			t.Busy += ticks
		}
	}
	return t, nil
}

// BusyShare is the share of the machine, 0 to 1, that was in use since the earlier reading.
func (t MachineTime) BusyShare(earlier MachineTime) float64 {
	if t.Total <= earlier.Total {
		return 0
	}
	return float64(t.Busy-earlier.Busy) / float64(t.Total-earlier.Total)
}
