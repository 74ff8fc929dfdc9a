// Kill ends a server with SIGKILL again and again under concurrent writers and a watcher, and checks after each restart that
// nothing acknowledged is lost, nothing appears that was never sent, revisions never go back, and the watch, resumed where
// it broke off, has no gap, no duplicate and no disorder.
//
//	go run ./kill -server PATH -rounds 300
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"strings"
	"sync"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	callWithin = 10 * time.Second
	prefix     = "crash/"
	prefixEnd  = "crash0"
)

func main() {
	server := flag.String("server", "", "the server's binary")
	rounds := flag.Int("rounds", 300, "how often to kill it")
	writers := flag.Int("writers", 8, "how many clients write")
	seed := flag.Int64("seed", 1, "what the writes and the moments follow from")
	within := flag.Duration("within", 30*time.Minute, "give up after this long")
	flags := flag.String("flags", "", "more flags for the server, separated by blanks")
	plant := flag.String("plant", "", "spoil what was recorded, which must be found: lost, phantom, gap")
	flag.Parse()

	dir, err := os.MkdirTemp("", "kill-")
	fail(err)
	m, err := member.New(*server, "victim", dir, append([]string{"--snapshot-count=2000"}, strings.Fields(*flags)...)...)
	fail(err)
	fail(m.Start())
	conn, err := member.Dial(m.Client, grpc.WithConnectParams(quickly))
	fail(err)

	t := newTrial(conn, *writers, *seed)
	go t.follower.run()
	start := time.Now()
	done := 0
	for ; done < *rounds && time.Since(start) < *within && len(t.broken()) == 0; done++ {
		t.round(m)
		if done == *rounds/2 {
			t.spoil(*plant)
		}
		if err := m.Start(); err != nil {
			t.breaks("round %d: %v", done, err)
			break
		}
		t.verify(done)
	}
	t.follower.stop()
	m.Kill()

	for _, law := range t.broken() {
		fmt.Println("BROKEN:", law)
	}
	fmt.Printf("%d of %d kills, %d writes acknowledged, %d of them in doubt at a kill took effect and %d did not, %d events, revision %d, seed %d, %v\n",
		done, *rounds, t.acknowledged, t.happened, t.vanished, t.follower.count(), t.revision, *seed, time.Since(start).Round(time.Second))
	if len(t.broken()) > 0 || done < *rounds {
		fmt.Println("data and log are kept in", dir)
		os.Exit(1)
	}
	os.RemoveAll(dir)
}

// trial is the whole run: the writers with what they know, the watcher, and the laws found broken.
type trial struct {
	kv       pb.KVClient
	dice     *rand.Rand
	writers  []*writer
	follower *follower

	revision                         int64 // the highest ever seen
	acknowledged, happened, vanished int
	lost                             bool // planted
	mu                               sync.Mutex
	laws                             []string
}

func newTrial(conn *grpc.ClientConn, writers int, seed int64) *trial {
	t := &trial{kv: pb.NewKVClient(conn), dice: rand.New(rand.NewSource(seed)), revision: 1}
	for i := range writers {
		t.writers = append(t.writers, newWriter(t, i, seed))
	}
	t.follower = newFollower(t, pb.NewWatchClient(conn))
	return t
}

func (t *trial) breaks(law string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.laws) < 20 {
		t.laws = append(t.laws, fmt.Sprintf(law, args...))
	}
}

func (t *trial) broken() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.laws
}

// round lets the writers write for a moment and kills the server in the middle of it.
func (t *trial) round(m *member.Member) {
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	for _, w := range t.writers {
		wait.Go(func() { w.write(ctx) })
	}
	time.Sleep(20*time.Millisecond + time.Duration(t.dice.Intn(130))*time.Millisecond)
	if t.dice.Intn(10) == 0 {
		// A compaction that the kill interrupts has to resume or vanish, and must not take what the watcher still needs.
		if keep := t.follower.reached() - 50; keep > 1 {
			go t.kv.Compact(ctx, &pb.CompactionRequest{Revision: keep})
			time.Sleep(time.Duration(t.dice.Intn(20)) * time.Millisecond)
		}
	}
	m.Kill()
	cancel()
	wait.Wait()
}

func (t *trial) spoil(plant string) {
	switch plant {
	case "lost":
		for key, c := range t.writers[0].cells {
			c.value += "?"
			t.writers[0].cells[key] = c
			return
		}
	case "phantom":
		for key := range t.writers[0].cells {
			delete(t.writers[0].cells, key)
			return
		}
	case "gap":
		t.follower.mu.Lock()
		t.follower.last--
		t.follower.mu.Unlock()
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
