package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Pauses between two gets and between two puts: enough samples, little CPU and few writes.
const (
	pauseGets = 2 * time.Millisecond
	pausePuts = 20 * time.Millisecond
)

// latency is how long the calls of one kind took.
type latency struct{ P50, P99, Most time.Duration }

// latencies are those of a client that gets and of one that puts.
type latencies struct{ Gets, Puts latency }

func (l latency) String() string {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return fmt.Sprintf("%.2f / %.2f / %.2f", ms(l.P50), ms(l.P99), ms(l.Most))
}

// probeUntilEOF gets and puts one small key again and again, and prints the latencies at the end. A call that fails, or takes
// a minute, ends it without figures. With `putsWait` a put may time out: it counts as one that took so long.
func probeUntilEOF(address string, putsWait bool) {
	var over atomic.Bool
	go func() {
		io.Copy(io.Discard, os.Stdin)
		over.Store(true)
	}()
	var both latencies
	var group sync.WaitGroup
	group.Go(func() {
		both.Gets = calls(address, &over, pauseGets, func(ctx context.Context, kv pb.KVClient) error {
			_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("probe")})
			return err
		})
	})
	group.Go(func() {
		both.Puts = calls(address, &over, pausePuts, func(ctx context.Context, kv pb.KVClient) error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("probe"), Value: make([]byte, 100)})
			if putsWait && status.Code(err) == codes.Unavailable {
				return nil
			}
			return err
		})
	})
	group.Wait()
	fail(json.NewEncoder(os.Stdout).Encode(both))
}

// calls makes one call after the other on a connection of its own until it is over.
func calls(address string, over *atomic.Bool, pause time.Duration, call func(context.Context, pb.KVClient) error) latency {
	conn, err := member.Dial(address)
	fail(err)
	kv := pb.NewKVClient(conn)
	var took []time.Duration
	for !over.Load() || len(took) == 0 {
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := call(ctx, kv)
		cancel()
		fail(err)
		took = append(took, time.Since(start))
		time.Sleep(pause)
	}
	slices.Sort(took)
	return latency{took[len(took)/2], took[len(took)*99/100], took[len(took)-1]}
}
