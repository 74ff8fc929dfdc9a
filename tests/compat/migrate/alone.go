package main

import (
	"fmt"
	"slices"
	"strings"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	leases     = 50
	leaseTTL   = 3600
	perTxn     = 100
	moreWrites = 300
)

// alone has one member with keys, leases, a compaction and an alarm go to Kevel and back, stopped and killed.
func (b binaries) alone(dir string, keys int) {
	s := b.lay("alone", dir)
	member.Together(s.Member)
	s.start()
	defer s.Kill()
	s.fill(keys)
	for _, how := range []string{"stopped", "killed", "stopped", "killed"} {
		s.write(how)
		before := s.facts()
		if how == "stopped" {
			s.Stop()
		} else {
			s.Kill()
		}
		b.migrate(s)
		s.start()
		after := s.facts()
		if before != after {
			fail(fmt.Errorf("%s and migrated, a member has\n%s\nand had\n%s", how, after, before))
		}
		fmt.Printf("%s and migrated, it is the same: %s\n", how, strings.Split(after, "\n")[0])
	}
}

// fill makes keys, some of them changed and deleted, leases with keys, and a compaction.
func (s *side) fill(keys int) {
	for id := int64(1); id <= leases; id++ {
		call(s.lease().LeaseGrant, &pb.LeaseGrantRequest{ID: id, TTL: leaseTTL + id})
	}
	for first := 0; first < keys; first += perTxn {
		var ops []*pb.RequestOp
		for n := first; n < min(first+perTxn, keys); n++ {
			put := &pb.PutRequest{Key: key(n), Value: fmt.Append(nil, strings.Repeat("v", n%900), n)}
			if n%10 == 0 {
				put.Lease = int64(n%leases + 1)
			}
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		}
		call(s.kv().Txn, &pb.TxnRequest{Success: ops})
	}
	for n := 0; n < keys; n += 37 {
		call(s.kv().Put, &pb.PutRequest{Key: key(n), Value: []byte("changed")})
	}
	for n := 5; n < keys; n += 101 {
		call(s.kv().DeleteRange, &pb.DeleteRangeRequest{Key: key(n)})
	}
	revision := call(s.kv().Range, &pb.RangeRequest{Key: key(0)}).Header.Revision
	call(s.kv().Compact, &pb.CompactionRequest{Revision: revision / 2, Physical: true})
}

// write changes a member that has gone one way or the other: an alarm comes and goes, and so does a lease.
func (s *side) write(what string) {
	id := call(s.maintenance().Status, &pb.StatusRequest{}).Header.MemberId
	alarm := func(action pb.AlarmRequest_AlarmAction) {
		call(s.maintenance().Alarm, &pb.AlarmRequest{Action: action, MemberID: id, Alarm: pb.AlarmType_NOSPACE})
	}
	alarm(pb.AlarmRequest_DEACTIVATE)
	granted := call(s.lease().LeaseGrant, &pb.LeaseGrantRequest{TTL: leaseTTL})
	for n := range moreWrites {
		put := &pb.PutRequest{Key: key(n), Value: []byte(what), PrevKv: true}
		if n%3 == 0 {
			put.Lease = granted.ID
		}
		call(s.kv().Put, put)
	}
	alarm(pb.AlarmRequest_ACTIVATE)
}

// facts is all that has to be the same in a member that was migrated.
func (s *side) facts() string {
	everything := call(s.kv().Range, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
	newest := everything.Header.Revision
	var said strings.Builder
	fmt.Fprintf(&said, "revision %d with %d keys", newest, everything.Count)
	hash := call(s.maintenance().HashKV, &pb.HashKVRequest{Revision: newest})
	fmt.Fprintf(&said, ", HashKV %08x compacted to %d", hash.Hash, hash.CompactRevision)
	older := call(s.maintenance().HashKV, &pb.HashKVRequest{Revision: hash.CompactRevision + 3})
	fmt.Fprintf(&said, ", older %08x\n", older.Hash)
	past := call(s.kv().Range, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: hash.CompactRevision + 3, Limit: 500})
	fmt.Fprintf(&said, "of the past %v\n", past.Kvs)

	var held []string
	for _, lease := range call(s.lease().LeaseLeases, &pb.LeaseLeasesRequest{}).Leases {
		told := call(s.lease().LeaseTimeToLive, &pb.LeaseTimeToLiveRequest{ID: lease.ID, Keys: true})
		if told.TTL <= leaseTTL/2 || told.TTL > told.GrantedTTL {
			fail(fmt.Errorf("lease %d of %d s has %d s left", lease.ID, told.GrantedTTL, told.TTL))
		}
		slices.SortFunc(told.Keys, slices.Compare)
		held = append(held, fmt.Sprintf("lease %x of %d s with %q", lease.ID, told.GrantedTTL, told.Keys))
	}
	slices.Sort(held)
	said.WriteString(strings.Join(held, "\n"))
	members := call(pb.NewClusterClient(s.conn).MemberList, &pb.MemberListRequest{Linearizable: true})
	alarms := call(s.maintenance().Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
	status := call(s.maintenance().Status, &pb.StatusRequest{})
	fmt.Fprintf(&said, "\nmembers %v\nalarms %v\ncluster %x member %x", members.Members, alarms.Alarms, status.Header.ClusterId, status.Header.MemberId)
	return said.String()
}

func key(n int) []byte { return fmt.Appendf(nil, "key/%06d", n) }
