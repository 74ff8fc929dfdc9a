package main

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// quickly reconnects without the usual patience: the server is gone for a moment only.
var quickly = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.2, MaxDelay: 100 * time.Millisecond},
	MinConnectTimeout: time.Second,
}

const caughtUpWithin = 10 * time.Second

// follower watches all keys of the writers. Every write makes an event and nothing else does, so the revisions it sees must
// be one longer run of whole numbers over all restarts, and the state it builds must be the store's.
type follower struct {
	t      *trial
	client pb.WatchClient
	ctx    context.Context
	stop   context.CancelFunc

	mu     sync.Mutex
	last   int64 // the revision of the last event
	events int
	state  map[string]*mvccpb.KeyValue
}

func newFollower(t *trial, client pb.WatchClient) *follower {
	f := &follower{t: t, client: client, last: 1, state: map[string]*mvccpb.KeyValue{}}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// run watches, and after each break resumes one revision above the last event.
func (f *follower) run() {
	for f.ctx.Err() == nil {
		f.watch()
		time.Sleep(10 * time.Millisecond)
	}
}

func (f *follower) watch() {
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	stream, err := f.client.Watch(ctx)
	if err != nil {
		return
	}
	create := &pb.WatchCreateRequest{Key: []byte(prefix), RangeEnd: []byte(prefixEnd), StartRevision: f.reached() + 1, PrevKv: true}
	if stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}) != nil {
		return
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return
		}
		if r.Canceled {
			f.t.breaks("the watch from revision %d was cancelled: %s, compacted at %d", create.StartRevision, r.CancelReason, r.CompactRevision)
			f.stop()
			return
		}
		f.take(r.Events)
	}
}

// take adds events to the state; those of one revision come together.
func (f *follower) take(events []*mvccpb.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.last
	for _, e := range events {
		revision := e.Kv.ModRevision
		if revision != f.last+1 && (revision != f.last || f.last == before) {
			f.t.breaks("the watch jumps from revision %d to %d", f.last, revision)
		}
		f.last = revision
		f.events++
		key := string(e.Kv.Key)
		if old := f.state[key]; old.GetModRevision() != e.PrevKv.GetModRevision() && e.Kv.ModRevision > 2 {
			// The previous value is allowed to be missing only where it was compacted, which the watcher's lead rules out.
			f.t.breaks("the event of %s at revision %d carries revision %d as the one before, it was %d", key, revision, e.PrevKv.GetModRevision(), old.GetModRevision())
		}
		if e.Type == mvccpb.Event_DELETE {
			delete(f.state, key)
		} else {
			f.state[key] = e.Kv
		}
	}
}

func (f *follower) reached() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

func (f *follower) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.events
}

// verify waits until the watcher is where the store is, and compares.
func (f *follower) verify(round int, revision int64, found map[string]*mvccpb.KeyValue) {
	for deadline := time.Now().Add(caughtUpWithin); f.reached() < revision; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.breaks("round %d: the watcher is at revision %d and the store at %d", round, f.reached(), revision)
			return
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last != revision || len(f.state) != len(found) {
		f.t.breaks("round %d: the watcher has %d keys at revision %d, the store %d keys at %d", round, len(f.state), f.last, len(found), revision)
	}
	for key, kv := range found {
		if seen := f.state[key]; seen.GetModRevision() != kv.ModRevision || seen.GetVersion() != kv.Version || string(seen.GetValue()) != string(kv.Value) {
			f.t.breaks("round %d: the watcher saw %s of revision %d, the store has %d", round, key, seen.GetModRevision(), kv.ModRevision)
		}
	}
}
