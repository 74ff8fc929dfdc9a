// Stalled asks for answers that it does not take, writes and compacts beside them, and looks whether the space of what
// was compacted comes back: an answer under way keeps what it reads, but not for as long as its client likes.
//
//	go run ./stalled -server PATH      half a minute
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
)

const (
	keys    = 20
	value   = 1 << 20
	rounds  = 3
	patient = 15 * time.Second // for one compaction that waits for a stalled answer
	most    = 3 * keys * value // bytes in use at the end: one generation, and what awaits its turn
	settled = 20 * time.Second // until the space is back
)

// held keeps connections from being collected, and so closed.
var held []net.Conn

var everything = &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}

func main() {
	server := flag.String("server", "", "the server's binary")
	flag.Parse()
	dir, err := os.MkdirTemp("", "stalled-")
	fail(err)
	defer os.RemoveAll(dir)
	m, err := member.New(*server, "member", dir)
	fail(err)
	fail(m.Start())
	defer m.Stop()
	conn, err := member.Dial(m.Client)
	fail(err)
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	write(kv)

	r := pb.RequestOp_RequestRange{RequestRange: everything}
	list := &pb.RequestOp{Request: &r}
	for path, request := range map[string]proto.Message{
		"/etcdserverpb.KV/Range":             everything,
		"/etcdserverpb.KV/RangeStream":       everything,
		"/etcdserverpb.Maintenance/Snapshot": &pb.SnapshotRequest{},
		"/etcdserverpb.KV/Txn":               &pb.TxnRequest{Success: []*pb.RequestOp{list, list}},
	} {
		fail(ask(m.Client, path, request))
	}

	defer func() { fmt.Println(len(held), "answers were not taken") }()
	for range rounds {
		revision := write(kv)
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		began := time.Now()
		_, err := kv.Compact(ctx, &pb.CompactionRequest{Revision: revision, Physical: true})
		cancel()
		if err != nil {
			fail(fmt.Errorf("a compaction waited %v for an answer that nobody takes: %w", time.Since(began), err))
		}
		fmt.Printf("compacted to %d after %v\n", revision, time.Since(began).Round(time.Millisecond))
	}
	maintenance := pb.NewMaintenanceClient(conn)
	for began := time.Now(); ; time.Sleep(time.Second) {
		status, err := maintenance.Status(context.Background(), &pb.StatusRequest{})
		fail(err)
		fmt.Printf("%d MB in use\n", status.DbSizeInUse>>20)
		if status.DbSizeInUse < most {
			return
		}
		if time.Since(began) > settled {
			fail(fmt.Errorf("%d bytes are still in use", status.DbSizeInUse))
		}
	}
}

// write puts every key once and returns the last revision.
func write(kv pb.KVClient) int64 {
	var revision int64
	for key := range keys {
		put := &pb.PutRequest{Key: fmt.Appendf(nil, "key%02d", key), Value: make([]byte, value)}
		answer, err := kv.Put(context.Background(), put)
		fail(err)
		revision = answer.Header.Revision
	}
	return revision
}

// ask sends a call over a connection of its own and takes nothing of the answer. The connection stays open.
func ask(address, path string, request proto.Message) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	held = append(held, conn)
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		return err
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
		return err
	}
	var block bytes.Buffer
	coder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "member"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		if err := coder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			return err
		}
	}
	head := http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}
	if err := framer.WriteHeaders(head); err != nil {
		return err
	}
	message, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return framer.WriteData(1, true, append(body, message...))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "stalled:", err)
		os.Exit(1)
	}
}
