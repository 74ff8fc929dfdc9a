package main

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watchStep is one random request on one of the watch streams.
func (d *driver) watchStep() {
	w := d.watches
	p := w.streams[d.Intn(streams)]
	switch roll := d.Intn(100); {
	case roll < 45 && len(p.watchers) < watchersPerStream:
		w.create(p, d.watchRequest(p))
	case roll < 60 || roll < 45:
		w.settle()
		w.cancel(p, d.knownWatcher(p))
	case roll < 63:
		w.settle()
		w.cancel(p, pick(&d.dice, int64(999_999), -5))
	case roll < 66 && d.chance(20):
		w.settle()
		d.reopen(p)
	default:
		w.settle()
		w.progress(p)
	}
}

func (d *driver) knownWatcher(p *pair) int64 {
	lowest := int64(-1 << 62)
	found := lowest
	skip := d.Intn(len(p.watchers) + 1)
	// Maps have no order, so walk the ids upward to stay reproducible.
	for range skip + 1 {
		next := int64(1 << 62)
		for id := range p.watchers {
			if id > found && id < next {
				next = id
			}
		}
		if next == 1<<62 {
			break
		}
		found = next
	}
	if found == lowest {
		return 999_999
	}
	return found
}

// reopen ends a stream from the client's side and starts it afresh: ids begin at zero again.
func (d *driver) reopen(p *pair) {
	p.close()
	fresh, err := d.openPair()
	if err != nil {
		d.mismatch("watch stream", nil, "    "+err.Error())
		return
	}
	*p = *fresh
}

func (d *driver) watchRequest(p *pair) *pb.WatchCreateRequest {
	q := &pb.WatchCreateRequest{PrevKv: d.chance(50), Fragment: d.chance(25), ProgressNotify: d.chance(20)}
	if q.Key, q.RangeEnd = d.interval(); d.chance(20) {
		q.Key, q.RangeEnd = []byte{0}, []byte{0}
	}
	switch roll := d.Intn(100); {
	case roll < 55:
	case roll < 75:
		q.StartRevision = d.pastRevision()
		if q.StartRevision == d.compacted {
			q.StartRevision = 0 // two changes of one key in one transaction at that revision may have left one behind
		}
	case roll < 82:
		q.StartRevision = max(d.compacted-1-d.Int63n(3), 1)
	case roll < 94:
		q.StartRevision = d.revision + 1 + d.Int63n(20)
	default:
		q.StartRevision = pick(&d.dice, int64(-1), -100)
	}
	for range pick(&d.dice, 0, 0, 0, 1, 1, 2) {
		q.Filters = append(q.Filters, pick(&d.dice, pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE, 7))
	}
	switch roll := d.Intn(100); {
	case roll < 10:
		q.WatchId = pick(&d.dice, int64(1), 2, 3, 77, 1<<40, -9)
	case roll < 18:
		if q.WatchId = d.knownWatcher(p); q.WatchId == 999_999 {
			q.WatchId = 0
		}
	}
	return q
}
