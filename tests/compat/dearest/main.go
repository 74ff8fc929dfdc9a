// Dearest sends the requests that cost a member most, by RPC, one kind after the other. Judged are the codes of the answers,
// by how much anonymous memory the member grows, whether another client's gets and puts are answered beside it, and whether
// the member lives. How long those gets and puts take is printed; -gets-within judges the gets too, on a machine that is
// quiet enough for that.
//
//	go run ./dearest -server PATH                          everything, on a store of a few GiB (about 10 minutes)
//	go run ./dearest -server PATH -size small -for 2s      the same kinds on a store of 200 MB (4 minutes)
//	go run ./dearest -server PATH -gets-within 20ms        also fails where a get's p99 is longer than that
//	go run ./dearest -server PATH -only watch              the kinds whose names contain the word
//
// The client that asks for much is a process of its own at low priority, and so is the one that gets, at the usual
// priority: a get must not wait for the CPU that the other client takes.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"kevel/compat/member"
)

const (
	growthMax = 256 << 10 // KiB of RssAnon
	quiet     = 2 * time.Second
)

func main() {
	server := flag.String("server", "", "the server's binary")
	only := flag.String("only", "", "only the kinds whose names contain this")
	flag.BoolVar(&spareDisk, "spare-disk", false, "without the kinds that write gigabytes, whose answers depend on the disk's speed")
	size := flag.String("size", "full", "full or small: how much the store holds")
	lasts := flag.Duration("for", 8*time.Second, "how long each kind is sent at most")
	within := flag.Duration("gets-within", 0, "fail where the p99 of gets beside a kind that only reads is longer; 0 judges no time")
	list := flag.Bool("list", false, "print the kinds and end")
	attack := flag.String("attack", "", "the kind to send: what the tool runs beside itself")
	address := flag.String("address", "", "where to send it")
	probe := flag.Bool("probe", false, "send gets and puts until standard input ends: what the tool runs beside itself")
	putsWait := flag.Bool("puts-wait", false, "with -probe: a put may time out")
	flag.Parse()

	switch {
	case *list:
		for _, kind := range kinds {
			fmt.Println(kind.name)
		}
	case *probe:
		probeUntilEOF(*address, *putsWait)
	case *attack != "":
		send(*attack, *address, *lasts)
	default:
		os.Exit(judge(*server, *only, *size, *lasts, *within))
	}
}

// spareDisk leaves out the kinds that wait for the disk.
var spareDisk bool

// judge runs each kind and returns the exit code.
func judge(server, only, size string, lasts, within time.Duration) int {
	holds, known := sizes[size]
	if !known {
		fail(fmt.Errorf("no store is called %s", size))
	}
	dir, err := os.MkdirTemp("", "dearest-")
	fail(err)
	defer os.RemoveAll(dir)
	m, err := member.New(server, "member", dir, "--quota-backend-bytes=34359738368", "--max-request-bytes=10485760")
	fail(err)
	fail(m.Start())
	defer m.Stop()
	fail(fill(m.Client, holds))
	fmt.Printf("%-34s %28s %28s %9s  %s\n", "kind", "gets p50/p99/slowest, ms", "puts p50/p99/slowest, ms", "RssAnon", "answers")
	run, bad := 0, 0
	for _, kind := range kinds {
		if !strings.Contains(kind.name, only) || spareDisk && kind.putsWait {
			continue
		}
		run++
		result, err := beside(m, kind, lasts)
		verdict := ""
		switch {
		case err != nil:
			verdict = err.Error()
		case result.growth > growthMax:
			verdict = "too much memory"
		case within > 0 && result.beside.Gets.P99 > within && !kind.writes:
			verdict = "gets wait"
		default:
			verdict = kind.wrong(result.answers, size == "full")
		}
		if verdict != "" {
			bad++
		}
		fmt.Printf("%-34s %28s %28s %+7d M  %s  %s\n", kind.name, result.beside.Gets, result.beside.Puts,
			result.growth>>10, shown(result.answers), strings.ToUpper(verdict))
		if !m.Running() {
			fail(m.Start())
		}
	}
	if run == 0 {
		fail(fmt.Errorf("no kind has %q in its name: -list prints them", only))
	}
	fmt.Printf("%d passed, %d failed\n", run-bad, bad)
	if bad > 0 {
		return 1
	}
	return 0
}

type outcome struct {
	beside  latencies
	growth  int // KiB
	answers map[string]int
}

// beside sends one kind while another process gets and puts.
func beside(m *member.Member, k kind, lasts time.Duration) (outcome, error) {
	time.Sleep(quiet)
	before, peak := m.Memory(), m.WatchMemory()
	probe := exec.Command(os.Args[0], "-probe", "-address", m.Client, fmt.Sprintf("-puts-wait=%t", k.putsWait))
	stop, err := probe.StdinPipe()
	fail(err)
	figures, err := probe.StdoutPipe()
	fail(err)
	probe.Stderr = os.Stderr
	fail(member.Spawn(probe))

	attack := exec.Command(os.Args[0], "-attack", k.name, "-address", m.Client, "-for", lasts.String())
	attack.Stderr = os.Stderr
	said, err := attack.StdoutPipe()
	fail(err)
	fail(member.Spawn(attack))
	// Best effort: without the right to change priorities the figures are only noisier.
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, attack.Process.Pid, 10)
	var result outcome
	unsaid := json.NewDecoder(said).Decode(&result.answers)
	failed := errors.Join(unsaid, attack.Wait())
	result.growth = peak().Anon - before.Anon
	stop.Close()
	err = json.NewDecoder(figures).Decode(&result.beside)
	probe.Wait()
	switch {
	case !m.Running():
		return result, errors.New("the member ended, see its log")
	case failed != nil:
		return result, fmt.Errorf("the sender failed: %w", failed)
	case err != nil:
		return result, fmt.Errorf("a get or a put failed, or none was answered: %w", err)
	}
	return result, nil
}

// shown is how often each answer came, in an order that does not change.
func shown(answers map[string]int) string {
	var words []string
	for _, answer := range slices.Sorted(maps.Keys(answers)) {
		words = append(words, fmt.Sprintf("%s %d", answer, answers[answer]))
	}
	return strings.Join(words, ", ")
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "dearest:", err)
		os.Exit(1)
	}
}
