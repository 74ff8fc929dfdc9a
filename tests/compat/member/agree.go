package member

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// newestWithin is how long the first member may take to tell its revision.
const newestWithin = 10 * time.Second

// Agree waits until all members have the same store, by HashKV at the newest revision of the first: the hash and the revision.
func Agree(members []*grpc.ClientConn, within time.Duration) (uint32, int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), newestWithin)
	defer cancel()
	newest, err := pb.NewKVClient(members[0]).Range(ctx, &pb.RangeRequest{Key: []byte{0}, CountOnly: true})
	if err != nil {
		return 0, 0, err
	}
	revision := newest.Header.Revision
	deadline := time.Now().Add(within)
	for {
		hashes := map[uint32]int{}
		for _, conn := range members {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			hash, err := pb.NewMaintenanceClient(conn).HashKV(ctx, &pb.HashKVRequest{Revision: revision})
			cancel()
			if err == nil {
				hashes[hash.Hash]++
			}
		}
		for hash, count := range hashes {
			if count == len(members) {
				return hash, revision, nil
			}
		}
		if time.Now().After(deadline) {
			return 0, 0, fmt.Errorf("the members do not agree at revision %d: %v", revision, hashes)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
