package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"kevel/compat/member"
)

// resident memory in KiB.
type resident struct{ anon int }

func memory(m *member.Member) (r resident) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.Pid()))
	if err != nil {
		return r
	}
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "RssAnon: %d", &r.anon)
	}
	return r
}

// watchMemory looks fifty times a second until the returned function is called, which tells the peak.
func watchMemory(m *member.Member) func() resident {
	stop, peak := make(chan struct{}), make(chan resident)
	go func() {
		var most resident
		for {
			most.anon = max(most.anon, memory(m).anon)
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() resident {
		close(stop)
		return <-peak
	}
}
