package main

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// slowly compares what only shows with time. It comes last, when nothing else changes the stores.
func (d *driver) slowly() {
	d.expiry()
	d.script("half-closed", true, false)
	d.script("watch id -1", false, true)
	d.script("empty requests", false, false)
	d.notices()
	d.settle()
}

// expiry lets a short lease with two keys run out: both keys go in one revision.
func (d *driver) expiry() {
	d.counts["expiry"]++
	d.write(unary("LeaseGrant", pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantRequest{ID: 31_337, TTL: 1}, &pb.LeaseGrantResponse{}))
	for _, key := range []string{"expire/b", "expire/a"} {
		d.write(unary("Put", pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte(key), Lease: 31_337}, &pb.PutResponse{}))
	}
	d.settle()
	everything := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, KeysOnly: true}
	gone := func(s *side) bool {
		ctx, cancel := context.WithTimeout(context.Background(), callWithin)
		defer cancel()
		r, err := pb.NewKVClient(s.conn).Range(ctx, &pb.RangeRequest{Key: []byte("expire/a")})
		return err == nil && r.Count == 0
	}
	start := time.Now()
	for _, s := range d.sides {
		for !gone(s) && time.Since(start) < 10*time.Second {
			time.Sleep(50 * time.Millisecond)
		}
		if took := time.Since(start); took < time.Second || took > 8*time.Second {
			d.mismatch("expiry", nil, fmt.Sprintf("    %s: a lease of 2 s ended after %v\n", s.name, took))
		}
	}
	d.write(unary("Range", pb.KV_Range_FullMethodName, everything, &pb.RangeResponse{}))
	d.write(unary("LeaseTimeToLive", pb.Lease_LeaseTimeToLive_FullMethodName, &pb.LeaseTimeToLiveRequest{ID: 31_337, Keys: true}, &pb.LeaseTimeToLiveResponse{}))
	d.write(keepAlive(31_337))
	d.write(unary("LeaseRevoke", pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: 31_337}, &pb.LeaseRevokeResponse{}))
}

// script plays a few requests on a fresh stream, writes, waits for silence and compares all that came.
func (d *driver) script(name string, halfClose, minusOne bool) {
	d.counts["script "+name]++
	p, err := d.openPair()
	if err != nil {
		d.mismatch(name, nil, "    "+err.Error())
		return
	}
	defer p.close()
	create := &pb.WatchCreateRequest{Key: []byte("s"), PrevKv: true}
	if minusOne {
		create.WatchId = -1
	}
	for _, b := range p.sides {
		b.stream.Send(&pb.WatchRequest{})
		b.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: 3}}})
		b.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
		b.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
		b.await(eventsWithin, func() bool { return len(b.control) > 0 })
		if halfClose {
			b.stream.CloseSend()
			time.Sleep(200 * time.Millisecond)
		}
	}
	for range 3 {
		d.write(unary("Put", pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte("s"), Value: d.value()}, &pb.PutResponse{}))
	}
	time.Sleep(500 * time.Millisecond)
	left, right := p.sides[0], p.sides[1]
	d.watches.compareResponses(name, create, left.takeControl(100), right.takeControl(100))
	for _, id := range []int64{0, -1} {
		d.watches.compareResponses(name, create, left.takeEvents(id), right.takeEvents(id))
	}
	if (left.err == nil) != (right.err == nil) {
		d.mismatch(name, create, fmt.Sprintf("    left: stream ended: %v\n    right: stream ended: %v\n", left.err, right.err))
	}
	d.watches.strays(p)
}

// notices checks that an idle watcher that asked for progress is told every second, the interval the servers run with.
func (d *driver) notices() {
	d.counts["notices"]++
	p, err := d.openPair()
	if err != nil {
		d.mismatch("notices", nil, "    "+err.Error())
		return
	}
	defer p.close()
	d.watches.create(p, &pb.WatchCreateRequest{Key: []byte("idle"), ProgressNotify: true})
	d.watches.create(p, &pb.WatchCreateRequest{Key: []byte("idle")})
	time.Sleep(3500 * time.Millisecond)
	for _, b := range p.sides {
		b.mu.Lock()
		if b.notices < 2 || b.notices > 4 {
			d.mismatch("notices", nil, fmt.Sprintf("    %s: %d progress notifications in 3.5 s\n", b.side.name, b.notices))
		}
		b.mu.Unlock()
	}
	d.watches.strays(p)
}
