package main

import (
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// settle waits until every watcher has every event up to the current revision, and compares them.
func (w *watches) settle() {
	fresh := w.readHistory()
	for _, p := range w.streams {
		for _, n := range p.watchers {
			if n.compact {
				continue
			}
			n.expected += n.matches(fresh)
			w.settleWatcher(p, n)
		}
	}
	for _, p := range append(w.streams[:], w.history) {
		w.strays(p)
	}
}

// readHistory takes the events of all writes since the last time from the history watchers.
func (w *watches) readHistory() []*mvccpb.Event {
	if w.known == w.d.revision {
		return nil
	}
	for _, b := range w.history.sides {
		reached := func() bool {
			got := b.events[0]
			return len(got) > 0 && got[len(got)-1].Header.Revision >= w.d.revision
		}
		if !b.await(eventsWithin, reached) {
			w.d.mismatch("watch history", nil, fmt.Sprintf("    %s: no event of revision %d in %v (stream error: %v)\n", b.side.name, w.d.revision, eventsWithin, b.err))
		}
	}
	left, right := w.history.sides[0].takeEvents(0), w.history.sides[1].takeEvents(0)
	w.compareResponses("watch history", nil, left, right)
	var fresh []*mvccpb.Event
	for _, r := range left {
		fresh = append(fresh, r.Events...)
	}
	w.known = w.d.revision
	w.events = append(w.events, fresh...)
	return fresh
}

func (w *watches) settleWatcher(p *pair, n *watcher) {
	for _, b := range p.sides {
		if !b.await(eventsWithin, func() bool { return b.count(n.id) >= n.expected }) {
			b.mu.Lock()
			note := fmt.Sprintf("    %s: %d of %d events in %v (stream error: %v)\n", b.side.name, b.count(n.id), n.expected, eventsWithin, b.err)
			b.mu.Unlock()
			w.d.mismatch("watch events", n.request, note)
		}
	}
	left, right := p.sides[0].takeEvents(n.id), p.sides[1].takeEvents(n.id)
	w.counted["responses"] += len(left)
	if n.strict {
		w.compareResponses(fmt.Sprintf("watch %d", n.id), n.request, left, right)
	} else {
		w.compareEvents(n, left, right)
		n.strict = len(left) > 0 && len(right) > 0 || time.Since(n.made) > syncedAfter
	}
	if got := events(left); len(got) != n.expected {
		w.d.mismatch("watch events", n.request, fmt.Sprintf("    the history has %d events for it\n%s", n.expected, showAll("left", left)))
	}
	n.expected = 0
}

// compareEvents is for watchers that catch up: how many revisions travel together is a matter of timing, their events are
// not, and one revision is never torn apart unless the watcher asked for fragments.
func (w *watches) compareEvents(n *watcher, left, right []*pb.WatchResponse) {
	l, r := events(left), events(right)
	equal := len(l) == len(r)
	for i := 0; equal && i < len(l); i++ {
		equal = sameMessage(l[i], r[i])
	}
	if !equal || torn(left) || torn(right) {
		w.d.mismatch(fmt.Sprintf("catching up %d", n.id), n.request, showAll("left", left)+showAll("right", right))
	}
}

func events(responses []*pb.WatchResponse) (all []proto.Message) {
	for _, r := range responses {
		for _, e := range r.Events {
			all = append(all, e)
		}
	}
	return all
}

func torn(responses []*pb.WatchResponse) bool {
	var last int64
	for _, r := range responses {
		if r.Events[0].Kv.ModRevision <= last {
			return true
		}
		if !r.Fragment {
			last = r.Events[len(r.Events)-1].Kv.ModRevision
		}
	}
	return false
}

// strays finds what came without being asked for.
func (w *watches) strays(p *pair) {
	for _, b := range p.sides {
		b.mu.Lock()
		wrong, control := b.wrong, b.control
		b.wrong, b.control = nil, nil
		b.mu.Unlock()
		for _, text := range wrong {
			w.d.mismatch("watch protocol", nil, fmt.Sprintf("    %s: %s\n", b.side.name, text))
		}
		if len(control) > 0 {
			w.d.mismatch("watch strays", nil, showAll(b.side.name, control))
		}
	}
}
