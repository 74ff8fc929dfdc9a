package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// A pause between two gets: enough samples, little CPU.
const pause = 2 * time.Millisecond

// probeUntilEOF gets one small key again and again, and prints p50, p99 and the slowest in nanoseconds at the end. A get
// that fails, or takes a minute, ends it without figures.
func probeUntilEOF(address string) {
	var over atomic.Bool
	go func() {
		io.Copy(io.Discard, os.Stdin)
		over.Store(true)
	}()
	conn, err := member.Dial(address)
	fail(err)
	kv := pb.NewKVClient(conn)
	var took []time.Duration
	for !over.Load() {
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("probe")})
		cancel()
		fail(err)
		took = append(took, time.Since(start))
		time.Sleep(pause)
	}
	if len(took) == 0 {
		os.Exit(1)
	}
	slices.Sort(took)
	fmt.Println(int64(took[len(took)/2]), int64(took[len(took)*99/100]), int64(took[len(took)-1]))
}
