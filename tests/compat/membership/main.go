// Membership grows a cluster from one member to five and shrinks it to one again, while puts go on through all of its members.
// It looks whether every acknowledged put is there at the end, whether the members agree by HashKV at every step, whether
// changes that must not be are refused in etcd's words, and whether a removed member ends by itself.
//
//	go run ./membership -server PATH
//	go run ./membership -server PATH -others ETCD    every second member is the other server
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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	callWithin   = 10 * time.Second
	changeWithin = 30 * time.Second
	agreeWithin  = 30 * time.Second
	endWithin    = 15 * time.Second
)

// side is one member, a client's way to it, and its id.
type side struct {
	*member.Member
	conn *grpc.ClientConn
	id   uint64
}

// trial is the cluster, and all that was acknowledged.
type trial struct {
	dir     string
	servers []string
	made    int
	sides   []*side

	writing sync.WaitGroup
	mutex   sync.Mutex
	stop    map[*side]chan struct{}
	acked   map[string]string
	failed  int
	last    time.Time
	gap     time.Duration
}

func main() {
	server := flag.String("server", "", "the server's binary")
	others := flag.String("others", "", "the binary of every second member; the server's where none is named")
	pause := flag.Duration("pause", 10*time.Millisecond, "time between two puts of one writer")
	keep := flag.Bool("keep", false, "keep the members' folders")
	flag.Parse()
	if *others == "" {
		*others = *server
	}

	dir, err := os.MkdirTemp("", "membership-")
	fail(err)
	t := &trial{dir: dir, servers: []string{*server, *others}, stop: map[*side]chan struct{}{}, acked: map[string]string{}}
	first := t.lay()
	member.Together(first.Member)
	fail(first.Start())
	first.id = t.status(first).Header.MemberId
	t.sides = []*side{first}
	t.begin(first, *pause)
	t.refusals()

	for n := 2; n <= 5; n++ {
		// The third and the fifth come as learners.
		joined := t.grow(n%2 == 1)
		t.begin(joined, *pause)
		t.agree()
	}
	t.moveLeader()
	for len(t.sides) > 1 {
		gone := t.leader()
		if len(t.sides)%2 == 0 {
			gone = t.follower()
		}
		t.shrink(gone)
		t.agree()
	}
	t.endAll()
	t.check(t.sides[0])
	t.sides[0].Kill()
	if !*keep {
		fail(os.RemoveAll(dir))
	}
	fmt.Printf("ok: %d puts acknowledged and none lost, %d failed, the longest time without one was %v\n", len(t.acked), t.failed, t.gap.Round(time.Millisecond))
}

// lay makes the next member.
func (t *trial) lay() *side {
	m, err := member.New(t.servers[t.made%2], fmt.Sprintf("m%d", t.made+1), t.dir)
	fail(err)
	t.made++
	conn, err := member.Dial(m.Client, grpc.WithConnectParams(member.Quickly))
	fail(err)
	return &side{Member: m, conn: conn}
}

// grow adds a member and starts it; one that comes as a learner gets its vote when it has caught up.
func (t *trial) grow(asLearner bool) *side {
	began := time.Now()
	s := t.lay()
	through := t.sides[len(t.sides)-1]
	request := &pb.MemberAddRequest{PeerURLs: []string{"http://" + s.Peer}, IsLearner: asLearner}
	added := retried(func(ctx context.Context) (*pb.MemberAddResponse, error) {
		return pb.NewClusterClient(through.conn).MemberAdd(ctx, request)
	})
	if got := len(added.Members); got != len(t.sides)+1 || added.Member.IsLearner != asLearner {
		fail(fmt.Errorf("added one to %d members, and the answer has %d: %v", len(t.sides), got, added))
	}
	s.id = added.Member.ID
	var others []*member.Member
	for _, o := range t.sides {
		others = append(others, o.Member)
	}
	s.Member.Join(others...)
	fail(s.Launch())
	if asLearner {
		t.learner(s)
		promoted := retried(func(ctx context.Context) (*pb.MemberPromoteResponse, error) {
			return pb.NewClusterClient(through.conn).MemberPromote(ctx, &pb.MemberPromoteRequest{ID: s.id})
		})
		for _, m := range promoted.Members {
			if m.IsLearner {
				fail(fmt.Errorf("promoted %x, and the answer says %v", s.id, promoted.Members))
			}
		}
		expect("a promotion of a voter", codes.FailedPrecondition, "etcdserver: can only promote a learner member", func(ctx context.Context) error {
			_, err := pb.NewClusterClient(through.conn).MemberPromote(ctx, &pb.MemberPromoteRequest{ID: s.id})
			return err
		})
	}
	fail(s.Ready())
	t.sides = append(t.sides, s)
	fmt.Printf("grown to %d after %v, as a learner first: %v\n", len(t.sides), time.Since(began).Round(time.Millisecond), asLearner)
	return s
}

// learner waits until a learner serves, and looks what it does not serve.
func (t *trial) learner(s *side) {
	kv := pb.NewKVClient(s.conn)
	retried(func(ctx context.Context) (*pb.RangeResponse, error) {
		s.conn.ResetConnectBackoff()
		return kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, CountOnly: true, Serializable: true})
	})
	const text = "etcdserver: rpc not supported for learner"
	expect("a linearizable read of a learner", codes.FailedPrecondition, text, func(ctx context.Context) error {
		_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}})
		return err
	})
	expect("a put through a learner", codes.FailedPrecondition, text, func(ctx context.Context) error {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k")})
		return err
	})
	expect("a list of members of a learner", codes.FailedPrecondition, text, func(ctx context.Context) error {
		_, err := pb.NewClusterClient(s.conn).MemberList(ctx, &pb.MemberListRequest{})
		return err
	})
	expect("a watch on a learner", codes.FailedPrecondition, text, func(ctx context.Context) error {
		stream, err := pb.NewWatchClient(s.conn).Watch(ctx)
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	})
	if !t.status(s).IsLearner {
		fail(fmt.Errorf("%s does not say that it is a learner", s.Name))
	}
	expect("a second learner", codes.FailedPrecondition, "etcdserver: too many learner members in cluster", func(ctx context.Context) error {
		return settled(func() error {
			_, err := pb.NewClusterClient(t.sides[0].conn).MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}, IsLearner: true})
			return err
		})
	})
}

// refusals are changes that a cluster of one does not make.
func (t *trial) refusals() {
	only := t.sides[0]
	cluster := pb.NewClusterClient(only.conn)
	add := func(urls ...string) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			_, err := cluster.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: urls})
			return err
		}
	}
	expect("no URL", codes.InvalidArgument, "etcdserver: given member URLs are invalid", add())
	expect("a bad URL", codes.InvalidArgument, "etcdserver: given member URLs are invalid", add("http://127.0.0.1:1", "nonsense"))
	expect("a URL twice", codes.FailedPrecondition, "etcdserver: Peer URLs already exists", add("http://"+only.Peer))
	expect("a stranger's removal", codes.NotFound, "etcdserver: member not found", func(ctx context.Context) error {
		_, err := cluster.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 7})
		return err
	})
	expect("the last one's removal", codes.Unknown, "etcdserver: re-configuration failed due to not enough started members", func(ctx context.Context) error {
		_, err := cluster.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: only.id})
		return err
	})
	expect("a stranger's move", codes.NotFound, "etcdserver: member not found", func(ctx context.Context) error {
		_, err := cluster.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: 7, PeerURLs: []string{"http://127.0.0.1:1"}})
		return err
	})
	expect("a stranger's promotion", codes.NotFound, "etcdserver: member not found", func(ctx context.Context) error {
		_, err := cluster.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: 7})
		return err
	})
	expect("leadership for a stranger", codes.FailedPrecondition, "etcdserver: bad leader transferee", func(ctx context.Context) error {
		_, err := pb.NewMaintenanceClient(only.conn).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: 7})
		return err
	})
}

// moveLeader hands leadership round.
func (t *trial) moveLeader() {
	for range 3 {
		leader := t.leader()
		var target *side
		for _, s := range t.sides {
			if s != leader {
				target = s
			}
		}
		expect("leadership moved by a follower", codes.FailedPrecondition, "etcdserver: not leader", func(ctx context.Context) error {
			_, err := pb.NewMaintenanceClient(target.conn).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: target.id})
			return err
		})
		ctx, cancel := context.WithTimeout(context.Background(), callWithin)
		began := time.Now()
		_, err := pb.NewMaintenanceClient(leader.conn).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: target.id})
		cancel()
		fail(err)
		fmt.Printf("leadership moved from %s to %s in %v\n", leader.Name, target.Name, time.Since(began).Round(time.Millisecond))
		if got := t.leader(); got != target {
			fail(fmt.Errorf("leadership was moved to %s, and %s leads", target.Name, got.Name))
		}
	}
}

// shrink removes a member through another one, and waits until it has ended.
func (t *trial) shrink(gone *side) {
	began := time.Now()
	t.end(gone)
	var rest []*side
	for _, s := range t.sides {
		if s != gone {
			rest = append(rest, s)
		}
	}
	through := rest[0]
	removed := retried(func(ctx context.Context) (*pb.MemberRemoveResponse, error) {
		return pb.NewClusterClient(through.conn).MemberRemove(ctx, &pb.MemberRemoveRequest{ID: gone.id})
	})
	if len(removed.Members) != len(rest) {
		fail(fmt.Errorf("removed one of %d, and the answer has %v", len(t.sides), removed.Members))
	}
	answered := time.Since(began)
	t.sides = rest
	expect("the same removal again", codes.NotFound, "etcdserver: member not found", func(ctx context.Context) error {
		return settled(func() error {
			_, err := pb.NewClusterClient(through.conn).MemberRemove(ctx, &pb.MemberRemoveRequest{ID: gone.id})
			return err
		})
	})
	code, ended := gone.Ended(endWithin)
	if !ended || code != 0 {
		fail(fmt.Errorf("%s was removed; it has ended: %v, with status %d, see %s", gone.Name, ended, code, gone.Log()))
	}
	fmt.Printf("shrunk to %d: the removal of %s was answered after %v, and it had ended after %v\n", len(rest), gone.Name, answered.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	fail(gone.Launch())
	if _, ended := gone.Ended(endWithin); !ended {
		fail(fmt.Errorf("%s was removed, and runs again, see %s", gone.Name, gone.Log()))
	}
}

// retried repeats a change of the members until it is made: a cluster that has just changed has to be healthy for five seconds.
func retried[T any](change func(ctx context.Context) (T, error)) T {
	deadline := time.Now().Add(changeWithin)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), callWithin)
		done, err := change(ctx)
		cancel()
		if err == nil {
			return done
		}
		text := status.Convert(err).Message()
		waits := strings.Contains(text, "unhealthy cluster") || strings.Contains(text, "not enough started") ||
			strings.Contains(text, "in sync with leader") || status.Code(err) == codes.Unavailable
		if !waits || time.Now().After(deadline) {
			fail(fmt.Errorf("a change of the members was refused: %w", err))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// settled repeats what a cluster refuses because it has just changed.
func settled(change func() error) error {
	deadline := time.Now().Add(changeWithin)
	for {
		err := change()
		if status.Code(err) != codes.Unavailable && !strings.Contains(status.Convert(err).Message(), "not enough started") || time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// expect looks whether a call is refused with a code and a text.
func expect(what string, code codes.Code, text string, call func(ctx context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), changeWithin)
	defer cancel()
	got := status.Convert(call(ctx))
	if got.Code() != code || got.Message() != text {
		fail(fmt.Errorf("%s: got %v %q, want %v %q", what, got.Code(), got.Message(), code, text))
	}
}

// begin has a writer put through a member until end.
func (t *trial) begin(s *side, pause time.Duration) {
	stop := make(chan struct{})
	t.stop[s] = stop
	t.writing.Add(1)
	go func() {
		defer t.writing.Done()
		kv := pb.NewKVClient(s.conn)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(pause):
			}
			key, value := fmt.Sprintf("key/%s/%06d", s.Name, n), fmt.Sprintf("%s/%d", s.Name, n)
			ctx, cancel := context.WithTimeout(context.Background(), callWithin)
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
			cancel()
			t.count(key, value, err)
		}
	}()
}

func (t *trial) count(key, value string, err error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if err != nil {
		if t.failed++; t.failed <= 5 {
			fmt.Printf("a put failed: %v\n", err)
		}
		return
	}
	t.acked[key] = value
	now := time.Now()
	if !t.last.IsZero() {
		t.gap = max(t.gap, now.Sub(t.last))
	}
	t.last = now
}

func (t *trial) end(s *side) {
	close(t.stop[s])
	delete(t.stop, s)
}

func (t *trial) endAll() {
	for s := range t.stop {
		t.end(s)
	}
	t.writing.Wait()
}

// check reads everything through a member, linearizably.
func (t *trial) check(s *side) {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	got, err := pb.NewKVClient(s.conn).Range(ctx, &pb.RangeRequest{Key: []byte("key/"), RangeEnd: []byte("key0")})
	fail(err)
	found := map[string]string{}
	for _, kv := range got.Kvs {
		found[string(kv.Key)] = string(kv.Value)
	}
	for key, value := range t.acked {
		if found[key] != value {
			fail(fmt.Errorf("%s=%s was acknowledged, and %s has %q", key, value, s.Name, found[key]))
		}
	}
}

func (t *trial) status(s *side) *pb.StatusResponse {
	return retried(func(ctx context.Context) (*pb.StatusResponse, error) {
		return pb.NewMaintenanceClient(s.conn).Status(ctx, &pb.StatusRequest{})
	})
}

// leader is the member that all take for the leader.
func (t *trial) leader() *side {
	deadline := time.Now().Add(agreeWithin)
	for {
		agreed := map[uint64]int{}
		for _, s := range t.sides {
			agreed[t.status(s).Leader]++
		}
		for _, s := range t.sides {
			if agreed[s.id] == len(t.sides) {
				return s
			}
		}
		if time.Now().After(deadline) {
			fail(fmt.Errorf("the members do not agree on a leader: %v", agreed))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (t *trial) follower() *side {
	leader := t.leader()
	for _, s := range t.sides {
		if s != leader {
			return s
		}
	}
	return leader
}

// agree waits until all members have the same store, by HashKV at the newest revision.
func (t *trial) agree() {
	hash, revision, err := member.Agree(t.conns(), agreeWithin)
	fail(err)
	fmt.Printf("agreed: HashKV %08x at revision %d on %d members\n", hash, revision, len(t.sides))
}

// conns are the connections to all members.
func (t *trial) conns() []*grpc.ClientConn {
	var conns []*grpc.ClientConn
	for _, s := range t.sides {
		conns = append(conns, s.conn)
	}
	return conns
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}
