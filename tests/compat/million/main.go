// Million fills a member with a million keys and shows what that costs: memory, restart after SIGKILL, and a LIST of
// everything, to a fast and to a slow client, with one writer beside it.
//
//	go run ./million -server PATH -value 1024
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"sort"
	"sync"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	writers    = 64
	perTxn     = 100
	slowBytes  = 32 << 20 // a second, for the slow client
	quietTime  = 10 * time.Second
	settleTime = 3 * time.Second
)

func main() {
	server := flag.String("server", "", "the server's binary")
	keys := flag.Int("keys", 1_000_000, "how many keys")
	value := flag.Int("value", 1024, "bytes of each value")
	few := flag.Int("few", 10_000, "keys at the restart to compare with; 0 for none")
	list := flag.Bool("list", true, "read everything in one LIST")
	fetch := flag.String("fetch", "", "only read everything from this address: what the tool runs beside itself")
	rate := flag.Int("rate", 0, "at most this many bytes a second; 0 for all that comes")
	flag.Parse()

	if *fetch != "" {
		bytes, err := listAll(*fetch, *rate)
		fail(err)
		fmt.Println(bytes)
		return
	}
	dir, err := os.MkdirTemp("", "million-")
	fail(err)
	defer os.RemoveAll(dir)
	m, err := member.New(*server, "member", dir, "--quota-backend-bytes=17179869184", "--max-request-bytes=10485760")
	fail(err)
	fail(m.Start())
	defer m.Stop()
	fmt.Printf("idle                      %s\n", m.Memory())
	if *few > 0 {
		fill(m, 0, *few, *value)
		restart(m, *few)
	}
	start := time.Now()
	fill(m, *few, *keys, *value)
	fmt.Printf("filled                    %d keys of %d bytes in %.1f s\n", *keys, *value, time.Since(start).Seconds())
	time.Sleep(settleTime)
	fmt.Printf("after the fill            %s\n", m.Memory())
	restart(m, *keys)
	time.Sleep(settleTime)
	fmt.Printf("after the restart         %s\n", m.Memory())
	if !*list {
		return
	}
	quiet := puts(m, func() { time.Sleep(quietTime) })
	fmt.Printf("puts, quiet               %s\n", quiet)
	for _, rate := range []int{0, slowBytes} {
		name := "fast"
		if rate > 0 {
			name = "slow"
		}
		before, peak := m.Memory(), m.WatchMemory()
		var bytes int
		var took time.Duration
		beside := puts(m, func() {
			start := time.Now()
			bytes, err = listBeside(m, rate)
			fail(err)
			took = time.Since(start)
		})
		grown := peak().Anon - before.Anon
		fmt.Printf("LIST to a %s client     %d bytes in %.1f s, RssAnon + %d KiB\n", name, bytes, took.Seconds(), grown)
		fmt.Printf("puts beside it            %s, p99 %.2f of quiet\n", beside, float64(beside.p99)/float64(quiet.p99))
	}
}

// fill puts the keys from..to, a hundred in a transaction.
func fill(m *member.Member, from, to, value int) {
	conn, err := member.Dial(m.Client)
	fail(err)
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	starts := make(chan int)
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			dice := rand.New(rand.NewSource(int64(w)))
			for at := range starts {
				txn := &pb.TxnRequest{}
				for key := at; key < min(at+perTxn, to); key++ {
					bytes := make([]byte, value)
					dice.Read(bytes)
					put := &pb.PutRequest{Key: fmt.Appendf(nil, "million/%07d", key), Value: bytes}
					txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
				}
				_, err := kv.Txn(context.Background(), txn)
				fail(err)
			}
		})
	}
	for at := from; at < to; at += perTxn {
		starts <- at
	}
	close(starts)
	group.Wait()
}

// restart kills the member and waits for the first linearizable read.
func restart(m *member.Member, keys int) {
	m.Kill()
	start := time.Now()
	fail(m.Start())
	fmt.Printf("restart after SIGKILL     %d keys: %.3f s to the first linearizable read\n", keys, time.Since(start).Seconds())
}

type latencies struct {
	count    int
	p50, p99 time.Duration
}

func (l latencies) String() string {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return fmt.Sprintf("%d puts, p50 %.2f ms, p99 %.2f ms", l.count, ms(l.p50), ms(l.p99))
}

// listBeside reads everything in a process of its own: a writer in the same one would wait for the reader's goroutines.
func listBeside(m *member.Member, rate int) (bytes int, err error) {
	out, err := exec.Command(os.Args[0], "-fetch", m.Client, "-rate", fmt.Sprint(rate)).Output()
	if err == nil {
		_, err = fmt.Sscan(string(out), &bytes)
	}
	return bytes, err
}

// puts writes one key after the other on a connection of its own while something else happens.
func puts(m *member.Member, meanwhile func()) latencies {
	conn, err := member.Dial(m.Client)
	fail(err)
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	done := make(chan struct{})
	go func() {
		meanwhile()
		close(done)
	}()
	var took []time.Duration
	for n := 0; ; n++ {
		select {
		case <-done:
			sort.Slice(took, func(a, b int) bool { return took[a] < took[b] })
			return latencies{len(took), took[len(took)/2], took[len(took)*99/100]}
		default:
		}
		start := time.Now()
		_, err := kv.Put(context.Background(), &pb.PutRequest{Key: fmt.Appendf(nil, "put/%d", n%100), Value: make([]byte, 256)})
		fail(err)
		took = append(took, time.Since(start))
		time.Sleep(time.Millisecond)
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "million:", err)
		os.Exit(1)
	}
}
