package main

import (
	"bytes"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

const (
	streams           = 4
	watchersPerStream = 6
	eventsWithin      = 8 * time.Second
	// burst bounds the writes between two times that all events must be in. etcd buffers 128 responses per stream; below
	// that no watcher of a synced stream falls behind, and where responses are cut is a rule and not a race.
	burst = 16
	// syncedAfter is long enough for a watcher with nothing to catch up on to be among the synced ones.
	syncedAfter = 3 * time.Second
)

// watches drives the same watchers on both sides. What each must get is known from the history, a watch of its own over
// all keys since the beginning, so "nothing more is coming" needs no waiting.
type watches struct {
	d       *driver
	streams [streams]*pair
	history *pair
	events  []*mvccpb.Event // since the last compaction, in order
	known   int64           // the revision up to which history was read
	counted map[string]int
}

// pair is one watch stream, opened on both sides.
type pair struct {
	sides    [2]*inbox
	watchers map[int64]*watcher
}

type watcher struct {
	id       int64
	request  *pb.WatchCreateRequest
	from     int64 // first revision whose events it gets
	made     time.Time
	strict   bool // synced on both sides: responses are compared one by one, not only their events
	compact  bool // ended by a compaction, but its id still taken
	expected int  // events since the last comparison
}

func (d *driver) openPair() (*pair, error) {
	p := &pair{watchers: map[int64]*watcher{}}
	for i, s := range d.sides {
		b, err := openInbox(s)
		if err != nil {
			return nil, err
		}
		p.sides[i] = b
	}
	return p, nil
}

func (p *pair) close() {
	for _, b := range p.sides {
		b.cancel()
	}
}

func newWatches(d *driver) (*watches, error) {
	w := &watches{d: d, known: d.revision, counted: map[string]int{}}
	var err error
	if w.history, err = d.openPair(); err != nil {
		return nil, err
	}
	for i := range w.streams {
		if w.streams[i], err = d.openPair(); err != nil {
			return nil, err
		}
	}
	w.create(w.history, &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: d.revision + 1, PrevKv: true})
	return w, nil
}

func (w *watches) close() {
	w.history.close()
	for _, p := range w.streams {
		p.close()
	}
}

// both sends one request on both sides of a stream.
func (w *watches) both(p *pair, r *pb.WatchRequest) {
	for _, b := range p.sides {
		if err := b.stream.Send(r); err != nil {
			w.d.mismatch("watch stream", r, fmt.Sprintf("    %s: send: %v", b.side.name, err))
		}
	}
}

// answer waits for n answers to a request and compares them; it returns the left ones.
func (w *watches) answer(p *pair, request proto.Message, n int) []*pb.WatchResponse {
	for _, b := range p.sides {
		b.await(eventsWithin, func() bool { return len(b.control) >= n })
	}
	left, right := p.sides[0].takeControl(n), p.sides[1].takeControl(n)
	if w.d.plant == "control" && w.d.planting() && len(right) > 0 {
		right[0].Header.Revision++
	}
	if len(left) != n {
		w.d.mismatch("watch answers", request, fmt.Sprintf("    the driver expected %d answers:\n%s", n, showAll("left", left)))
	}
	w.compareResponses("watch answers", request, left, right)
	return left
}

func (w *watches) compareResponses(kind string, request proto.Message, left, right []*pb.WatchResponse) {
	equal := len(left) == len(right)
	for i := 0; equal && i < len(left); i++ {
		mask(left[i])
		mask(right[i])
		equal = sameMessage(left[i], right[i])
	}
	if !equal {
		w.d.mismatch(kind, request, showAll("left", left)+showAll("right", right))
	}
}

func showAll(name string, responses []*pb.WatchResponse) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "  %s: %d responses\n", name, len(responses))
	for i, r := range responses {
		if i == 5 {
			fmt.Fprintf(&b, "    ...\n")
			break
		}
		fmt.Fprintf(&b, "    %s\n", show(r))
	}
	return b.String()
}

// create makes a watcher on both sides.
func (w *watches) create(p *pair, q *pb.WatchCreateRequest) {
	w.counted["create"]++
	request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: q}}
	w.both(p, request)
	left := w.answer(p, request, 1)
	if len(left) != 1 || left[0].Canceled {
		return
	}
	n := &watcher{id: left[0].WatchId, request: q, from: q.StartRevision, made: time.Now()}
	if n.from == 0 {
		n.from = w.d.revision + 1
	}
	n.strict = n.from > w.d.revision
	if n.compact = q.StartRevision > 0 && q.StartRevision < w.d.compacted; n.compact {
		w.answer(p, request, 1)
	} else if !n.strict {
		n.expected = n.matches(w.events)
	}
	p.watchers[n.id] = n
}

// cancel ends a watcher, or one that never was; all its events are in by then.
func (w *watches) cancel(p *pair, id int64) {
	w.counted["cancel"]++
	request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
	w.both(p, request)
	if _, known := p.watchers[id]; known {
		w.answer(p, request, 1)
		delete(p.watchers, id)
	}
}

// progress asks a stream for its progress where the answer, or the silence, is certain.
func (w *watches) progress(p *pair) {
	answers := min(1, len(p.watchers))
	for _, n := range p.watchers {
		if !n.strict && !n.compact && time.Since(n.made) < syncedAfter {
			return
		}
		if q := n.request; n.compact || q.StartRevision > w.d.revision {
			answers = 0
		}
	}
	w.counted["progress"]++
	request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	w.both(p, request)
	w.answer(p, request, answers)
}

// beforeCompaction ends the watchers of which it is not certain that they have caught up: with nothing to catch up on there
// is no event to wait for, and the compaction would cancel them or not, as it happens.
func (w *watches) beforeCompaction() {
	for _, p := range w.streams {
		for id, n := range p.watchers {
			if !n.strict && !n.compact {
				w.cancel(p, id)
			}
		}
	}
}

// forgetBefore drops history that no watcher can ask for any more.
func (w *watches) forgetBefore(revision int64) {
	for i, e := range w.events {
		if e.Kv.ModRevision >= revision {
			w.events = w.events[i:]
			return
		}
	}
	w.events = nil
}

// matches counts the events that the watcher must be sent.
func (n *watcher) matches(events []*mvccpb.Event) (count int) {
	key, end := n.request.Key, n.request.RangeEnd
	if len(key) == 0 {
		key = []byte{0}
	}
	for _, e := range events {
		switch k := e.Kv.Key; {
		case e.Kv.ModRevision < n.from, n.filtered(e.Type):
		case len(end) == 0 && bytes.Equal(k, key),
			len(end) == 1 && end[0] == 0 && bytes.Compare(k, key) >= 0,
			len(end) > 0 && bytes.Compare(k, key) >= 0 && bytes.Compare(k, end) < 0:
			count++
		}
	}
	return count
}

func (n *watcher) filtered(t mvccpb.Event_EventType) bool {
	for _, f := range n.request.Filters {
		if f == pb.WatchCreateRequest_NOPUT && t == mvccpb.Event_PUT || f == pb.WatchCreateRequest_NODELETE && t == mvccpb.Event_DELETE {
			return true
		}
	}
	return false
}
