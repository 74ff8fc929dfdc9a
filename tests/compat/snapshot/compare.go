package main

import (
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// compare holds what was restored against what the server had at the snapshot's revision.
func compare(live, restored *side, found status) {
	ctx := context.Background()
	revision := found.Revision
	if now := restored.revision(); now != revision {
		fail(fmt.Errorf("the restored server is at revision %d, the snapshot is of %d", now, revision))
	}
	all := func(s *side) *pb.RangeResponse {
		answer, err := s.kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: revision})
		fail(err)
		return answer
	}
	want, got := all(live), all(restored)
	for n := range min(len(want.Kvs), len(got.Kvs)) {
		if !proto.Equal(want.Kvs[n], got.Kvs[n]) {
			fail(fmt.Errorf("key %q is another one when restored: %q", want.Kvs[n].Key, got.Kvs[n].Key))
		}
	}
	if want.Count != got.Count || want.Count != found.TotalKey {
		fail(fmt.Errorf("%d keys, restored %d, in the file %d", want.Count, got.Count, found.TotalKey))
	}
	hashes(live, restored, revision)
	sameLeases(live, restored)
	alarms := func(s *side) []*pb.AlarmMember {
		answer, err := s.maintenance.Alarm(ctx, &pb.AlarmRequest{})
		fail(err)
		return answer.Alarms
	}
	same := func(a, b *pb.AlarmMember) bool { return proto.Equal(a, b) }
	if a, b := alarms(live), alarms(restored); !slices.EqualFunc(a, b, same) {
		fail(fmt.Errorf("alarms %v, restored %v", a, b))
	}
	restored.alarm(pb.AlarmRequest_DEACTIVATE)
	put, err := restored.kv.Put(ctx, put("new", 1, 0))
	fail(err)
	if put.Header.Revision != revision+1 {
		fail(fmt.Errorf("the next write to the restored server has revision %d after %d", put.Header.Revision, revision))
	}
	fmt.Printf("revision %d: %d keys, HashKV, leases and alarms are the same\n", revision, want.Count)
}

// hashes compares HashKV at the snapshot's revision, once both have compacted as far.
func hashes(live, restored *side, revision int64) {
	ctx := context.Background()
	hash := func(s *side) *pb.HashKVResponse {
		answer, err := s.maintenance.HashKV(ctx, &pb.HashKVRequest{Revision: revision})
		fail(err)
		return answer
	}
	want, got := hash(live), hash(restored)
	if want.CompactRevision > got.CompactRevision {
		_, err := restored.kv.Compact(ctx, &pb.CompactionRequest{Revision: want.CompactRevision, Physical: true})
		fail(err)
		got = hash(restored)
	}
	if want.Hash != got.Hash || want.CompactRevision != got.CompactRevision {
		fail(fmt.Errorf("HashKV at %d is %d (compacted to %d), restored %d (compacted to %d)",
			revision, want.Hash, want.CompactRevision, got.Hash, got.CompactRevision))
	}
}

func sameLeases(live, restored *side) {
	ctx := context.Background()
	ids := func(s *side) (ids []int64) {
		answer, err := s.lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
		fail(err)
		for _, lease := range answer.Leases {
			ids = append(ids, lease.ID)
		}
		slices.Sort(ids)
		return ids
	}
	want := ids(live)
	if got := ids(restored); len(want) != leases || !slices.Equal(want, got) {
		fail(fmt.Errorf("%d leases, restored %d", len(want), len(got)))
	}
	for _, id := range want[:200] {
		ask := func(s *side) *pb.LeaseTimeToLiveResponse {
			answer, err := s.lease.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
			fail(err)
			return answer
		}
		a, b := ask(live), ask(restored)
		slices.SortFunc(a.Keys, slices.Compare)
		slices.SortFunc(b.Keys, slices.Compare)
		if a.GrantedTTL != b.GrantedTTL || !slices.EqualFunc(a.Keys, b.Keys, slices.Equal) {
			fail(fmt.Errorf("lease %d: %d s and %d keys, restored %d s and %d keys",
				id, a.GrantedTTL, len(a.Keys), b.GrantedTTL, len(b.Keys)))
		}
	}
}
