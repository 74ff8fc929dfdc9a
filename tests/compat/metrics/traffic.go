package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"kevel/compat/member"
)

// server is a member with stubs to it.
type server struct {
	*member.Member
	conn  *grpc.ClientConn
	kv    pb.KVClient
	lease pb.LeaseClient
	watch pb.WatchClient
	maint pb.MaintenanceClient
	revs  int64 // the store's revision, as the last answer said
}

func dial(m *member.Member) (*server, error) {
	conn, err := member.Dial(m.Client)
	if err != nil {
		return nil, err
	}
	return &server{
		Member: m, conn: conn, kv: pb.NewKVClient(conn), lease: pb.NewLeaseClient(conn), watch: pb.NewWatchClient(conn),
		maint: pb.NewMaintenanceClient(conn),
	}, nil
}

func putOp(key string) *pb.RequestOp {
	put := &pb.PutRequest{Key: []byte(key), Value: []byte("value")}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}}
}

func rangeOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
}

func deleteOp(key string) *pb.RequestOp {
	del := &pb.DeleteRangeRequest{Key: []byte(key)}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: del}}
}

// run does everything once that the families count: the same calls on every server, one after the other.
func (s *server) run() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "client-api-version", "3.7")
	for _, step := range []func(context.Context) error{
		s.watched, s.reads, s.refusals, s.transactions, s.leases, s.maintenance, s.http,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// watched puts and deletes under two watchers, one of which begins in the past.
func (s *server) watched(ctx context.Context) error {
	stream, err := s.watch.Watch(ctx)
	if err != nil {
		return err
	}
	receive := func(events int) error {
		for events > 0 {
			answer, err := stream.Recv()
			if err != nil {
				return err
			}
			events -= len(answer.Events)
			if answer.Created {
				events--
			}
		}
		return nil
	}
	create := func(from int64) error {
		request := &pb.WatchCreateRequest{Key: []byte("w"), RangeEnd: []byte("x"), StartRevision: from}
		union := &pb.WatchRequest_CreateRequest{CreateRequest: request}
		return stream.Send(&pb.WatchRequest{RequestUnion: union})
	}
	if err := create(0); err != nil {
		return err
	}
	if err := receive(1); err != nil {
		return err
	}
	for i := range 10 {
		put := &pb.PutRequest{Key: fmt.Appendf(nil, "w%d", i), Value: make([]byte, 100)}
		if _, err := s.kv.Put(ctx, put); err != nil {
			return err
		}
	}
	if err := receive(10); err != nil {
		return err
	}
	deleted, err := s.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("w5"), RangeEnd: []byte("x")})
	if err != nil {
		return err
	}
	s.revs = deleted.Header.Revision
	if err := receive(5); err != nil {
		return err
	}
	if err := create(2); err != nil {
		return err
	}
	return receive(16)
}

func (s *server) reads(ctx context.Context) error {
	for _, request := range []*pb.RangeRequest{
		{Key: []byte("w0")},
		{Key: []byte("w0"), Serializable: true},
		{Key: []byte("none")},
		{Key: []byte("w"), RangeEnd: []byte("x")},
		{Key: []byte("w"), RangeEnd: []byte("x"), CountOnly: true},
		{Key: []byte("w0"), Revision: 3},
	} {
		if _, err := s.kv.Range(ctx, request); err != nil {
			return err
		}
	}
	// A deletion that finds nothing is counted by some families and not by others.
	_, err := s.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("none")})
	return err
}

// refusals are calls that end in an error.
func (s *server) refusals(ctx context.Context) error {
	if _, err := s.kv.Put(ctx, &pb.PutRequest{}); err == nil {
		return fmt.Errorf("an empty key was put")
	}
	if _, err := s.kv.Put(ctx, &pb.PutRequest{Key: []byte("a"), Lease: 99}); err == nil {
		return fmt.Errorf("a key was put under no lease")
	}
	if _, err := s.kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), Revision: 1 << 40}); err == nil {
		return fmt.Errorf("the future was read")
	}
	if _, err := s.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 99}); err == nil {
		return fmt.Errorf("no lease was revoked")
	}
	return nil
}

func (s *server) transactions(ctx context.Context) error {
	for _, ops := range [][]*pb.RequestOp{
		{putOp("t1")},
		{putOp("t1"), putOp("t2")},
		{putOp("t3"), rangeOp("t1")},
		{rangeOp("t1"), rangeOp("t2")},
		{putOp("t4"), deleteOp("t1")},
		{deleteOp("none")},
		{},
	} {
		if _, err := s.kv.Txn(ctx, &pb.TxnRequest{Success: ops}); err != nil {
			return err
		}
	}
	return nil
}

// leases grants three: one is renewed and left, one revoked with its keys, one left to run out.
func (s *server) leases(ctx context.Context) error {
	for id, ttl := range map[int64]int64{1: 600, 2: 600, 3: 1} {
		if _, err := s.lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: ttl}); err != nil {
			return err
		}
		put := &pb.PutRequest{Key: fmt.Appendf(nil, "l%d", id), Lease: id}
		if _, err := s.kv.Put(ctx, put); err != nil {
			return err
		}
	}
	stream, err := s.lease.LeaseKeepAlive(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: 1}); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != io.EOF {
		return fmt.Errorf("the stream of renewals ended with %v", err)
	}
	if _, err := s.lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 1, Keys: true}); err != nil {
		return err
	}
	if _, err := s.lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{}); err != nil {
		return err
	}
	if _, err := s.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 2}); err != nil {
		return err
	}
	// Not asked again and again: calls are counted.
	time.Sleep(5 * time.Second)
	answer, err := s.lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 3})
	if err == nil && answer.TTL >= 0 {
		err = fmt.Errorf("a lease of one second is there after five")
	}
	return err
}

func (s *server) maintenance(ctx context.Context) error {
	status, err := s.maint.Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return err
	}
	id := status.Header.MemberId
	alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE, MemberID: id}
	if _, err := s.maint.Alarm(ctx, alarm); err != nil {
		return err
	}
	if _, err := s.kv.Put(ctx, &pb.PutRequest{Key: []byte("a")}); err == nil {
		return fmt.Errorf("a key was put under an alarm")
	}
	alarm.Action = pb.AlarmRequest_DEACTIVATE
	if _, err := s.maint.Alarm(ctx, alarm); err != nil {
		return err
	}
	if _, err := s.kv.Compact(ctx, &pb.CompactionRequest{Revision: s.revs, Physical: true}); err != nil {
		return err
	}
	if _, err := s.kv.Range(ctx, &pb.RangeRequest{Key: []byte("w0"), Revision: 2}); err == nil {
		return fmt.Errorf("what was compacted was read")
	}
	if _, err := s.maint.HashKV(ctx, &pb.HashKVRequest{}); err != nil {
		return err
	}
	if _, err := s.maint.Hash(ctx, &pb.HashRequest{}); err != nil {
		return err
	}
	_, err = s.maint.Defragment(ctx, &pb.DefragmentRequest{})
	return err
}

func (s *server) http(context.Context) error {
	for _, path := range []string{"/health", "/livez", "/readyz"} {
		answer, err := http.Get("http://" + s.Client + path)
		if err != nil {
			return err
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", path, answer.Status)
		}
	}
	return nil
}
