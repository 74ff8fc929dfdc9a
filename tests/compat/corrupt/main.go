// Corrupt founds clusters of three whose members do not have the same data, and looks whether they notice: by comparing the
// hashes of compactions, by comparing their newest data, and before a member serves. Judged are the alarms, what the cluster
// refuses behind them and in which words, what is answered at /members/hashkv of the peer ports, and that a member which is
// damaged says so, ends, and is rebuilt from the others by what it says.
//
//	go run ./corrupt -server PATH -tool PATH                              one server
//	go run ./corrupt -server PATH -tool PATH -others ETCD -othertool ETCDUTL    members of both kinds in each cluster
//
// A tool is what knows `snapshot restore`: etcdutl, or Kevel itself.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
)

// kind is a server with what restores its data directory.
type kind struct{ server, tool string }

// scenario is a story with clusters of these kinds.
type scenario struct {
	name string
	play func(dir string, kinds []kind)
}

var scenarios = []scenario{
	{"endpoint", endpoint},
	{"minority", minority},
	{"everybody", everybody},
	{"periodic", periodic},
	{"initial", initial},
	{"damage", damage},
}

func main() {
	var first, second kind
	flag.StringVar(&first.server, "server", "", "the server's binary")
	flag.StringVar(&first.tool, "tool", "", "what restores its data directories (default: the server)")
	flag.StringVar(&second.server, "others", "", "the binary of every second member (default: the server)")
	flag.StringVar(&second.tool, "othertool", "", "what restores their data directories (default: that binary)")
	only := flag.String("only", "", "play the scenarios whose names contain this word")
	keep := flag.Bool("keep", false, "keep the members' folders")
	flag.Parse()
	if second.server == "" {
		second = first
	}
	for _, k := range []*kind{&first, &second} {
		if k.tool == "" {
			k.tool = k.server
		}
	}
	mixes := [][]kind{{first, second, first}}
	if first != second {
		mixes = append(mixes, []kind{second, first, second})
	}
	for _, s := range scenarios {
		if !strings.Contains(s.name, *only) {
			continue
		}
		for n, kinds := range mixes {
			dir, err := os.MkdirTemp("", "corrupt-"+s.name+"-")
			fail(err)
			current = dir
			s.play(dir, kinds)
			if !*keep {
				fail(os.RemoveAll(dir))
			}
			fmt.Printf("%s, mix %d: ok\n", s.name, n+1)
		}
	}
}

// current is the folder of the story that is played.
var current string

// running are the members to be ended with the judge.
var running []*side

func fail(err error) {
	if err == nil {
		return
	}
	for _, s := range running {
		s.Kill()
	}
	fmt.Fprintf(os.Stderr, "failed: %v (logs are in %s)\n", err, current)
	os.Exit(1)
}
