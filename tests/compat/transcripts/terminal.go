package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"kevel/compat/member"
)

const (
	commandWithin = 20 * time.Second
	perfWithin    = 3 * time.Minute
	silence       = 800 * time.Millisecond
)

// terminal is one side: an etcdctl that talks to one member, the ids it was told, and what runs in its background.
type terminal struct {
	etcdctl string
	member  *member.Member
	ids     map[string]string
	running map[string]*process
}

func newTerminal(etcdctl string, m *member.Member) *terminal {
	return &terminal{etcdctl: etcdctl, member: m, ids: map[string]string{}, running: map[string]*process{}}
}

// process collects what a command prints, on either stream, in the order of arrival.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu   sync.Mutex
	text bytes.Buffer
	last time.Time
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = time.Now()
	return p.text.Write(b)
}

func (p *process) silentFor() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.last)
}

// patience is how long a silence means the end; before the first line a slow start is more likely.
func (p *process) patience() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.text.Len() == 0 {
		return 3 * silence
	}
	return silence
}

// do plays one step and returns the masked answer.
func (t *terminal) do(s step) string {
	if s.collect != "" {
		p := t.running[s.collect]
		if p == nil {
			return "nothing runs under that name\n"
		}
		return t.end(p, true, commandWithin)
	}
	p, err := t.start(s)
	if err != nil {
		return err.Error() + "\n"
	}
	if s.background != "" {
		t.running[s.background] = p
		time.Sleep(silence) // a watch has no other way to say that it began
		return ""
	}
	within := commandWithin
	if s.words[0] == "check" {
		within = perfWithin
	}
	answer := t.end(p, s.silent, within)
	if s.anyOrder {
		answer = anyOrder(answer)
	}
	if s.keep != "" {
		if id := longHex.FindString(p.text.String()); id != "" {
			t.ids[s.keep] = id
		}
	}
	return answer
}

func (t *terminal) start(s step) (*process, error) {
	words := make([]string, len(s.words))
	for i, word := range s.words {
		words[i] = t.withIDs(word)
	}
	p := &process{cmd: exec.Command(t.etcdctl, words...), done: make(chan struct{}), last: time.Now()}
	p.cmd.Env = []string{"ETCDCTL_ENDPOINTS=http://" + t.member.Client, "PATH=" + os.Getenv("PATH")}
	p.cmd.Dir = t.member.Dir
	p.cmd.Stdin = strings.NewReader(t.withIDs(s.input))
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := member.Spawn(p.cmd); err != nil {
		return nil, err
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (t *terminal) withIDs(text string) string {
	for name, id := range t.ids {
		text = strings.ReplaceAll(text, "$"+name, id)
	}
	return text
}

// end waits for a process, interrupts it when that is the way it ends, and never waits for long.
func (t *terminal) end(p *process, interrupt bool, within time.Duration) string {
	deadline := time.After(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-p.done:
			ended = true
		case <-deadline:
			p.cmd.Process.Kill()
			<-p.done
			return "did not end\n"
		case <-tick.C:
			if interrupt && p.silentFor() > p.patience() {
				p.cmd.Process.Signal(os.Interrupt)
				interrupt = false
			}
		}
	}
	answer := mask(p.text.String())
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		answer += fmt.Sprintf("exit %d\n", code)
	}
	return answer
}

var longHex = regexp.MustCompile(`\b[0-9a-f]{12,16}\b`)

// masks hide what two servers rightly print differently. Each names what it hides, so that its absence still shows.
var masks = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`"ts":"[^"]*"`), `"ts":"TIME"`},
	{regexp.MustCompile(`0x[0-9a-f]{9,}`), "PTR"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "HOST:PORT"},
	{regexp.MustCompile(`(\\?"(?:cluster_id|member_id|ID|leader|leaseID|id)\\?":)-?\d{9,}`), "${1}ID"},
	{regexp.MustCompile(`(\\?"(?:raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse)\\?":)\d+`), "${1}N"},
	{regexp.MustCompile(`("(?:ClusterID|MemberID|Leader|RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|Lease|ID)" : )-?\d{2,}`), "${1}N"},
	{regexp.MustCompile(`("(?:RaftTerm|RaftIndex|RaftAppliedIndex)" : )\d+`), "${1}N"},
	{regexp.MustCompile(`("lease":)-?\d{9,}`), "${1}ID"},
	{longHex, "ID"},
	{regexp.MustCompile(`\b\d+(\.\d+)? [kM]B\b`), "SIZE"},
	{regexp.MustCompile(`\b\d+%`), "N%"},
	{regexp.MustCompile(`(took"?[:=. ]+"?)\d+(\.\d+)?(µs|ms|s)`), "${1}TIME"},
	{regexp.MustCompile(`remaining\(\d+s?\)`), "remaining(N)"},
	// What is left of ten minutes after a second or two, which the clock may cut either way.
	{regexp.MustCompile(`("ttl":)(?:59[7-9]|600)\b`), "${1}N"},
	{regexp.MustCompile(`("(?:ttl|TTL)":)\d+`), "${1}N"},
	{regexp.MustCompile(`[.\d]+ writes/s`), "RATE writes/s"},
	{regexp.MustCompile(`Stddev is [.\d]+s`), "Stddev is TIME"},
	// All the states of a bar that is drawn over itself.
	{regexp.MustCompile(`\d+ / \d+ \[.*p/s`), "PROGRESS"},
}

var (
	// A status row ends in: is leader, is learner, raft term, raft index, applied index.
	statusRow = regexp.MustCompile(`((?:true|false)[,│ ]+(?:true|false)[,│ ]+)\d+([,│ ]+)\d+([,│ ]+)\d+`)
	tableEdge = regexp.MustCompile(`[-─]{3,}`)
	blanks    = regexp.MustCompile(` {2,}`)
)

func mask(text string) string {
	for _, m := range masks {
		text = m.what.ReplaceAllString(text, m.with)
	}
	text = statusRow.ReplaceAllString(text, "${1}N${2}N${3}N")
	// Columns of a table are as wide as what was masked in them.
	return blanks.ReplaceAllString(tableEdge.ReplaceAllString(text, "---"), " ")
}

// anyOrder is the answer with its words sorted, for lists whose order is the order of random ids or none at all.
func anyOrder(answer string) string {
	words := strings.FieldsFunc(answer, func(r rune) bool { return strings.ContainsRune(" ,[]()\"{}=\n", r) })
	slices.Sort(words)
	return strings.Join(words, " ") + "\n"
}
