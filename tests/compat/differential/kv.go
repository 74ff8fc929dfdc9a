package main

import (
	"bytes"
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const maxTxnOps = 128

// askRevision draws a revision to ask at: mostly one that exists, but also every kind that does not.
func (d *driver) askRevision() int64 {
	switch p := d.Intn(100); {
	case p < 50:
		return 0
	case p < 80:
		return d.pastRevision()
	case p < 86:
		return d.revision
	case p < 90:
		return d.compacted
	case p < 94:
		return d.compacted - 1 - d.Int63n(3)
	case p < 98:
		return d.revision + 1 + d.Int63n(3)
	default:
		return d.number()
	}
}

// pastRevision is one that is neither compacted nor future.
func (d *driver) pastRevision() int64 {
	oldest := max(d.compacted, 1)
	return oldest + d.Int63n(d.revision-oldest+1)
}

func (d *driver) rangeRequest() *pb.RangeRequest {
	q := &pb.RangeRequest{}
	q.Key, q.RangeEnd = d.interval()
	q.Revision = d.askRevision()
	if d.chance(35) {
		q.Limit = pick[int64](&d.dice, 1, 2, 3, 5, 11, 12, 13, 20, 1000, -1, math.MaxInt64, math.MinInt64)
	}
	if d.chance(30) {
		q.SortOrder = pb.RangeRequest_SortOrder(d.Intn(3))
		q.SortTarget = pb.RangeRequest_SortTarget(d.Intn(5))
	}
	if d.chance(1) {
		q.SortOrder = pick(&d.dice, pb.RangeRequest_SortOrder(3), -1, 99)
	}
	if d.chance(1) {
		q.SortTarget = pick(&d.dice, pb.RangeRequest_SortTarget(5), -1, 99)
	}
	q.Serializable = d.chance(30)
	q.KeysOnly = d.chance(15)
	q.CountOnly = d.chance(8)
	for _, bound := range []*int64{&q.MinModRevision, &q.MaxModRevision, &q.MinCreateRevision, &q.MaxCreateRevision} {
		if d.chance(4) {
			*bound = pick(&d.dice, d.pastRevision(), d.pastRevision(), d.pastRevision(), d.revision, d.number())
		}
	}
	return q
}

func (d *driver) ranges() *call {
	q := d.rangeRequest()
	c := unary("Range", pb.KV_Range_FullMethodName, q, &pb.RangeResponse{}).reading()
	c.relax = inBoth(func(r *pb.RangeResponse) { settleTies(q, r) })
	return c
}

func (d *driver) rangeStreams() *call {
	q := d.rangeRequest()
	if d.chance(85) { // most of what Range can do, RangeStream refuses
		q.SortOrder, q.SortTarget = 0, 0
		q.MinModRevision, q.MaxModRevision, q.MinCreateRevision, q.MaxCreateRevision = 0, 0, 0, 0
	}
	c := rangeStream(q)
	c.relax = func(left, right *outcome) { d.settleStreamTies(q, left, right) }
	return c
}

func (d *driver) putRequest() *pb.PutRequest {
	q := &pb.PutRequest{Key: d.key(), Value: d.value(), PrevKv: d.chance(25)}
	switch p := d.Intn(100); {
	case p < 20:
		q.Lease = d.leaseID()
	case p < 22:
		q.Lease = pick[int64](&d.dice, 424242, -424242, math.MaxInt64)
	}
	if d.chance(6) {
		q.IgnoreValue = true
		if d.chance(70) {
			q.Value = nil
		}
	}
	if d.chance(6) {
		q.IgnoreLease = true
		if d.chance(70) {
			q.Lease = 0
		}
	}
	return q
}

func (d *driver) puts() *call {
	return unary("Put", pb.KV_Put_FullMethodName, d.putRequest(), &pb.PutResponse{})
}

func (d *driver) deleteRequest() *pb.DeleteRangeRequest {
	q := &pb.DeleteRangeRequest{PrevKv: d.chance(40)}
	if q.Key, q.RangeEnd = d.interval(); len(q.RangeEnd) > 0 && d.chance(60) {
		q.RangeEnd = nil // a store that is always empty tests little
	}
	return q
}

func (d *driver) deletes() *call {
	return unary("DeleteRange", pb.KV_DeleteRange_FullMethodName, d.deleteRequest(), &pb.DeleteRangeResponse{})
}

func (d *driver) compare() *pb.Compare {
	c := &pb.Compare{Key: d.key(), Result: pb.Compare_CompareResult(d.Intn(4)), Target: pb.Compare_CompareTarget(d.Intn(5))}
	if d.chance(25) {
		c.Key, c.RangeEnd = d.interval()
	}
	if d.chance(2) {
		c.Result = pick(&d.dice, pb.Compare_CompareResult(4), -1, 99)
	}
	if d.chance(2) {
		c.Target = pick(&d.dice, pb.Compare_CompareTarget(5), -1, 99)
	}
	union := c.Target
	if d.chance(5) { // the union says one thing and the target another
		union = pb.Compare_CompareTarget(d.Intn(5))
	}
	switch union {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: pick(&d.dice, 0, 0, 1, 2, 3, d.number())}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: pick(&d.dice, 0, 0, d.pastRevision(), d.number())}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: pick(&d.dice, 0, 0, d.pastRevision(), d.revision, d.number())}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: d.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: pick(&d.dice, 0, d.leaseID(), d.number())}
	}
	if d.chance(4) {
		c.TargetUnion = nil
	}
	return c
}

func (d *driver) op(depth int) *pb.RequestOp {
	switch p := d.Intn(1000); {
	case p < 400:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: d.putRequest()}}
	case p < 700:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: d.rangeRequest()}}
	case p < 870 || depth >= 3:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: d.deleteRequest()}}
	case p < 995:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: d.txnRequest(depth + 1)}}
	default:
		return &pb.RequestOp{}
	}
}

func (d *driver) ops(depth int) (ops []*pb.RequestOp) {
	for range d.Intn(4) {
		ops = append(ops, d.op(depth))
	}
	return ops
}

func (d *driver) txnRequest(depth int) *pb.TxnRequest {
	q := &pb.TxnRequest{Success: d.ops(depth), Failure: d.ops(depth)}
	for range pick(&d.dice, 0, 0, 1, 1, 2) {
		q.Compare = append(q.Compare, d.compare())
	}
	return q
}

// crowdedTxn sits at the limit on the number of operations, on either side of it, flat or nested.
func (d *driver) crowdedTxn() *pb.TxnRequest {
	q := &pb.TxnRequest{}
	key := d.key()
	for i := range maxTxnOps - 1 + d.Intn(3) {
		put := &pb.PutRequest{Key: append(bytes.Clone(key), byte(i)), Value: []byte("crowd")}
		q.Success = append(q.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	switch d.Intn(4) {
	case 0:
		inner := &pb.TxnRequest{Failure: slices.Clone(q.Success[5 : 5+d.Intn(len(q.Success)-5)])}
		q.Success = append(q.Success[:5:5], &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: inner}})
	case 1:
		for range maxTxnOps - 1 + d.Intn(3) {
			q.Compare = append(q.Compare, &pb.Compare{Key: []byte("k00"), Target: pb.Compare_VERSION})
		}
		q.Success = q.Success[:2]
	case 2:
		q.Success, q.Failure = q.Success[:1], q.Success
	}
	return q
}

// readingTxn holds only ranges, so etcd answers it without its log.
func (d *driver) readingTxn() *pb.TxnRequest {
	q := &pb.TxnRequest{}
	for range d.Intn(4) {
		range1, range2 := d.rangeRequest(), d.rangeRequest()
		q.Success = append(q.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: range1}})
		q.Failure = append(q.Failure, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: range2}})
	}
	if d.chance(70) {
		q.Compare = append(q.Compare, d.compare())
	}
	return q
}

func (d *driver) txns() *call {
	var q *pb.TxnRequest
	switch p := d.Intn(100); {
	case p < 3:
		q = d.crowdedTxn()
	case p < 23:
		q = d.readingTxn()
	default:
		q = d.txnRequest(1)
	}
	if mayDelete(q, 0) {
		keepFlagsOff(q)
	}
	return txn(q)
}

// mayDelete finds deletes that etcd does not check against the puts of the same transaction: from a key to the end of all
// keys, and beside a nested transaction. After such a delete a put that keeps its key's value or lease has nothing to keep,
// and etcd 3.7.3 panics while it applies the entry, at every restart again. That comparison would be short.
func mayDelete(q *pb.TxnRequest, depth int) bool {
	nested, deletes := depth > 0, false
	for _, op := range slices.Concat(q.Success, q.Failure) {
		if inner := op.GetRequestTxn(); inner != nil {
			nested = true
			if mayDelete(inner, depth+1) {
				return true
			}
		}
		if del := op.GetRequestDeleteRange(); del != nil {
			deletes = true
			if string(del.RangeEnd) == "\x00" {
				return true
			}
		}
	}
	return nested && deletes
}

func keepFlagsOff(q *pb.TxnRequest) {
	for _, op := range slices.Concat(q.Success, q.Failure) {
		if put := op.GetRequestPut(); put != nil {
			put.IgnoreValue, put.IgnoreLease = false, false
		}
		if inner := op.GetRequestTxn(); inner != nil {
			keepFlagsOff(inner)
		}
	}
}

func txn(q *pb.TxnRequest) *call {
	c := unary("Txn", pb.KV_Txn_FullMethodName, q, &pb.TxnResponse{})
	c.relax = inBoth(func(r *pb.TxnResponse) { settleTxnTies(q, r) })
	return c
}

// compactions wait for all events first: a watcher that still catches up would lose to a compaction or win by luck, and so
// would the previous values that its events carry.
func (d *driver) compactions() *call {
	q := &pb.CompactionRequest{Physical: d.chance(30)}
	switch p := d.Intn(100); {
	case p < 60:
		q.Revision = d.pastRevision()
	case p < 70:
		q.Revision = d.revision
	case p < 80:
		q.Revision = d.compacted
	case p < 90:
		q.Revision = d.revision + 1 + d.Int63n(3)
	default:
		q.Revision = d.number()
	}
	if d.remade[q.Revision] {
		q.Revision = d.revision + 1
	}
	c := unary("Compact", pb.KV_Compact_FullMethodName, q, &pb.CompactionResponse{})
	c.before = d.watches.beforeCompaction
	c.after = func(left outcome) {
		if left.text == "" {
			d.compacted = q.Revision
			d.compactedAt[q.Revision] = true
			d.watches.forgetBefore(q.Revision)
		}
	}
	return c
}
