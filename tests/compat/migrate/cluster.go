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
)

// load is what was acknowledged of puts that go on.
type load struct {
	sides  []*side
	stop   chan struct{}
	ended  sync.WaitGroup
	lock   sync.Mutex
	acked  map[string]string
	failed int
	last   time.Time
	gap    time.Duration
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
			if (round+step)%2 == 0 {
				s.Stop()
			} else {
				s.Kill()
			}
			time.Sleep(aMoment / 2)
			b.migrate(s)
			s.start()
			l.agree(fmt.Sprintf("%s is Kevel: %v", s.Name, s.kevel))
		}
	}
	close(l.stop)
	l.ended.Wait()
	for _, s := range sides {
		l.check(s)
	}
	fmt.Printf("%d puts acknowledged and none lost, %d failed, the longest time without one was %v\n", len(l.acked), l.failed, l.gap.Round(time.Millisecond))
}

// begin has writers put through the members in turn.
func begin(sides []*side) *load {
	l := &load{sides: sides, stop: make(chan struct{}), acked: map[string]string{}, last: time.Now()}
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
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	_, err := s.kv().Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(key)})
	cancel()
	l.lock.Lock()
	defer l.lock.Unlock()
	if err != nil {
		l.failed++
		return
	}
	l.acked[key] = key
	now := time.Now()
	l.gap = max(l.gap, now.Sub(l.last))
	l.last = now
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
