// Older has Kevel join a cluster of an older etcd, one minor release apart, and takes that etcd's members for followers of Kevel:
// one that lags takes a snapshot of Kevel and starts again on it, another one is added and learns everything by one, and both
// apply the changes of members that follow. Then the members of Kevel go again. Nothing that was acknowledged may be lost, and
// HashKV must be the same on all members at every step.
//
//	go run ./older -etcd ETCD36 -kevel KEVEL
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

const (
	callWithin   = 10 * time.Second
	changeWithin = 60 * time.Second
	agreeWithin  = 60 * time.Second
	endWithin    = 20 * time.Second
)

// side is one member and a client's way to it.
type side struct {
	*member.Member
	conn *grpc.ClientConn
	id   uint64
}

type trial struct {
	dir   string
	sides []*side
	made  int
	puts  int
	all   []*side
}

func main() {
	etcd := flag.String("etcd", "", "the older etcd's binary")
	kevel := flag.String("kevel", "", "Kevel's binary")
	puts := flag.Int("puts", 3000, "puts while a member is cut off")
	keep := flag.Bool("keep", false, "keep the members' folders")
	flag.Parse()

	dir, err := os.MkdirTemp("", "older-")
	fail(err)
	t := &trial{dir: dir}
	defer t.killAll()
	failing = t.killAll
	var founders []*member.Member
	for range 3 {
		s := t.lay(*etcd)
		t.sides, founders = append(t.sides, s), append(founders, s.Member)
	}
	fail(member.Found(founders...))
	for _, s := range t.sides {
		s.id = t.status(s).Header.MemberId
	}
	t.put(100)
	version := t.status(t.sides[0]).Version
	for range 2 {
		t.grow(*kevel)
		t.shrink(t.sides[0])
	}
	// The last of the older members, and two of Kevel.
	older, newer := t.sides[0], t.sides[1:]
	if got := t.status(newer[0]).StorageVersion; !strings.HasPrefix(version, strings.TrimSuffix(got, ".0")) || got == "" {
		fail(fmt.Errorf("Kevel says that its storage is of %q in a cluster of %s", got, version))
	}
	t.lead(newer[0])
	fmt.Printf("%s follows Kevel\n", version)

	sent := t.sent()
	older.Kill()
	t.sides = newer
	t.put(*puts)
	t.sides = append(newer, older)
	fail(older.Start())
	older.conn.ResetConnectBackoff()
	t.agree("the member that was cut off is back")
	if t.sent() == sent {
		fail(fmt.Errorf("nobody has sent a snapshot: the log sufficed"))
	}
	older.Stop()
	fail(older.Start())
	older.conn.ResetConnectBackoff()
	t.agree("it has started again")

	sent = t.sent()
	added := t.grow(*etcd)
	if t.sent() == sent {
		fail(fmt.Errorf("nobody has sent a snapshot to the new member: the log sufficed"))
	}
	added.Kill()
	fail(added.Start())
	added.conn.ResetConnectBackoff()
	t.agree("the new one has started again")
	for _, s := range newer {
		t.shrink(s)
	}
	older.Stop()
	fail(older.Start())
	older.conn.ResetConnectBackoff()
	t.agree("the older ones are among themselves")
	t.check()
	t.killAll()
	if !*keep {
		fail(os.RemoveAll(dir))
	}
	fmt.Printf("ok: %d puts, none lost\n", t.puts)
}

// lay makes the next member.
func (t *trial) lay(binary string) *side {
	m, err := member.New(binary, fmt.Sprintf("m%d", t.made+1), t.dir, "--log-level=info", "--snapshot-count=100", "--snapshot-catchup-entries=10")
	fail(err)
	t.made++
	conn, err := member.Dial(m.Client, grpc.WithConnectParams(member.Quickly))
	fail(err)
	s := &side{Member: m, conn: conn}
	t.all = append(t.all, s)
	return s
}

// grow adds a member of this binary.
func (t *trial) grow(binary string) *side {
	s := t.lay(binary)
	added := retried(func(ctx context.Context) (*pb.MemberAddResponse, error) {
		return pb.NewClusterClient(t.sides[0].conn).MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://" + s.Peer}})
	})
	s.id = added.Member.ID
	var others []*member.Member
	for _, o := range t.sides {
		others = append(others, o.Member)
	}
	s.Member.Join(others...)
	fail(s.Start())
	s.conn.ResetConnectBackoff()
	t.sides = append(t.sides, s)
	t.put(200)
	t.agree(fmt.Sprintf("%s has joined", s.Name))
	return s
}

// shrink removes a member, which ends.
func (t *trial) shrink(gone *side) {
	var rest []*side
	for _, s := range t.sides {
		if s != gone {
			rest = append(rest, s)
		}
	}
	retried(func(ctx context.Context) (*pb.MemberRemoveResponse, error) {
		return pb.NewClusterClient(rest[len(rest)-1].conn).MemberRemove(ctx, &pb.MemberRemoveRequest{ID: gone.id})
	})
	t.sides = rest
	if _, ended := gone.Ended(endWithin); !ended {
		fail(fmt.Errorf("%s was removed, and runs on, see %s", gone.Name, gone.Log()))
	}
	t.put(200)
	t.agree(fmt.Sprintf("%s was removed", gone.Name))
}

// lead has a member lead.
func (t *trial) lead(s *side) {
	leader, err := member.Leader(t.conns(), changeWithin)
	fail(err)
	if t.sides[leader] == s {
		return
	}
	retried(func(ctx context.Context) (*pb.MoveLeaderResponse, error) {
		return pb.NewMaintenanceClient(t.sides[leader].conn).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: s.id})
	})
}

// put puts keys through the members in turn. Each is repeated until it is acknowledged: there may be no leader.
func (t *trial) put(count int) {
	for range count {
		t.puts++
		key, s := fmt.Appendf(nil, "key/%07d", t.puts), t.sides[t.puts%len(t.sides)]
		retried(func(ctx context.Context) (*pb.PutResponse, error) {
			return pb.NewKVClient(s.conn).Put(ctx, &pb.PutRequest{Key: key, Value: bytes.Repeat(key, 20)})
		})
	}
}

// check reads everything through each member, linearizably.
func (t *trial) check() {
	for _, s := range t.sides {
		got := retried(func(ctx context.Context) (*pb.RangeResponse, error) {
			return pb.NewKVClient(s.conn).Range(ctx, &pb.RangeRequest{Key: []byte("key/"), RangeEnd: []byte("key0")})
		})
		if len(got.Kvs) != t.puts {
			fail(fmt.Errorf("%s has %d keys, %d were put", s.Name, len(got.Kvs), t.puts))
		}
		for n, kv := range got.Kvs {
			if want := fmt.Appendf(nil, "key/%07d", n+1); !bytes.Equal(kv.Key, want) || !bytes.Equal(kv.Value, bytes.Repeat(want, 20)) {
				fail(fmt.Errorf("%s has %q in the place of %q", s.Name, kv.Key, want))
			}
		}
	}
}

// sent counts the snapshots that members of any kind have sent, by their logs.
func (t *trial) sent() int {
	count := 0
	for _, s := range t.all {
		log, err := os.ReadFile(s.Log())
		fail(err)
		count += bytes.Count(log, []byte(`"sent database snapshot"`))
	}
	return count
}

func (t *trial) agree(what string) {
	hash, revision, err := member.Agree(t.conns(), agreeWithin)
	fail(err)
	fmt.Printf("%s, agreed: HashKV %08x at revision %d of %d members\n", what, hash, revision, len(t.sides))
}

func (t *trial) conns() (conns []*grpc.ClientConn) {
	for _, s := range t.sides {
		conns = append(conns, s.conn)
	}
	return conns
}

func (t *trial) status(s *side) *pb.StatusResponse {
	return retried(func(ctx context.Context) (*pb.StatusResponse, error) {
		return pb.NewMaintenanceClient(s.conn).Status(ctx, &pb.StatusRequest{})
	})
}

func (t *trial) killAll() {
	for _, s := range t.all {
		s.Kill()
	}
}

// retried repeats a call while the cluster is not ready for it.
func retried[T any](call func(ctx context.Context) (T, error)) T {
	deadline := time.Now().Add(changeWithin)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), callWithin)
		done, err := call(ctx)
		cancel()
		if err == nil {
			return done
		}
		if time.Now().After(deadline) {
			fail(fmt.Errorf("a call fails for a minute: %w (%v)", err, status.Code(err)))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// failing ends what runs when the judge fails.
var failing = func() {}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		failing()
		os.Exit(1)
	}
}
