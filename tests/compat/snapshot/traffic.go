package main

import (
	"context"
	"fmt"
	"math/rand"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	writers = 4
	pause   = time.Millisecond // of a writer between two writes
	leases  = 2000
	seconds = 100_000 // to live
)

func (s *side) revision() int64 {
	answer, err := s.kv.Range(context.Background(), &pb.RangeRequest{Key: []byte("none")})
	fail(err)
	return answer.Header.Revision
}

func put(key string, value int, lease int64) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: make([]byte, value), Lease: lease}
}

// fill writes keys short and long, each one or two times, attaches some to leases, deletes some, and compacts.
func fill(s *side, keys int) {
	ctx := context.Background()
	for id := int64(1); id <= leases; id++ {
		_, err := s.lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id * 7919, TTL: seconds + id})
		fail(err)
	}
	const together = 100
	for from := 0; from < keys; from += together {
		txn := &pb.TxnRequest{}
		for n := from; n < from+together; n++ {
			request := put(fmt.Sprintf("key/%05d", n), rand.Intn(1000), 0)
			if n%4 == 1 {
				request.Lease = int64(n%leases+1) * 7919
			}
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: request}})
		}
		_, err := s.kv.Txn(ctx, txn)
		fail(err)
	}
	for n := range keys {
		key := fmt.Sprintf("key/%05d", n)
		var err error
		switch {
		case n%1000 == 3:
			_, err = s.kv.Put(ctx, put(key, 1<<20, 0))
		case n%17 == 0:
			_, err = s.kv.Put(ctx, put(key, rand.Intn(9000), 0))
		case n%23 == 0:
			_, err = s.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
		}
		fail(err)
	}
	_, err := s.kv.Compact(ctx, &pb.CompactionRequest{Revision: s.revision() - int64(keys)/100, Physical: true})
	fail(err)
	// What is left to be compacted later.
	for n := range keys {
		_, err := s.kv.Put(ctx, put(fmt.Sprintf("more/%05d", n%(keys/4+1)), rand.Intn(300), 0))
		fail(err)
	}
}

// alarm raises or disarms an alarm, behind which nothing can be put.
func (s *side) alarm(action pb.AlarmRequest_AlarmAction) {
	request := &pb.AlarmRequest{Action: action, MemberID: 5, Alarm: pb.AlarmType_NOSPACE}
	_, err := s.maintenance.Alarm(context.Background(), request)
	fail(err)
}

// write begins to put and to delete, or to delete alone, and returns what ends it and tells how much was done.
func write(s *side, puts bool) func() int64 {
	var wait sync.WaitGroup
	var done atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	for w := range writers {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for n := 0; ctx.Err() == nil; n++ {
				var err error
				if puts && n%5 < 4 {
					_, err = s.kv.Put(context.Background(), put(fmt.Sprintf("beside/%d/%d", w, n%500), rand.Intn(2000), 0))
				} else {
					// One that is attached to no lease: leases have no revisions to compare them at.
					key := fmt.Sprintf("key/%05d", 4*(n*writers+w)+2)
					_, err = s.kv.DeleteRange(context.Background(), &pb.DeleteRangeRequest{Key: []byte(key)})
				}
				fail(err)
				done.Add(1)
				time.Sleep(pause)
			}
		}()
	}
	time.Sleep(200 * time.Millisecond)
	return func() int64 {
		stop()
		wait.Wait()
		return done.Load()
	}
}

// compact compacts while a snapshot is being saved.
func (s *side) compact(revision int64, done chan struct{}) {
	_, err := s.kv.Compact(context.Background(), &pb.CompactionRequest{Revision: revision})
	fail(err)
	close(done)
}
