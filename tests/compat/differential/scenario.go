package main

import (
	"bytes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// bigValues fills a few keys to near the request limit, reads them every way and deletes them in one write, which makes a
// watch response large enough to be fragmented.
func (d *driver) bigValues() *call {
	prefix, end := []byte("big/"), []byte("big0")
	for i := range 3 + d.Intn(3) {
		size := pick(&d.dice, 400<<10, 786_432, 1<<20, 1536<<10-200)
		d.then(unary("Put big", pb.KV_Put_FullMethodName, &pb.PutRequest{Key: append(bytes.Clone(prefix), byte('0'+i)),
			Value: bytes.Repeat([]byte{byte('A' + i)}, size)}, &pb.PutResponse{}))
	}
	for i := range 25 { // small neighbours make the chunks of a stream grow before they shrink
		d.then(unary("Put", pb.KV_Put_FullMethodName, &pb.PutRequest{Key: append(bytes.Clone(prefix), 'a', byte('a'+i))}, &pb.PutResponse{}))
	}
	for _, limit := range []int64{0, 2, 1000} {
		d.then(rangeStream(&pb.RangeRequest{Key: prefix, RangeEnd: end, Limit: limit}))
	}
	d.then(rangeStream(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}))
	d.then(rangeStream(&pb.RangeRequest{Key: prefix, RangeEnd: end, Limit: -1}))
	d.then(unary("Range", pb.KV_Range_FullMethodName, &pb.RangeRequest{Key: prefix, RangeEnd: end}, &pb.RangeResponse{}).reading())
	d.then(unary("DeleteRange", pb.KV_DeleteRange_FullMethodName, &pb.DeleteRangeRequest{Key: prefix, RangeEnd: end, PrevKv: d.chance(50)}, &pb.DeleteRangeResponse{}))
	return d.puts()
}

// alarmed raises an alarm for a member that does not exist, tries every kind of call under it and clears it.
func (d *driver) alarmed() *call {
	alarm := func(action pb.AlarmRequest_AlarmAction, kind pb.AlarmType) *call {
		q := &pb.AlarmRequest{Action: action, MemberID: 7, Alarm: kind}
		return unary("Alarm", pb.Maintenance_Alarm_FullMethodName, q, &pb.AlarmResponse{})
	}
	kind := pick(&d.dice, pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT, pb.AlarmType_NONE)
	d.then(alarm(pb.AlarmRequest_ACTIVATE, kind))
	d.then(alarm(pb.AlarmRequest_GET, pb.AlarmType_NONE))
	for range 12 {
		d.then(pick(&d.dice, d.puts, d.txns, d.deletes, d.ranges, d.leaseRevokes, d.leaseTimes, d.statuses, d.rangeStreams)())
	}
	d.granted++
	d.then(unary("LeaseGrant", pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantRequest{ID: 990, TTL: leaseStep * d.granted}, &pb.LeaseGrantResponse{}))
	d.then(unary("LeaseRevoke", pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: 990}, &pb.LeaseRevokeResponse{}))
	d.then(alarm(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NONE))
	d.then(alarm(pb.AlarmRequest_DEACTIVATE, kind))
	d.then(unary("LeaseRevoke", pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: 990}, &pb.LeaseRevokeResponse{}))
	return alarm(pb.AlarmRequest_ACTIVATE, kind)
}

func (d *driver) defragments() *call {
	return unary("Defragment", pb.Maintenance_Defragment_FullMethodName, &pb.DefragmentRequest{}, &pb.DefragmentResponse{})
}
