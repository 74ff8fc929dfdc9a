package main

import (
	"context"
	"fmt"
	"sync"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// extent is what a store holds before the first kind is sent.
type extent struct {
	large int // values of 1 MiB under large/
	small int // values of 100 bytes under small/
	many  int // keys without a value under many/, for deletions
}

var sizes = map[string]extent{
	"full":  {large: 5 << 10, small: 200_000, many: 2_000_000},
	"small": {large: 100, small: 100_000, many: 200_000},
}

const perTxn = 128

func fill(address string, e extent) error {
	conn, err := member.Dial(address)
	if err != nil {
		return err
	}
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	if _, err := kv.Put(context.Background(), &pb.PutRequest{Key: []byte("probe"), Value: make([]byte, 100)}); err != nil {
		return err
	}
	if err := puts(kv, "large/", e.large, 1<<20, 4); err != nil {
		return err
	}
	if err := puts(kv, "small/", e.small, 100, perTxn); err != nil {
		return err
	}
	return puts(kv, "many/", e.many, 0, perTxn)
}

// puts writes keys prefix0000000 and on, several in a transaction, from a few writers.
func puts(kv pb.KVClient, prefix string, count, value, each int) error {
	starts, failed := make(chan int), make(chan error, 16)
	var group sync.WaitGroup
	for range cap(failed) {
		group.Go(func() {
			for at := range starts {
				txn := &pb.TxnRequest{}
				for key := at; key < min(at+each, count); key++ {
					put := &pb.PutRequest{Key: fmt.Appendf(nil, "%s%07d", prefix, key), Value: make([]byte, value)}
					txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
				}
				if _, err := kv.Txn(context.Background(), txn); err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			}
		})
	}
	for at := 0; at < count; at += each {
		starts <- at
	}
	close(starts)
	group.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}
