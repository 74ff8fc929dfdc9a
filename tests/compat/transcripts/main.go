// Transcripts plays etcdctl sessions against two servers and compares what a person at the terminal would read: output,
// messages and exit codes, with only ids, ports, sizes and times masked.
//
//	go run ./transcripts -etcdctl PATH -etcd PATH -kevel PATH
//
// The sessions are the files of sessions/, each played on a new store. See script.go for their form.
package main

import (
	"embed"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"kevel/compat/member"
)

//go:embed sessions
var sessions embed.FS

func main() {
	etcdctl := flag.String("etcdctl", "", "the etcdctl to use on both sides")
	etcd := flag.String("etcd", "", "etcd's binary")
	kevel := flag.String("kevel", "", "Kevel's binary")
	only := flag.String("only", "", "play just the session of this name")
	perf := flag.Bool("perf", false, "also run check perf on both sides (two minutes)")
	plant := flag.Bool("plant", false, "spoil one answer, which must be found")
	verbose := flag.Bool("v", false, "print every command and its answer")
	flag.Parse()

	tool, err := filepath.Abs(*etcdctl)
	fail(err)
	files, err := sessions.ReadDir("sessions")
	fail(err)
	commands, different := 0, 0
	for _, file := range files {
		name := strings.TrimSuffix(file.Name(), ".txt")
		if *only != "" && *only != name || name == "perf" && !*perf {
			continue
		}
		text, err := sessions.ReadFile(path.Join("sessions", file.Name()))
		fail(err)
		steps, err := parse(string(text))
		fail(err)
		c, d := play(name, steps, tool, [2]string{*etcd, *kevel}, *verbose, *plant)
		commands, different = commands+c, different+d
	}
	if commands == 0 {
		fail(fmt.Errorf("no session is called %q", *only))
	}
	fmt.Printf("%d commands, %d differ\n", commands, different)
	if different > 0 {
		os.Exit(1)
	}
}

// play runs one session on a fresh pair of servers, step by step on both at once.
func play(name string, steps []step, etcdctl string, binaries [2]string, verbose, plant bool) (commands, different int) {
	dir, err := os.MkdirTemp("", "transcripts-")
	fail(err)
	defer os.RemoveAll(dir)
	var terminals [2]*terminal
	for i, binary := range binaries {
		m, err := member.New(binary, []string{"left", "right"}[i], dir)
		fail(err)
		fail(m.Start())
		defer m.Kill()
		terminals[i] = newTerminal(etcdctl, m)
	}
	for _, s := range steps {
		var answers [2]string
		var wait sync.WaitGroup
		for i, t := range terminals {
			wait.Go(func() { answers[i] = t.do(s) })
		}
		wait.Wait()
		if commands++; plant && commands == 10 {
			answers[1] += "planted\n"
		}
		if verbose {
			fmt.Printf("%s: %s\n%s", name, s, answers[0])
		}
		if answers[0] != answers[1] {
			different++
			fmt.Printf("DIFFERENT in %s, line %d: etcdctl %s\n--- etcd\n%s--- kevel\n%s\n", name, s.line, s, answers[0], answers[1])
		}
	}
	return commands, different
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
