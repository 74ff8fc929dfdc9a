// Dearest sends the requests that cost a member most, by RPC, one kind after the other, and looks at three things beside
// each: how much anonymous memory the member grows by, how long another client's gets take, and whether the member lives.
//
//	go run ./dearest -server PATH                 everything, on a store of a few GiB (about 10 minutes)
//	go run ./dearest -server PATH -size small     the same kinds on a store of 200 MB (2 minutes)
//	go run ./dearest -server PATH -only watch     the kinds whose names contain the word
//
// The client that asks for much is a process of its own at low priority, and so is the one that gets, at the usual
// priority: a get must not wait for the CPU that the other client takes.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"kevel/compat/member"
)

const (
	growthMax  = 256 << 10 // KiB of RssAnon
	latencyMax = 20 * time.Millisecond
	quiet      = 2 * time.Second
)

func main() {
	server := flag.String("server", "", "the server's binary")
	only := flag.String("only", "", "only the kinds whose names contain this")
	size := flag.String("size", "full", "full or small: how much the store holds")
	lasts := flag.Duration("for", 8*time.Second, "how long each kind is sent at most")
	list := flag.Bool("list", false, "print the kinds and end")
	attack := flag.String("attack", "", "the kind to send: what the tool runs beside itself")
	address := flag.String("address", "", "where to send it")
	probe := flag.Bool("probe", false, "send gets until standard input ends: what the tool runs beside itself")
	flag.Parse()

	switch {
	case *list:
		for _, kind := range kinds {
			fmt.Println(kind.name)
		}
	case *probe:
		probeUntilEOF(*address)
	case *attack != "":
		send(*attack, *address, *lasts)
	default:
		os.Exit(judge(*server, *only, *size, *lasts))
	}
}

// judge runs each kind and returns the exit code.
func judge(server, only, size string, lasts time.Duration) int {
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
	fmt.Printf("%-34s %10s %10s %10s %9s  %s\n", "kind", "get p50", "get p99", "slowest", "RssAnon", "answers")
	run, bad := 0, 0
	for _, kind := range kinds {
		if !strings.Contains(kind.name, only) {
			continue
		}
		run++
		result, err := beside(m, kind.name, lasts)
		verdict := ""
		switch {
		case err != nil:
			verdict = err.Error()
		case result.growth > growthMax:
			verdict = "too much memory"
		case result.p99 > latencyMax && !kind.writes:
			verdict = "gets wait"
		}
		if verdict != "" {
			bad++
		}
		fmt.Printf("%-34s %10s %10s %10s %+7d M  %s  %s\n", kind.name, ms(result.p50), ms(result.p99), ms(result.most),
			result.growth>>10, result.answers, strings.ToUpper(verdict))
		if !m.Running() {
			fail(m.Start())
		}
	}
	fmt.Printf("%d passed, %d failed\n", run-bad, bad)
	if bad > 0 || run == 0 {
		return 1
	}
	return 0
}

type outcome struct {
	p50, p99, most time.Duration
	growth         int // KiB
	answers        string
}

// beside sends one kind while another process gets.
func beside(m *member.Member, name string, lasts time.Duration) (outcome, error) {
	time.Sleep(quiet)
	before, peak := m.Memory(), m.WatchMemory()
	probe := exec.Command(os.Args[0], "-probe", "-address", m.Client)
	stop, err := probe.StdinPipe()
	fail(err)
	gets, err := probe.StdoutPipe()
	fail(err)
	probe.Stderr = os.Stderr
	fail(member.Spawn(probe))

	attack := exec.Command(os.Args[0], "-attack", name, "-address", m.Client, "-for", lasts.String())
	attack.Stderr = os.Stderr
	said, err := attack.StdoutPipe()
	fail(err)
	fail(member.Spawn(attack))
	// Best effort: without the right to change priorities the figures are only noisier.
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, attack.Process.Pid, 10)
	var result outcome
	for lines := bufio.NewScanner(said); lines.Scan(); {
		result.answers = lines.Text()
	}
	failed := attack.Wait()
	result.growth = peak().Anon - before.Anon
	stop.Close()
	var p50, p99, most int64
	_, err = fmt.Fscan(gets, &p50, &p99, &most)
	probe.Wait()
	result.p50, result.p99, result.most = time.Duration(p50), time.Duration(p99), time.Duration(most)
	switch {
	case !m.Running():
		return result, errors.New("the member ended, see its log")
	case failed != nil:
		return result, fmt.Errorf("the sender failed: %w", failed)
	case err != nil:
		return result, fmt.Errorf("a get failed, or none was answered: %w", err)
	}
	return result, nil
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "dearest:", err)
		os.Exit(1)
	}
}
