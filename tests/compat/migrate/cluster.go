package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	writers     = 4
	agreeWithin = 60 * time.Second
	// aMoment lets some puts come between two steps.
	aMoment = time.Second
	// electionWithin is how long an election may take: a put that is asked for later has a leader.
	electionWithin = 3 * time.Second
)

// load is what was acknowledged of puts that go on.
type load struct {
	sides []*side
	stop  chan struct{}
	ended sync.WaitGroup
	lock  sync.Mutex
	acked map[string]string
	last  time.Time
	// The steps so far, the one under way last, and the one in which the last put was acknowledged.
	steps     []*step
	lastAcked *step
}

// step is one member that is stopped or killed, and started again, and what became of the puts that were asked for in it.
type step struct {
	what  string
	began time.Time
	// failed are puts through members that ran, and late is when the last of them was asked for, behind the beginning of the step.
	failed int
	late   time.Duration
	// gap is the longest time without an acknowledged put that has begun in it, slowest the longest of a put.
	gap, slowest time.Duration
}

// cluster has three members go to Kevel one after the other, and back.
func (b binaries) cluster(dir string, rounds int) {
	var sides []*side
	var all []*member.Member
	for n := range 3 {
		s := b.lay(fmt.Sprintf("m%d", n+1), dir)
		sides, all = append(sides, s), append(all, s.Member)
	}
	member.Together(all...)
	defer func() {
		for _, m := range all {
			m.Kill()
		}
	}()
	for _, m := range all {
		fail(m.Launch())
	}
	for _, m := range all {
		fail(m.Ready())
	}
	l := begin(sides)
	for round := range rounds {
		for step := range 2 * len(sides) {
			s := sides[step%len(sides)]
			time.Sleep(aMoment)
			how := "killed"
			if (round+step)%2 == 0 {
				how = "stopped"
			}
			l.begin(fmt.Sprintf("%s %s", s.role(), how))
			s.down.Store(true)
			if how == "stopped" {
				s.Stop()
			} else {
				s.Kill()
			}
			time.Sleep(aMoment / 2)
			b.migrate(s)
			s.start()
			s.down.Store(false)
			l.agree(fmt.Sprintf("%s is Kevel: %v", s.Name, s.kevel))
		}
	}
	close(l.stop)
	l.ended.Wait()
	for _, s := range sides {
		l.check(s)
	}
	l.report()
}

// role tells what a member is that is about to go.
func (s *side) role() string {
	server, role := "an etcd", "follows"
	if s.kevel {
		server = "a Kevel"
	}
	status := call(s.maintenance().Status, &pb.StatusRequest{})
	if status.Leader == status.Header.MemberId {
		role = "leads"
	}
	return fmt.Sprintf("%s that %s is", server, role)
}

// report fails where puts through members that ran have failed which were asked for when another leader should have been there.
func (l *load) report() {
	failed, gap := 0, time.Duration(0)
	for _, s := range l.steps {
		fmt.Printf("%s: the longest time without a put was %v, the slowest took %v, %d failed, asked for up to %v later\n",
			s.what, s.gap.Round(time.Millisecond), s.slowest.Round(time.Millisecond), s.failed, s.late.Round(time.Millisecond))
		failed, gap = failed+s.failed, max(gap, s.gap)
		if s.late > electionWithin {
			fail(fmt.Errorf("%s, and a put that was asked for %v later has failed", s.what, s.late))
		}
	}
	fmt.Printf("%d puts acknowledged and none lost, %d failed, the longest time without one was %v\n", len(l.acked), failed, gap.Round(time.Millisecond))
}

// begin begins a step.
func (l *load) begin(what string) {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.steps = append(l.steps, &step{what: what, began: time.Now()})
}

// current is the step under way.
func (l *load) current() *step {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.steps[len(l.steps)-1]
}

// begin has writers put through the members in turn.
func begin(sides []*side) *load {
	first := &step{what: "before anything was stopped", began: time.Now()}
	l := &load{sides: sides, stop: make(chan struct{}), acked: map[string]string{}, last: time.Now(), steps: []*step{first}, lastAcked: first}
	for w := range writers {
		l.ended.Add(1)
		go func() {
			defer l.ended.Done()
			for n := 0; ; n++ {
				select {
				case <-l.stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				l.put(sides[(w+n)%len(sides)], fmt.Sprintf("load/%d/%07d", w, n))
			}
		}()
	}
	return l
}

func (l *load) put(s *side, key string) {
	step, asked, down := l.current(), time.Now(), s.down.Load()
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	_, err := s.kv().Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(key)})
	cancel()
	l.lock.Lock()
	defer l.lock.Unlock()
	now, down := time.Now(), down || s.down.Load()
	if err != nil && down {
		return // by a member that was not there
	}
	step.slowest = max(step.slowest, now.Sub(asked))
	if err != nil {
		// One that was under way when the next member went has failed because of that.
		step = l.steps[len(l.steps)-1]
		step.failed++
		step.late = max(step.late, asked.Sub(step.began))
		return
	}
	l.acked[key] = key
	l.lastAcked.gap = max(l.lastAcked.gap, now.Sub(l.last))
	l.last, l.lastAcked = now, step
}

func (l *load) agree(what string) {
	var conns []*grpc.ClientConn
	for _, s := range l.sides {
		conns = append(conns, s.conn)
	}
	hash, revision, err := member.Agree(conns, agreeWithin)
	fail(err)
	fmt.Printf("%s, agreed: HashKV %08x at revision %d\n", what, hash, revision)
}

// check reads everything through a member, linearizably.
func (l *load) check(s *side) {
	found := map[string]string{}
	for _, kv := range call(s.kv().Range, &pb.RangeRequest{Key: []byte("load/"), RangeEnd: []byte("load0")}).Kvs {
		found[string(kv.Key)] = string(kv.Value)
	}
	for key, value := range l.acked {
		if found[key] != value {
			fail(fmt.Errorf("%s was acknowledged, and %s has %q", key, s.Name, found[key]))
		}
	}
}
