// Failover kills the leader of three members again and again, and measures how long no put and no linearizable read succeeds,
// beside another server's cluster with the same flags, in turns.
//
//	go run ./failover -server KEVEL -other ETCD -rounds 50
//
// Puts and reads are begun every ten milliseconds through each member that is left, each with the time that clients have, so
// what is measured does not depend on when a single client tries again. Every put that was acknowledged must be there at the end.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	every       = 10 * time.Millisecond
	callWithin  = 5 * time.Second
	quietBefore = 300 * time.Millisecond
	giveUpAfter = 20 * time.Second
	// enough successes of a kind that began behind the kill mean that the cluster serves again.
	enough      = 20
	agreeWithin = 20 * time.Second
)

// cluster is one server's three members.
type cluster struct {
	name    string
	members []*member.Member
	conns   []*grpc.ClientConn

	lock  sync.Mutex
	acked map[string]bool
	next  int

	putGaps, readGaps []time.Duration
}

func main() {
	server := flag.String("server", "", "the server's binary")
	other := flag.String("other", "", "another server's binary, to compare with")
	rounds := flag.Int("rounds", 5, "how often to kill each leader")
	ratio := flag.Float64("ratio", 0, "fail when the server's median is longer than so much of the other's; 0 judges no times")
	level := flag.String("log-level", "warn", "what the servers log")
	keep := flag.Bool("keep", false, "keep the members' folders, with their logs")
	flag.Parse()

	dir, err := os.MkdirTemp("", "failover-")
	fail(err)
	clusters := []*cluster{found("server", *server, dir, *level)}
	if *other != "" {
		clusters = append(clusters, found("other", *other, dir, *level))
	}
	for round := range *rounds {
		for _, c := range clusters {
			puts, reads := c.round()
			fmt.Printf("%s round %d, %s: %v without a put, %v without a read\n", time.Now().Format("15:04:05"), round+1, c.name, puts.Round(time.Millisecond), reads.Round(time.Millisecond))
		}
	}
	for _, c := range clusters {
		c.check()
		fmt.Printf("%s: puts %s; reads %s; %d puts acknowledged, none lost\n", c.name, summary(c.putGaps), summary(c.readGaps), len(c.acked))
		for _, m := range c.members {
			m.Kill()
		}
	}
	if *keep {
		fmt.Println("logs are in", dir)
	} else {
		fail(os.RemoveAll(dir))
	}
	if *ratio > 0 && len(clusters) == 2 {
		for _, gaps := range [][2][]time.Duration{{clusters[0].putGaps, clusters[1].putGaps}, {clusters[0].readGaps, clusters[1].readGaps}} {
			if float64(median(gaps[0])) > *ratio*float64(median(gaps[1])) {
				fail(fmt.Errorf("a median of %v against %v", median(gaps[0]), median(gaps[1])))
			}
		}
	}
	fmt.Println("ok")
}

func found(name, binary, dir, level string) *cluster {
	c := &cluster{name: name, acked: map[string]bool{}}
	for n := range 3 {
		m, err := member.New(binary, fmt.Sprintf("%s%d", name, n+1), dir, "--log-level="+level)
		fail(err)
		conn, err := member.Dial(m.Client, grpc.WithConnectParams(member.Quickly))
		fail(err)
		c.members, c.conns = append(c.members, m), append(c.conns, conn)
	}
	fail(member.Found(c.members...))
	return c
}

// round kills the leader, and says how long no put and no read succeeded.
func (c *cluster) round() (time.Duration, time.Duration) {
	leader, err := member.Leader(c.conns, agreeWithin)
	fail(err)
	ctx, stop := context.WithCancel(context.Background())
	var puts, reads successes
	var probes sync.WaitGroup
	for n := range c.members {
		if n != leader {
			probes.Go(func() { repeat(ctx, &puts, func(ctx context.Context) error { return c.put(ctx, n) }) })
			probes.Go(func() { repeat(ctx, &reads, func(ctx context.Context) error { return c.read(ctx, n) }) })
		}
	}
	time.Sleep(quietBefore)
	killed := time.Now()
	c.members[leader].Kill()
	for deadline := killed.Add(giveUpAfter); ; time.Sleep(every) {
		if puts.behind(killed) >= enough && reads.behind(killed) >= enough {
			break
		}
		if time.Now().After(deadline) {
			fail(fmt.Errorf("%s has not served again in %v", c.name, giveUpAfter))
		}
	}
	stop()
	probes.Wait()
	putGap, readGap := puts.gap(killed), reads.gap(killed)
	c.putGaps, c.readGaps = append(c.putGaps, putGap), append(c.readGaps, readGap)
	fail(c.members[leader].Start())
	c.conns[leader].ResetConnectBackoff()
	_, _, err = member.Agree(c.conns, agreeWithin)
	fail(err)
	return putGap, readGap
}

// call is a call that succeeded: when it began and when it was answered.
type call struct{ began, ended time.Time }

type successes struct {
	lock sync.Mutex
	all  []call
}

// repeat begins a call every while, whether those before have ended or not.
func repeat(ctx context.Context, into *successes, do func(context.Context) error) {
	var calls sync.WaitGroup
	defer calls.Wait()
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		calls.Go(func() {
			// Not the probes' context: a put whose answer nobody awaits would be neither acknowledged nor known.
			within, cancel := context.WithTimeout(context.Background(), callWithin)
			defer cancel()
			began := time.Now()
			if do(within) == nil {
				into.lock.Lock()
				into.all = append(into.all, call{began, time.Now()})
				into.lock.Unlock()
			}
		})
	}
}

// behind counts the calls that began behind an instant.
func (s *successes) behind(instant time.Time) int {
	s.lock.Lock()
	defer s.lock.Unlock()
	count := 0
	for _, c := range s.all {
		if c.began.After(instant) {
			count++
		}
	}
	return count
}

// gap is the longest time between two answers, the first of which came at most a moment before the leader was killed.
func (s *successes) gap(killed time.Time) time.Duration {
	slices.SortFunc(s.all, func(a, b call) int { return a.ended.Compare(b.ended) })
	var longest time.Duration
	for n := 1; n < len(s.all); n++ {
		if s.all[n].ended.After(killed) {
			longest = max(longest, s.all[n].ended.Sub(s.all[n-1].ended))
		}
	}
	return longest
}

func (c *cluster) put(ctx context.Context, through int) error {
	c.lock.Lock()
	key := fmt.Sprintf("key/%07d", c.next)
	c.next++
	c.lock.Unlock()
	_, err := pb.NewKVClient(c.conns[through]).Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte("x")})
	if err == nil {
		c.lock.Lock()
		c.acked[key] = true
		c.lock.Unlock()
	}
	return err
}

func (c *cluster) read(ctx context.Context, through int) error {
	_, err := pb.NewKVClient(c.conns[through]).Range(ctx, &pb.RangeRequest{Key: []byte("key/")})
	return err
}

// check looks for everything that was acknowledged on every member.
func (c *cluster) check() {
	for n, conn := range c.conns {
		ctx, cancel := context.WithTimeout(context.Background(), callWithin)
		got, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("key/"), RangeEnd: []byte("key0"), KeysOnly: true})
		cancel()
		fail(err)
		there := map[string]bool{}
		for _, kv := range got.Kvs {
			there[string(kv.Key)] = true
		}
		for key := range c.acked {
			if !there[key] {
				fail(fmt.Errorf("%s was acknowledged, and %s does not have it", key, c.members[n].Name))
			}
		}
	}
}

func median(gaps []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(gaps))
	return sorted[len(sorted)/2]
}

func summary(gaps []time.Duration) string {
	return fmt.Sprintf("median %v, max %v", median(gaps).Round(time.Millisecond), slices.Max(gaps).Round(time.Millisecond))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}
