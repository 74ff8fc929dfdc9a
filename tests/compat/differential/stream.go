package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// inbox is one side of one watch stream: what came in and was not yet compared, sorted into the answers to requests and the
// events of each watcher. Between those there is no promised order, within each there is.
type inbox struct {
	side   *side
	stream pb.Watch_WatchClient
	cancel context.CancelFunc

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every arrival
	control []*pb.WatchResponse
	events  map[int64][]*pb.WatchResponse
	open    map[int64]bool // created and not cancelled, as this side told it
	notices int            // periodic progress notifications seen
	wrong   []string       // breaches of the protocol that need no other side to judge
	err     error

	dropNext bool // planted: lose one response with events
}

func openInbox(s *side) (*inbox, error) {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := pb.NewWatchClient(s.conn).Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	b := &inbox{side: s, stream: stream, cancel: cancel, changed: make(chan struct{}),
		events: map[int64][]*pb.WatchResponse{}, open: map[int64]bool{}}
	go b.receive()
	return b, nil
}

func (b *inbox) receive() {
	for {
		r, err := b.stream.Recv()
		b.mu.Lock()
		if err != nil {
			b.err = err
		} else {
			b.sort(r)
		}
		close(b.changed)
		b.changed = make(chan struct{})
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (b *inbox) sort(r *pb.WatchResponse) {
	id := r.WatchId
	switch {
	case r.Created:
		b.open[id] = !r.Canceled
		b.control = append(b.control, r)
	case r.Canceled:
		b.open[id] = false
		b.control = append(b.control, r)
	case len(r.Events) > 0:
		if !b.open[id] {
			b.wrong = append(b.wrong, fmt.Sprintf("events for watcher %d that is not open: %s", id, show(r)))
		}
		if last := r.Events[len(r.Events)-1].Kv.ModRevision; last > r.Header.GetRevision() {
			b.wrong = append(b.wrong, fmt.Sprintf("events above the header's revision: %s", show(r)))
		}
		if b.dropNext {
			b.dropNext = false
			return
		}
		b.events[id] = append(b.events[id], r)
	case id == -1:
		b.control = append(b.control, r)
	default:
		b.notices++ // comes by the clock, so only its shape can be judged
		if !b.open[id] || r.CompactRevision != 0 || r.CancelReason != "" || r.Fragment {
			b.wrong = append(b.wrong, fmt.Sprintf("odd progress notification: %s", show(r)))
		}
	}
}

// await waits until ready, called under the lock, is true; false when it did not become so in time or the stream ended.
func (b *inbox) await(within time.Duration, ready func() bool) bool {
	timeout := time.After(within)
	for {
		b.mu.Lock()
		done, ended, changed := ready(), b.err != nil, b.changed
		b.mu.Unlock()
		if done || ended {
			return done
		}
		select {
		case <-changed:
		case <-timeout:
			return false
		}
	}
}

// takeControl takes at most n answers; the next one may already be there.
func (b *inbox) takeControl(n int) []*pb.WatchResponse {
	b.mu.Lock()
	defer b.mu.Unlock()
	n = min(n, len(b.control))
	taken := b.control[:n:n]
	b.control = b.control[n:]
	return taken
}

func (b *inbox) takeEvents(id int64) []*pb.WatchResponse {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.events[id]
	delete(b.events, id)
	return taken
}

// count is the number of events that wait for watcher id; call under the lock.
func (b *inbox) count(id int64) (n int) {
	for _, r := range b.events[id] {
		n += len(r.Events)
	}
	return n
}
