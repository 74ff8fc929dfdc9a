package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"kevel/compat/member"
)

// resident memory in KiB.
type resident struct{ all, anon int }

func (r resident) String() string { return fmt.Sprintf("RSS %d KiB, RssAnon %d KiB", r.all, r.anon) }

func memory(m *member.Member) (r resident) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.Pid()))
	fail(err)
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "VmRSS: %d", &r.all)
		fmt.Sscanf(line, "RssAnon: %d", &r.anon)
	}
	return r
}

// watchMemory looks twenty times a second until the returned function is called, which tells the peak.
func watchMemory(m *member.Member) func() resident {
	stop, peak := make(chan struct{}), make(chan resident)
	go func() {
		var most resident
		for {
			now := memory(m)
			most = resident{max(most.all, now.all), max(most.anon, now.anon)}
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() resident {
		close(stop)
		return <-peak
	}
}
