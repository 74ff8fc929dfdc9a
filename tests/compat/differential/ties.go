package main

import (
	"bytes"
	"context"
	"fmt"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// stableUpTo is the length to which Go's sort is an insertion sort and keeps equal keys in order. Above it the order of
// keys with equal version, revision or value is an accident of etcd's library that no client may build on.
const stableUpTo = 12

// settleTies brings the answer to a sorted Range into one order: equal sort keys by key. Where a limit cuts through a run
// of equals, which of them survive is open too, and only their number is compared.
func settleTies(q *pb.RangeRequest, r *pb.RangeResponse) {
	if r == nil || len(r.Kvs) == 0 || r.Count <= stableUpTo || q.SortTarget == pb.RangeRequest_KEY {
		return
	}
	settleRuns(r.Kvs, keyOfTarget(q), r.More || (q.Limit > 0 && int64(len(r.Kvs)) >= q.Limit))
}

// settleRuns brings runs of equal sort keys into one order; of the last run only the length is kept if a limit cut it.
func settleRuns(kvs []*mvccpb.KeyValue, sortKey func(*mvccpb.KeyValue) string, cut bool) {
	last := sortKey(kvs[len(kvs)-1])
	for from := 0; from < len(kvs); {
		to := from
		for to < len(kvs) && sortKey(kvs[to]) == sortKey(kvs[from]) {
			to++
		}
		run := kvs[from:to]
		if cut && sortKey(run[0]) == last {
			for i := range run {
				run[i] = &mvccpb.KeyValue{}
			}
		} else {
			sort.Slice(run, func(i, j int) bool { return bytes.Compare(run[i].Key, run[j].Key) < 0 })
		}
		from = to
	}
}

func keyOfTarget(q *pb.RangeRequest) func(*mvccpb.KeyValue) string {
	switch q.SortTarget {
	case pb.RangeRequest_VERSION:
		return func(kv *mvccpb.KeyValue) string { return fmt.Sprint(kv.Version) }
	case pb.RangeRequest_CREATE:
		return func(kv *mvccpb.KeyValue) string { return fmt.Sprint(kv.CreateRevision) }
	case pb.RangeRequest_MOD:
		return func(kv *mvccpb.KeyValue) string { return fmt.Sprint(kv.ModRevision) }
	default: // values; with keys_only they are gone and the whole answer is one run
		return func(kv *mvccpb.KeyValue) string { return string(kv.Value) }
	}
}

// settleStreamTies does it for a RangeStream with a target but no order. etcd sorts each chunk by itself, with the one pair
// behind it, and goes on behind the last pair it has sent: after a chunk of more than twelve with ties, what follows is an
// accident too. Such a chunk is compared like a Range with a limit, and nothing behind it.
func (d *driver) settleStreamTies(q *pb.RangeRequest, left, right *outcome) {
	if q.SortTarget == pb.RangeRequest_KEY || left.code != 0 || len(left.messages) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	// Nothing is written while reads are judged, so this sees what the stream saw.
	all, err := pb.NewKVClient(d.sides[0].conn).Range(ctx, &pb.RangeRequest{Key: q.Key, RangeEnd: q.RangeEnd, Revision: max(q.Revision, 0)})
	if err != nil {
		return
	}
	target := keyOfTarget(q)
	sortKeys := map[string]string{}
	for _, kv := range all.Kvs {
		sortKeys[string(kv.Key)] = target(kv)
	}
	sortKey := func(kv *mvccpb.KeyValue) string { return sortKeys[string(kv.Key)] }
	from := 0
	for i, m := range left.messages {
		kvs := m.(*pb.RangeStreamResponse).GetRangeResponse().GetKvs()
		if len(kvs) == 0 || i >= len(right.messages) {
			return
		}
		sorted := all.Kvs[from:min(from+len(kvs)+1, len(all.Kvs))]
		if len(sorted) > stableUpTo && ties(sorted, sortKey) {
			for _, o := range []*outcome{left, right} {
				o.messages = o.messages[:i+1]
				if kvs := o.messages[i].(*pb.RangeStreamResponse).GetRangeResponse().GetKvs(); len(kvs) > 0 {
					settleRuns(kvs, sortKey, len(sorted) > len(kvs))
				}
			}
			return
		}
		last := kvs[len(kvs)-1].Key
		from = sort.Search(len(all.Kvs), func(at int) bool { return bytes.Compare(all.Kvs[at].Key, last) > 0 })
	}
}

func ties(kvs []*mvccpb.KeyValue, sortKey func(*mvccpb.KeyValue) string) bool {
	seen := map[string]bool{}
	for _, kv := range kvs {
		if seen[sortKey(kv)] {
			return true
		}
		seen[sortKey(kv)] = true
	}
	return false
}

// settleTxnTies does the same for every Range inside a transaction.
func settleTxnTies(q *pb.TxnRequest, r *pb.TxnResponse) {
	if q == nil || r == nil {
		return
	}
	ops := q.Failure
	if r.Succeeded {
		ops = q.Success
	}
	for i, op := range ops {
		if i >= len(r.Responses) {
			return
		}
		switch op := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			settleTies(op.RequestRange, r.Responses[i].GetResponseRange())
		case *pb.RequestOp_RequestTxn:
			settleTxnTies(op.RequestTxn, r.Responses[i].GetResponseTxn())
		}
	}
}

// inBoth applies f to the first message of each side when it has the type T.
func inBoth[T any](f func(T)) func(left, right *outcome) {
	return func(left, right *outcome) {
		for _, o := range []*outcome{left, right} {
			if len(o.messages) > 0 {
				if m, ok := any(o.messages[0]).(T); ok {
					f(m)
				}
			}
		}
	}
}
