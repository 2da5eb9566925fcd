package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// usage is what a process has used so far.
type usage struct {
	cpu  float64 // seconds, all its threads
	rss  int     // KiB, now
	peak int     // KiB, since forgetPeak
}

// ticks is sysconf(_SC_CLK_TCK), which Linux has as 100 on every platform that Go runs on.
const ticks = 100

func usageOf(pid int) (used usage, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return used, err
	}
	// The name, in parentheses, may hold spaces; utime and stime are fields 14 and 15.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return used, err
		}
		used.cpu += float64(n) / ticks
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "VmRSS: %d kB", &used.rss)
		fmt.Sscanf(line, "VmHWM: %d kB", &used.peak)
	}
	return used, err
}

// forgetPeak starts VmHWM anew at the present size.
func forgetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}
