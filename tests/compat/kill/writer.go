package main

import (
	"context"
	"fmt"
	"math/rand"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// cell is a key as its only writer knows it.
type cell struct {
	value    string
	revision int64
}

// change is one write: values to put, or "" to delete, by key. Values are never used twice, so a value found tells which
// write it came from.
type change map[string]string

// writer owns some keys and has one write under way at most, so after a kill there is at most one that may or may not have
// taken effect.
type writer struct {
	t     *trial
	id    int
	dice  *rand.Rand
	next  int
	cells map[string]cell
	doubt change
}

const keysPerWriter = 12

func newWriter(t *trial, id int, seed int64) *writer {
	return &writer{t: t, id: id, dice: rand.New(rand.NewSource(seed*1000 + int64(id))), cells: map[string]cell{}}
}

func (w *writer) key() string {
	return fmt.Sprintf("%s%02d/%02d", prefix, w.id, w.dice.Intn(keysPerWriter))
}

func (w *writer) value() string {
	w.next++
	return fmt.Sprintf("%d-%d-%0*d", w.id, w.next, w.dice.Intn(200), 0)
}

// write goes on until the first write that is not answered.
func (w *writer) write(ctx context.Context) {
	for ctx.Err() == nil {
		c := change{}
		key := w.key()
		switch _, there := w.cells[key]; {
		case there && w.dice.Intn(6) == 0:
			c[key] = "" // only what is there: each write makes a revision, so the watch must see every one
		case w.dice.Intn(4) == 0:
			c[key], c[w.key()] = w.value(), w.value()
		default:
			c[key] = w.value()
		}
		w.doubt = c
		revision, err := w.send(ctx, c)
		if err != nil {
			return
		}
		w.apply(c, revision)
		w.doubt = nil
		w.t.acknowledge(w, revision)
	}
}

func (w *writer) send(ctx context.Context, c change) (int64, error) {
	q := &pb.TxnRequest{}
	for key, value := range c {
		if value == "" {
			r, err := w.t.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
			return r.GetHeader().GetRevision(), err
		}
		put := &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
		if len(c) == 1 {
			r, err := w.t.kv.Put(ctx, put)
			return r.GetHeader().GetRevision(), err
		}
		q.Success = append(q.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	r, err := w.t.kv.Txn(ctx, q)
	return r.GetHeader().GetRevision(), err
}

func (w *writer) apply(c change, revision int64) {
	for key, value := range c {
		if value == "" {
			delete(w.cells, key)
		} else {
			w.cells[key] = cell{value, revision}
		}
	}
}

// acknowledge notes a write that the server answered: from here on it must never be missing.
func (t *trial) acknowledge(w *writer, revision int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.acknowledged++
	t.revision = max(t.revision, revision)
}
