// Cluster starts three members on loopback and looks whether they are one store: what is written through any of them is read
// through all of them, leases live through all of them, the cluster goes on when its leader is killed, and a member that comes
// back has what the others have, by HashKV.
//
//	go run ./cluster -server PATH -rounds 3
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	callWithin  = 10 * time.Second
	agreeWithin = 20 * time.Second
)

// side is one member, and a client's way to it.
type side struct {
	*member.Member
	conn *grpc.ClientConn
}

// trial is the cluster, and all that was acknowledged.
type trial struct {
	sides    []*side
	puts     int
	expected map[string]string
}

func main() {
	server := flag.String("server", "", "the server's binary")
	members := flag.Int("members", 3, "how many members")
	rounds := flag.Int("rounds", 3, "how often to kill the leader")
	puts := flag.Int("puts", 100, "puts through each member between two kills")
	keep := flag.Bool("keep", false, "keep the members' folders")
	flag.Parse()

	dir, err := os.MkdirTemp("", "cluster-")
	fail(err)
	t := &trial{expected: map[string]string{}}
	var all []*member.Member
	for n := range *members {
		m, err := member.New(*server, fmt.Sprintf("m%d", n+1), dir)
		fail(err)
		all = append(all, m)
		conn, err := member.Dial(m.Client, grpc.WithConnectParams(member.Quickly))
		fail(err)
		t.sides = append(t.sides, &side{m, conn})
	}
	member.Together(all...)
	defer func() {
		for _, m := range all {
			m.Kill()
		}
	}()

	t.start("founded", t.sides...)
	t.write(*puts)
	t.watch()
	t.leases()
	for range *rounds {
		t.stopLeader()
	}
	for round := range *rounds {
		leader := t.leader()
		leader.Kill()
		killed := time.Now()
		rest := t.without(leader)
		t.first(rest)
		fmt.Printf("round %d: killed %s, the next put was acknowledged after %v\n", round+1, leader.Name, time.Since(killed).Round(time.Millisecond))
		t.writeThrough(rest, *puts)
		t.start("restarted", leader)
		t.write(*puts / 10)
		t.agree()
	}
	for _, how := range []string{"stopped", "killed"} {
		for _, s := range t.sides {
			if how == "stopped" {
				s.Stop()
			} else {
				s.Kill()
			}
		}
		t.start("all were "+how+" and started", t.sides...)
		t.write(*puts / 10)
		t.agree()
	}
	if !*keep {
		fail(os.RemoveAll(dir))
	}
	fmt.Printf("ok: %d puts through %d members, none lost\n", t.puts, *members)
}

// start launches members together, and waits until each answers a linearizable read.
func (t *trial) start(what string, sides ...*side) {
	begin := time.Now()
	for _, s := range sides {
		fail(s.Launch())
	}
	for _, s := range sides {
		fail(s.Ready())
		s.conn.ResetConnectBackoff()
	}
	fmt.Printf("%s: %d ready after %v\n", what, len(sides), time.Since(begin).Round(time.Millisecond))
}

// write puts through all members, and reads everything back through all of them.
func (t *trial) write(puts int) { t.writeThrough(t.sides, puts) }

func (t *trial) writeThrough(sides []*side, puts int) {
	for range puts {
		for _, s := range sides {
			fail(t.put(s, callWithin))
		}
	}
	for _, s := range sides {
		t.check(s)
	}
}

// put writes one more key through a member.
func (t *trial) put(s *side, within time.Duration) error {
	key, value := fmt.Sprintf("key/%06d", t.puts), fmt.Sprintf("%s/%d", s.Name, t.puts)
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	_, err := pb.NewKVClient(s.conn).Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	if err != nil {
		return fmt.Errorf("put through %s: %w", s.Name, err)
	}
	t.puts++
	t.expected[key] = value
	return nil
}

// stopLeader has the leader stop in order, while clients watch on it and others put through another member. Whoever stops hands
// leadership over, so no put fails.
func (t *trial) stopLeader() {
	leader := t.leader()
	rest := t.without(leader)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range 20 {
		stream, err := pb.NewWatchClient(leader.conn).Watch(ctx)
		fail(err)
		create := &pb.WatchCreateRequest{Key: []byte("key/"), RangeEnd: []byte("key0")}
		fail(stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}))
		_, err = stream.Recv()
		fail(err)
	}
	began := time.Now()
	gone := make(chan time.Duration)
	go func() {
		leader.Stop()
		gone <- time.Since(began)
	}()
	var gap time.Duration
	for last := began; time.Since(began) < 500*time.Millisecond; {
		fail(t.put(rest[0], callWithin))
		now := time.Now()
		gap, last = max(gap, now.Sub(last)), now
	}
	fmt.Printf("stopped %s, which led and had watchers: it had ended after %v, and the longest time without a put was %v\n", leader.Name, (<-gone).Round(time.Millisecond), gap.Round(time.Millisecond))
	t.start("restarted", leader)
	t.agree()
}

// first repeats a put through one member until it is acknowledged. The key and the value are the same each time, so an attempt
// without an answer does no harm.
func (t *trial) first(sides []*side) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := t.put(sides[0], time.Second)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			fail(fmt.Errorf("no put was acknowledged: %w", err))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// check reads everything through one member, linearizably.
func (t *trial) check(s *side) {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	got, err := pb.NewKVClient(s.conn).Range(ctx, &pb.RangeRequest{Key: []byte("key/"), RangeEnd: []byte("key0")})
	if err != nil {
		fail(fmt.Errorf("range through %s: %w", s.Name, err))
	}
	if len(got.Kvs) != len(t.expected) {
		fail(fmt.Errorf("%s has %d keys, %d were acknowledged", s.Name, len(got.Kvs), len(t.expected)))
	}
	for _, kv := range got.Kvs {
		if t.expected[string(kv.Key)] != string(kv.Value) {
			fail(fmt.Errorf("%s has %s=%s, acknowledged was %q", s.Name, kv.Key, kv.Value, t.expected[string(kv.Key)]))
		}
	}
}

// watch looks whether a watcher on each member hears of puts through all of them.
func (t *trial) watch() {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	var streams []pb.Watch_WatchClient
	for _, s := range t.sides {
		stream, err := pb.NewWatchClient(s.conn).Watch(ctx)
		fail(err)
		create := &pb.WatchCreateRequest{Key: []byte("key/"), RangeEnd: []byte("key0")}
		fail(stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}))
		created, err := stream.Recv()
		fail(err)
		if !created.Created {
			fail(fmt.Errorf("%s did not create a watch: %v", s.Name, created))
		}
		streams = append(streams, stream)
	}
	for range 10 {
		for _, s := range t.sides {
			fail(t.put(s, callWithin))
		}
	}
	for n, stream := range streams {
		for events := 0; events < 10*len(t.sides); {
			got, err := stream.Recv()
			if err != nil {
				fail(fmt.Errorf("%s: the watch ended behind %d events: %w", t.sides[n].Name, events, err))
			}
			events += len(got.Events)
		}
	}
	fmt.Printf("watched: %d events on each member\n", 10*len(t.sides))
}

// leases looks whether each member grants, renews and revokes, and tells what is left.
func (t *trial) leases() {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	for n, s := range t.sides {
		other := t.sides[(n+1)%len(t.sides)]
		lease := pb.NewLeaseClient(s.conn)
		granted, err := lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 600})
		fail(err)
		stream, err := pb.NewLeaseClient(other.conn).LeaseKeepAlive(ctx)
		fail(err)
		fail(stream.Send(&pb.LeaseKeepAliveRequest{ID: granted.ID}))
		kept, err := stream.Recv()
		if err != nil || kept.TTL != 600 {
			fail(fmt.Errorf("renewed through %s: %v %w", other.Name, kept, err))
		}
		left, err := lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: granted.ID})
		if err != nil || left.GrantedTTL != 600 || left.TTL < 590 {
			fail(fmt.Errorf("time to live through %s: %v %w", s.Name, left, err))
		}
		_, err = pb.NewLeaseClient(other.conn).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: granted.ID})
		fail(err)
		gone, err := lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: granted.ID})
		if err != nil || gone.TTL != -1 {
			fail(fmt.Errorf("time to live of a lease that is gone, through %s: %v %w", s.Name, gone, err))
		}
	}
	fmt.Println("leases: granted, renewed, asked for and revoked through each member")
}

// leader is the member that all take for the leader.
func (t *trial) leader() *side {
	number, err := member.Leader(t.conns(), agreeWithin)
	fail(err)
	return t.sides[number]
}

func (t *trial) without(gone *side) []*side {
	var rest []*side
	for _, s := range t.sides {
		if s != gone {
			rest = append(rest, s)
		}
	}
	return rest
}

// agree waits until all members have the same store, by HashKV at the newest revision.
func (t *trial) agree() {
	hash, revision, err := member.Agree(t.conns(), agreeWithin)
	fail(err)
	fmt.Printf("agreed: HashKV %08x at revision %d on all members\n", hash, revision)
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
