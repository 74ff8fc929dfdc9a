package main

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// histories makes n short histories of a few keys that live and die within single transactions, compacts each somewhere
// and compares HashKV at every revision that still has one: the last compaction's own, all above, those that older
// compactions left in etcd's cache, and zero.
func (d *driver) histories(n int) {
	var compacted []int64
	for i := 0; i < n && !d.failed(); i++ {
		for range 1 + d.Intn(25) {
			d.make(d.shortLived())
		}
		at := d.compacted + d.Int63n(d.revision-d.compacted+1) // the first one may be at 0: -1 was compacted before
		if d.compacted < 0 {
			at = d.Int63n(2)
		} else if d.chance(15) {
			at = d.revision
		}
		if d.remade[at] || at <= d.compacted {
			at = d.compacted
		} else {
			compacted = append(compacted, at)
		}
		q := &pb.CompactionRequest{Revision: at, Physical: true}
		d.make(unary("Compact", pb.KV_Compact_FullMethodName, q, &pb.CompactionResponse{}))
		d.compacted = at
		for revision := max(at-1, 0); revision <= d.revision+1; revision++ {
			d.make(hash(revision))
		}
		for _, revision := range compacted[max(0, len(compacted)-12):] {
			d.make(hash(revision))
		}
		d.make(hash(0))
	}
}

// make makes one call, without regard to watches.
func (d *driver) make(c *call) {
	d.calls++
	d.counts[c.kind]++
	before := d.revision
	d.judge(c, d.ask(c))
	d.noteRemade(c, before)
}

// noteRemade remembers the revision of a call that may have deleted a key before it put it.
func (d *driver) noteRemade(c *call, before int64) {
	if q, ok := c.request.(*pb.TxnRequest); ok && d.revision > before && mayDelete(q, 0) {
		d.remade[d.revision] = true
	}
}

func hash(revision int64) *call {
	return unary("HashKV", pb.Maintenance_HashKV_FullMethodName, &pb.HashKVRequest{Revision: revision}, &pb.HashKVResponse{})
}

func (d *driver) shortKey() []byte { return fmt.Appendf(nil, "h%d", d.Intn(4)) }

func (d *driver) shortLived() *call {
	switch p := d.Intn(100); {
	case p < 15:
		return unary("Put", pb.KV_Put_FullMethodName, d.shortPut(), &pb.PutResponse{})
	case p < 30:
		return unary("DeleteRange", pb.KV_DeleteRange_FullMethodName, d.shortDelete(), &pb.DeleteRangeResponse{})
	default:
		return txn(d.shortTxn(0))
	}
}

func (d *driver) shortPut() *pb.PutRequest {
	return &pb.PutRequest{Key: d.shortKey(), Value: d.value()}
}

func (d *driver) shortDelete() *pb.DeleteRangeRequest {
	q := &pb.DeleteRangeRequest{Key: d.shortKey()}
	switch p := d.Intn(10); {
	case p < 3:
		q.RangeEnd = d.shortKey()
	case p < 6:
		q.RangeEnd = []byte{0}
	case p < 7:
		q.Key, q.RangeEnd = []byte{0}, []byte{0}
	}
	return q
}

func (d *driver) shortTxn(depth int) *pb.TxnRequest {
	q := &pb.TxnRequest{}
	for range 1 + d.Intn(4) {
		op := &pb.RequestOp{}
		switch p := d.Intn(10); {
		case p < 5:
			op.Request = &pb.RequestOp_RequestPut{RequestPut: d.shortPut()}
		case p < 8 || depth == 2:
			op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: d.shortDelete()}
		default:
			op.Request = &pb.RequestOp_RequestTxn{RequestTxn: d.shortTxn(depth + 1)}
		}
		q.Success = append(q.Success, op)
	}
	return q
}
