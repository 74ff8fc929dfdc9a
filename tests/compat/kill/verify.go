package main

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// verify compares the restarted store with what the writers know and what the watcher saw.
func (t *trial) verify(round int) {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	r, err := t.kv.Range(ctx, &pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(prefixEnd)}, grpc.WaitForReady(true))
	if err != nil {
		t.breaks("round %d: reading all keys: %v", round, err)
		return
	}
	if r.Header.Revision < t.revision {
		t.breaks("round %d: revision %d was acknowledged, after the restart it is %d", round, t.revision, r.Header.Revision)
	}
	t.revision = max(t.revision, r.Header.Revision)
	found := map[string]*mvccpb.KeyValue{}
	for _, kv := range r.Kvs {
		found[string(kv.Key)] = kv
	}
	expected := 0
	for _, w := range t.writers {
		w.settleDoubt(found)
		for key, c := range w.cells {
			expected++
			switch kv := found[key]; {
			case kv == nil:
				t.breaks("round %d: %s = %.20s, acknowledged at revision %d, is lost", round, key, c.value, c.revision)
			case string(kv.Value) != c.value || kv.ModRevision != c.revision:
				t.breaks("round %d: %s should be %.20s of revision %d and is %.20s of revision %d", round, key, c.value, c.revision, kv.Value, kv.ModRevision)
			}
		}
	}
	if len(found) != expected {
		t.breaks("round %d: %d keys found where %d were written", round, len(found), expected)
	}
	t.follower.verify(round, r.Header.Revision, found)
}

// settleDoubt finds out whether the write that was under way took effect, which it must have done as a whole or not at all.
func (w *writer) settleDoubt(found map[string]*mvccpb.KeyValue) {
	if w.doubt == nil {
		return
	}
	applied, revision := 0, int64(0)
	for key, value := range w.doubt {
		kv := found[key]
		if value == "" && kv == nil || kv != nil && string(kv.Value) == value {
			applied++
			revision = kv.GetModRevision()
		}
	}
	switch {
	case applied == len(w.doubt):
		w.apply(w.doubt, revision)
		w.t.happened++
	case applied > 0:
		w.t.breaks("a transaction of writer %d took effect in part: %v", w.id, w.doubt)
	default:
		w.t.vanished++
	}
	w.doubt = nil
}
