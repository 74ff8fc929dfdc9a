// Force loses two of three members for good, has the third go on alone by --force-new-cluster, and grows the cluster to three
// again. What was acknowledged before must be there, on the member that goes on alone and on those that join it: also what the
// member acknowledged right before it was killed, and also where it keeps the flag and is killed again and again.
//
// etcd 3.7.3 drops what its log does not know to be committed, so it may fail here.
//
//	go run ./force -server PATH
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	callWithin   = 10 * time.Second
	changeWithin = 30 * time.Second
	agreeWithin  = 30 * time.Second
	puts         = 2000
	// writers put at a time when the members are killed, which is after so many acknowledged puts.
	writers   = 8
	killAfter = 200
	// kills of a member that keeps the flag.
	kills = 5
)

// side is one member and a client's way to it.
type side struct {
	*member.Member
	conn *grpc.ClientConn
}

type trial struct {
	server, dir string
	sides       []*side
	acked       map[string]string
	made        int
}

func main() {
	server := flag.String("server", "", "the server's binary")
	rounds := flag.Int("rounds", 3, "how often members are lost: each of the three is the one that is left once")
	keep := flag.Bool("keep", false, "keep the members' folders")
	flag.Parse()

	dir, err := os.MkdirTemp("", "force-")
	fail(err)
	t := &trial{server: *server, dir: dir, acked: map[string]string{}}
	var founders []*member.Member
	for range 3 {
		s := t.lay()
		t.sides, founders = append(t.sides, s), append(founders, s.Member)
	}
	member.Together(founders...)
	defer func() {
		for _, s := range t.sides {
			s.Kill()
		}
	}()
	for _, m := range founders {
		fail(m.Launch())
	}
	for _, m := range founders {
		fail(m.Ready())
	}
	for round := range *rounds {
		t.lose(round)
	}
	if !*keep {
		fail(os.RemoveAll(dir))
	}
	fmt.Printf("ok: %d puts acknowledged and none lost\n", len(t.acked))
}

// lay makes the next member.
func (t *trial) lay() *side {
	t.made++
	m, err := member.New(t.server, fmt.Sprintf("m%d", t.made), t.dir, "--log-level=info")
	fail(err)
	conn, err := member.Dial(m.Client, grpc.WithConnectParams(member.Quickly))
	fail(err)
	return &side{m, conn}
}

// lose kills all members, of which one comes back, and then others join it.
func (t *trial) lose(round int) {
	for n := range puts {
		t.put(t.sides[n%len(t.sides)], fmt.Sprintf("key/%d/%05d", round, n))
	}
	t.agree()
	left := t.sides[round%len(t.sides)]
	t.burst(left, round, killAfter, func() {
		// All at once, or the one that is left last.
		if round%2 == 0 {
			left.Kill()
		}
		for _, s := range t.sides {
			if s != left {
				s.Kill()
			}
		}
	})
	if round%2 == 1 {
		// A put that nobody else can take is not acknowledged. Whether it is there later is open.
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		if _, err := pb.NewKVClient(left.conn).Put(ctx, &pb.PutRequest{Key: []byte("alone"), Value: []byte("alone")}); err == nil {
			fail(fmt.Errorf("%s acknowledges a put without a quorum", left.Name))
		}
		cancel()
		left.Kill()
	}
	began := time.Now()
	left.Flags("--force-new-cluster=true")
	fail(left.Start())
	left.conn.ResetConnectBackoff()
	members := t.members(left)
	if len(members) != 1 || members[0].Name != left.Name {
		fail(fmt.Errorf("%s goes on alone, and says that the members are %v", left.Name, members))
	}
	t.check(left)
	t.said(left, `"forcing restart member"`)
	fmt.Printf("%s goes on alone after %v\n", left.Name, time.Since(began).Round(time.Millisecond))
	for n := range kills {
		t.put(left, fmt.Sprintf("forced/%d/%d", round, n))
		// The flag is still there, and the log does not know yet that the put is committed.
		left.Kill()
		fail(left.Start())
		left.conn.ResetConnectBackoff()
		t.check(left)
	}
	t.burst(left, round+1000, killAfter, left.Kill)
	// Once it was forced, it starts as any other.
	left.Flags("--force-new-cluster=false")
	fail(left.Start())
	left.conn.ResetConnectBackoff()
	t.check(left)
	t.sides = []*side{left}
	for len(t.sides) < 3 {
		t.grow()
	}
	hash, revision := t.agree()
	for _, s := range t.sides {
		t.check(s)
	}
	fmt.Printf("grown to three again: HashKV %08x at revision %d\n", hash, revision)
}

// grow adds a member and starts it.
func (t *trial) grow() {
	s := t.lay()
	request := &pb.MemberAddRequest{PeerURLs: []string{"http://" + s.Peer}}
	deadline := time.Now().Add(changeWithin)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), callWithin)
		_, err := pb.NewClusterClient(t.sides[0].conn).MemberAdd(ctx, request, grpc.WaitForReady(true))
		cancel()
		if err == nil {
			break
		}
		// A cluster that has just changed has to be healthy for five seconds.
		if time.Now().After(deadline) {
			fail(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	var others []*member.Member
	for _, o := range t.sides {
		others = append(others, o.Member)
	}
	s.Member.Join(others...)
	fail(s.Start())
	t.sides = append(t.sides, s)
}

func (t *trial) put(s *side, key string) {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	_, err := pb.NewKVClient(s.conn).Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(key)}, grpc.WaitForReady(true))
	fail(err)
	t.acked[key] = key
}

// burst has some writers put through a member until it is killed, or the others are, which is amid the puts. What the member
// acknowledged it has in its log, since it answers what it has applied.
func (t *trial) burst(s *side, round, after int, kill func()) {
	var lock sync.Mutex
	var all sync.WaitGroup
	begun := map[string]string{}
	enough := make(chan struct{})
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	for w := range writers {
		all.Add(1)
		go func() {
			defer all.Done()
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("burst/%d/%d/%05d", round, w, n)
				if _, err := pb.NewKVClient(s.conn).Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(key)}); err != nil {
					return
				}
				lock.Lock()
				begun[key] = key
				if len(begun) == after {
					close(enough)
				}
				lock.Unlock()
			}
		}()
	}
	select {
	case <-enough:
	case <-ctx.Done():
		fail(fmt.Errorf("%s acknowledges fewer than %d puts", s.Name, after))
	}
	kill()
	// What is still under way is answered, or nobody answers it any more.
	time.Sleep(50 * time.Millisecond)
	cancel()
	all.Wait()
	for key := range begun {
		t.acked[key] = key
	}
}

func (t *trial) members(s *side) []*pb.Member {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	list, err := pb.NewClusterClient(s.conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: true}, grpc.WaitForReady(true))
	fail(err)
	return list.Members
}

// check reads everything through a member, linearizably.
func (t *trial) check(s *side) {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	got, err := pb.NewKVClient(s.conn).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}, grpc.WaitForReady(true))
	fail(err)
	found := map[string]string{}
	for _, kv := range got.Kvs {
		found[string(kv.Key)] = string(kv.Value)
	}
	for key, value := range t.acked {
		if found[key] != value {
			fail(fmt.Errorf("%s was acknowledged, and %s has %q", key, s.Name, found[key]))
		}
	}
}

// said looks for a line in a member's log.
func (t *trial) said(s *side, line string) {
	log, err := os.ReadFile(s.Log())
	fail(err)
	if !strings.Contains(string(log), line) {
		fail(fmt.Errorf("%s does not say %s", s.Log(), line))
	}
}

func (t *trial) agree() (uint32, int64) {
	var conns []*grpc.ClientConn
	for _, s := range t.sides {
		conns = append(conns, s.conn)
	}
	hash, revision, err := member.Agree(conns, agreeWithin)
	fail(err)
	return hash, revision
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}
