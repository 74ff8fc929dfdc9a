// Catchup cuts the third of three members off under load until its leader's log no longer reaches back to it, and looks whether
// it has everything again once it is back: the leader has to send it a snapshot. The other two are of one server, the third may be
// of another. Nothing that was acknowledged may be lost, HashKV must be the same on all, a watcher of the third member that was
// stopped must hear of every change, and a leader that is Kevel may not take much more memory.
//
//	go run ./catchup -server PATH -third PATH -rounds 3
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	callWithin  = 10 * time.Second
	agreeWithin = 90 * time.Second
	givenUp     = 8 * time.Second
	writers     = 8
)

type side struct {
	*member.Member
	conn *grpc.ClientConn
}

type trial struct {
	sides    []*side
	next     atomic.Int64
	lock     sync.Mutex
	expected map[string]string
	keys     int
	bytes    int
}

func main() {
	server := flag.String("server", "", "the binary of two members, one of which leads")
	third := flag.String("third", "", "the binary of the member that is cut off (default: the same)")
	rounds := flag.Int("rounds", 3, "how often to cut it off: killed, stopped, and killed while it catches up, in turn")
	puts := flag.Int("puts", 6000, "puts while it is cut off")
	keys := flag.Int("keys", 3000, "keys that there are")
	size := flag.Int("bytes", 1024, "length of a value")
	anon := flag.Int("anon", 64<<10, "KiB by which the leaders' anonymous memory may grow while they send; 0 for any")
	pause := flag.Duration("pause", 0, "time before each round: a leader lets little of its log go for 30 s behind a snapshot")
	keep := flag.Bool("keep", false, "keep the members' folders")
	flag.Parse()
	if *third == "" {
		*third = *server
	}

	dir, err := os.MkdirTemp("", "catchup-")
	fail(err)
	t := &trial{expected: map[string]string{}, keys: *keys, bytes: *size}
	for n, binary := range []string{*server, *server, *third} {
		m, err := member.New(binary, fmt.Sprintf("m%d", n+1), dir, "--log-level=info", "--snapshot-count=100", "--snapshot-catchup-entries=10")
		fail(err)
		all = append(all, m)
		conn, err := member.Dial(m.Client, grpc.WithConnectParams(member.Quickly))
		fail(err)
		t.sides = append(t.sides, &side{m, conn})
	}
	defer killAll()
	fail(member.Found(all...))
	lagging := t.sides[2]
	t.load(t.sides, *puts/10)
	for round := range *rounds {
		time.Sleep(*pause)
		sent := t.sent()
		var heard func() error
		how := []string{"killed", "stopped", "killed again"}[round%3]
		if how == "stopped" {
			heard = t.watch(lagging)
			fail(syscall.Kill(lagging.Pid(), syscall.SIGSTOP))
		} else {
			lagging.Kill()
		}
		t.first(t.sides[:2])
		t.load(t.sides[:2], *puts)
		if how == "stopped" {
			// What was on its way to it when it stopped waits until the connection is given up.
			time.Sleep(givenUp)
			t.load(t.sides[:2], *puts)
		}
		if round%2 == 0 && how != "stopped" {
			t.compact(t.sides[0])
		}
		before := t.anon()
		var peaks []func() member.Resident
		for _, s := range t.sides[:2] {
			peaks = append(peaks, s.WatchMemory())
		}
		begin := time.Now()
		if how == "stopped" {
			fail(syscall.Kill(lagging.Pid(), syscall.SIGCONT))
		} else {
			fail(lagging.Launch())
		}
		if how == "killed again" {
			time.Sleep(time.Duration(200+round*150) * time.Millisecond)
			lagging.Kill()
			fail(lagging.Launch())
		}
		ready, loading := make(chan struct{}), make(chan struct{})
		go func() {
			t.load(t.sides[:2], *puts/10)
			t.trickle(t.sides[0], ready)
			close(loading)
		}()
		fail(lagging.Ready())
		close(ready)
		lagging.conn.ResetConnectBackoff()
		<-loading
		hash, revision := t.agree()
		took := time.Since(begin)
		grown := 0
		for _, peak := range peaks {
			grown = max(grown, peak().Anon)
		}
		grown -= before
		if t.sent() == sent {
			fail(fmt.Errorf("round %d: nobody has sent a snapshot: the log sufficed", round+1))
		}
		if heard != nil {
			fail(heard())
		}
		t.check()
		fmt.Printf("round %d: %s, agreed %v after it was back: HashKV %08x at revision %d; the leaders' anonymous memory grew by %d KiB\n",
			round+1, how, took.Round(time.Millisecond), hash, revision, grown)
		if *anon > 0 && grown > *anon {
			fail(fmt.Errorf("the leaders' anonymous memory grew by %d KiB", grown))
		}
	}
	for _, s := range t.sides {
		s.Kill()
	}
	for _, s := range t.sides {
		fail(s.Launch())
	}
	for _, s := range t.sides {
		fail(s.Ready())
		s.conn.ResetConnectBackoff()
	}
	t.agree()
	t.check()
	if !*keep {
		fail(os.RemoveAll(dir))
	}
	fmt.Printf("ok: %d puts and deletions, none lost\n", t.next.Load())
}

// load puts and deletes through members in turn, from several clients, each with keys of its own.
func (t *trial) load(sides []*side, puts int) {
	var wg sync.WaitGroup
	for w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := range puts / writers {
				fail(t.write(sides[(n+w)%len(sides)], w))
			}
		}()
	}
	wg.Wait()
}

// trickle puts now and then until it is told to end. An etcd that has taken a snapshot counts it as applied with the next entry
// only, and refuses all proposals until then if the snapshot is 5000 entries ahead.
func (t *trial) trickle(s *side, end chan struct{}) {
	for {
		select {
		case <-end:
			return
		case <-time.After(100 * time.Millisecond):
			fail(t.write(s, 0))
		}
	}
}

func (t *trial) write(s *side, writer int) error {
	number := t.next.Add(1)
	key := fmt.Sprintf("key/%d/%05d", writer, int(number)*7919%(t.keys/writers))
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	kv := pb.NewKVClient(s.conn)
	if number%10 == 0 {
		if _, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)}); err != nil {
			return fmt.Errorf("delete through %s: %w", s.Name, err)
		}
		t.lock.Lock()
		delete(t.expected, key)
		t.lock.Unlock()
		return nil
	}
	value := append([]byte(fmt.Sprintf("%d/", number)), bytes.Repeat([]byte("v"), t.bytes)...)
	if _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: value}); err != nil {
		return fmt.Errorf("put through %s: %w", s.Name, err)
	}
	t.lock.Lock()
	t.expected[key] = string(value)
	t.lock.Unlock()
	return nil
}

// first repeats a put through each member until it is acknowledged: there may be no leader yet.
func (t *trial) first(sides []*side) {
	deadline := time.Now().Add(30 * time.Second)
	for _, s := range sides {
		for {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_, err := pb.NewKVClient(s.conn).Put(ctx, &pb.PutRequest{Key: []byte("first"), Value: []byte(s.Name)})
			cancel()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				fail(fmt.Errorf("no put through %s was acknowledged: %w", s.Name, err))
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

func (t *trial) compact(s *side) {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	newest, err := pb.NewKVClient(s.conn).Range(ctx, &pb.RangeRequest{Key: []byte{0}, CountOnly: true})
	fail(err)
	_, err = pb.NewKVClient(s.conn).Compact(ctx, &pb.CompactionRequest{Revision: newest.Header.Revision - 100})
	fail(err)
}

// watch follows the third member. The function returned waits for everything up to the newest change, and fails when a revision
// is missing.
func (t *trial) watch(s *side) func() error {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := pb.NewWatchClient(s.conn).Watch(ctx)
	fail(err)
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	fail(stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}))
	created, err := stream.Recv()
	fail(err)
	last := created.Header.Revision
	return func() error {
		defer cancel()
		newest, err := pb.NewKVClient(s.conn).Range(ctx, &pb.RangeRequest{Key: []byte{0}, CountOnly: true})
		if err != nil {
			return err
		}
		time.AfterFunc(agreeWithin, cancel)
		for last < newest.Header.Revision {
			got, err := stream.Recv()
			if err != nil {
				return fmt.Errorf("the watch ended behind revision %d of %d: %w", last, newest.Header.Revision, err)
			}
			if got.Canceled {
				return fmt.Errorf("the watch was canceled behind revision %d: %v", last, got)
			}
			for _, event := range got.Events {
				if event.Kv.ModRevision != last+1 {
					return fmt.Errorf("the watch hears of revision %d behind %d", event.Kv.ModRevision, last)
				}
				last = event.Kv.ModRevision
			}
		}
		return nil
	}
}

// anon is the most anonymous memory of the first two members, in KiB.
func (t *trial) anon() int {
	return max(t.sides[0].Memory().Anon, t.sides[1].Memory().Anon)
}

// sent counts the snapshots that the first two members have begun to send, by their logs: one that is taken may be answered to
// nobody, where the member is killed again.
func (t *trial) sent() int {
	count := 0
	for _, s := range t.sides[:2] {
		log, err := os.ReadFile(s.Log())
		fail(err)
		count += bytes.Count(log, []byte(`"sending database snapshot"`))
	}
	return count
}

// check reads everything through each member, linearizably.
func (t *trial) check() {
	for _, s := range t.sides {
		ctx, cancel := context.WithTimeout(context.Background(), callWithin)
		got, err := pb.NewKVClient(s.conn).Range(ctx, &pb.RangeRequest{Key: []byte("key/"), RangeEnd: []byte("key0")})
		cancel()
		if err != nil {
			fail(fmt.Errorf("range through %s: %w", s.Name, err))
		}
		if len(got.Kvs) != len(t.expected) {
			fail(fmt.Errorf("%s has %d keys, %d were acknowledged", s.Name, len(got.Kvs), len(t.expected)))
		}
		for _, kv := range got.Kvs {
			if t.expected[string(kv.Key)] != string(kv.Value) {
				fail(fmt.Errorf("%s has another value of %s than was acknowledged", s.Name, kv.Key))
			}
		}
	}
}

// agree waits until all members have the same store, by HashKV at the newest revision.
func (t *trial) agree() (uint32, int64) {
	hash, revision, err := member.Agree(t.conns(), agreeWithin)
	fail(err)
	return hash, revision
}

// conns are the connections to all members.
func (t *trial) conns() []*grpc.ClientConn {
	var conns []*grpc.ClientConn
	for _, s := range t.sides {
		conns = append(conns, s.conn)
	}
	return conns
}

// all are the members, which do not outlive this program.
var all []*member.Member

func killAll() {
	for _, m := range all {
		m.Kill()
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		killAll()
		os.Exit(1)
	}
}
