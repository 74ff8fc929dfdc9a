package main

import (
	"bytes"
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
	sortKey := keyOfTarget(q)
	cut := r.More || (q.Limit > 0 && int64(len(r.Kvs)) >= q.Limit)
	last := sortKey(r.Kvs[len(r.Kvs)-1])
	for from := 0; from < len(r.Kvs); {
		to := from
		for to < len(r.Kvs) && sortKey(r.Kvs[to]) == sortKey(r.Kvs[from]) {
			to++
		}
		run := r.Kvs[from:to]
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
