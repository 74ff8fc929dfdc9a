package member

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// Resident is the memory of a member's process, in KiB.
type Resident struct{ All, Anon int }

func (r Resident) String() string { return fmt.Sprintf("RSS %d KiB, RssAnon %d KiB", r.All, r.Anon) }

// Memory is what the process holds now; nothing once it has ended.
func (m *Member) Memory() (r Resident) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.Pid()))
	if err != nil {
		return r
	}
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "VmRSS: %d", &r.All)
		fmt.Sscanf(line, "RssAnon: %d", &r.Anon)
	}
	return r
}

// WatchMemory looks fifty times a second until the returned function is called, which tells the peak.
func (m *Member) WatchMemory() func() Resident {
	stop, peak := make(chan struct{}), make(chan Resident)
	go func() {
		var most Resident
		for {
			now := m.Memory()
			most = Resident{max(most.All, now.All), max(most.Anon, now.Anon)}
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() Resident {
		close(stop)
		return <-peak
	}
}
