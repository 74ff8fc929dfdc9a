// Burst writes more events in one revision than a watch stream has room for, to many watchers of it, and then nothing:
// every event must arrive although no later write moves the stream along.
//
//	go run ./burst -server PATH
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	watchers = 20
	keys     = 10
	patience = 5 * time.Second
)

// Around the 256 KiB that a stream may hold unsent, and far beyond.
var sizes = []int{100, 1 << 10, 2 << 10, 10 << 10, 40 << 10, 100 << 10, 300 << 10}

func main() {
	server := flag.String("server", "", "the server's binary")
	rounds := flag.Int("rounds", 20, "how often each size is tried")
	flag.Parse()
	dir, err := os.MkdirTemp("", "burst-")
	fail(err)
	defer os.RemoveAll(dir)
	m, err := member.New(*server, "member", dir, "--max-request-bytes=10485760")
	fail(err)
	fail(m.Start())
	defer m.Stop()

	conn, err := member.Dial(m.Client)
	fail(err)
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	stream, err := pb.NewWatchClient(conn).Watch(context.Background())
	fail(err)
	for n := range watchers {
		create := &pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), PrevKv: n%2 == 0, Fragment: n%3 == 0}
		fail(stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}))
	}
	events := make(chan int, 1<<16)
	go func() {
		for {
			response, err := stream.Recv()
			if err != nil {
				close(events)
				return
			}
			events <- len(response.Events)
		}
	}()
	stuck := 0
	for _, size := range sizes {
		for range *rounds {
			fail(write(kv, bytes.Repeat([]byte{'v'}, size)))
			// A put of each key and a deletion of all of them, to each watcher.
			if missing := count(events, 2*keys*watchers); missing > 0 {
				stuck++
				fmt.Printf("values of %d bytes: %d of %d events missing after %s\n", size, missing, 2*keys*watchers, patience)
				fail(write(kv, []byte("moves the stream along")))
				count(events, missing+2*keys*watchers)
			}
		}
	}
	fmt.Printf("%d bursts, %d stuck\n", len(sizes)**rounds, stuck)
	if stuck > 0 {
		m.Stop()
		os.Exit(1)
	}
}

// write puts all keys in one revision and deletes them in another.
func write(kv pb.KVClient, value []byte) error {
	var puts []*pb.RequestOp
	for n := range keys {
		put := &pb.PutRequest{Key: fmt.Appendf(nil, "k%02d", n), Value: value}
		puts = append(puts, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	if _, err := kv.Txn(context.Background(), &pb.TxnRequest{Success: puts}); err != nil {
		return err
	}
	_, err := kv.DeleteRange(context.Background(), &pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	return err
}

// count takes so many events and answers how many of them did not come.
func count(events <-chan int, expected int) int {
	timeout := time.After(patience)
	for expected > 0 {
		select {
		case n, open := <-events:
			if !open {
				return expected
			}
			expected -= n
		case <-timeout:
			return expected
		}
	}
	return 0
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "burst:", err)
		os.Exit(1)
	}
}
