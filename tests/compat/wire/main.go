// Wire sends messages that no client library would write to etcd and to another server, and compares what both make of
// them: fields of another wire type than the proto says at every depth, groups, tags that are longer than need be, parts
// that come twice, and bytes that are no message.
//
//	go run ./wire -etcd PATH -kevel PATH -seed 1 -messages 20000
package main

import (
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// codec passes bytes through.
type codec struct{}

func (codec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (codec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (codec) Name() string { return "proto" }

type server struct {
	name string
	conn *grpc.ClientConn
}

// call says how a unary call ends.
func (s *server) call(method string, message []byte) string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var answer []byte
	if err := s.conn.Invoke(ctx, method, &message, &answer, grpc.ForceCodec(codec{})); err != nil {
		return ending(err)
	}
	return shown(responses[method](), answer)
}

// watch says what the first message on a new stream is answered with.
func (s *server) watch(message []byte) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	stream, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
		"/etcdserverpb.Watch/Watch", grpc.ForceCodec(codec{}))
	fail(err)
	fail(stream.SendMsg(&message))
	var answer []byte
	if err := stream.RecvMsg(&answer); err != nil {
		return ending(err)
	}
	return shown(&pb.WatchResponse{}, answer)
}

func ending(err error) string {
	// The client library has two texts for a deadline of its own.
	if status.Code(err) == codes.DeadlineExceeded {
		return codes.DeadlineExceeded.String()
	}
	return fmt.Sprintf("%s: %s", status.Code(err), status.Convert(err).Message())
}

// shown is an answer without the ids of who gave it.
func shown(response proto.Message, answer []byte) string {
	if err := proto.Unmarshal(answer, response); err != nil {
		return "undecodable: " + err.Error()
	}
	if r, ok := response.(interface{ GetHeader() *pb.ResponseHeader }); ok && r.GetHeader() != nil {
		r.GetHeader().ClusterId, r.GetHeader().MemberId, r.GetHeader().RaftTerm = 0, 0, 0
	}
	bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(response)
	fail(err)
	return hex.EncodeToString(bytes)
}

const (
	rangeMethod  = "/etcdserverpb.KV/Range"
	putMethod    = "/etcdserverpb.KV/Put"
	deleteMethod = "/etcdserverpb.KV/DeleteRange"
	txnMethod    = "/etcdserverpb.KV/Txn"
	watchMethod  = "/etcdserverpb.Watch/Watch"
)

var responses = map[string]func() proto.Message{
	rangeMethod:  func() proto.Message { return &pb.RangeResponse{} },
	putMethod:    func() proto.Message { return &pb.PutResponse{} },
	deleteMethod: func() proto.Message { return &pb.DeleteRangeResponse{} },
	txnMethod:    func() proto.Message { return &pb.TxnResponse{} },
}

func main() {
	etcd := flag.String("etcd", "", "etcd's binary")
	kevel := flag.String("kevel", "", "the other binary")
	seed := flag.Int64("seed", 1, "decides which messages are sent")
	messages := flag.Int("messages", 5000, "how many are drawn")
	plant := flag.Bool("plant", false, "spoil one answer, which must be found")
	flag.Parse()
	os.Exit(run([2]string{*etcd, *kevel}, *seed, *messages, *plant))
}

// run compares on a new pair of servers, and says with which status the program ends.
func run(binaries [2]string, seed int64, messages int, plant bool) int {
	dir, err := os.MkdirTemp("", "wire-")
	fail(err)
	defer os.RemoveAll(dir)
	var servers [2]*server
	for i, binary := range binaries {
		m, err := member.New(binary, []string{"left", "right"}[i], dir)
		fail(err)
		fail(m.Start())
		defer m.Kill()
		conn, err := member.Dial(m.Client)
		fail(err)
		servers[i] = &server{name: []string{"etcd", "kevel"}[i], conn: conn}
	}
	sent, different, refused := 0, 0, 0
	compare := func(method string, message []byte) {
		var said [2]string
		for i, s := range servers {
			if method == watchMethod {
				said[i] = s.watch(message)
			} else {
				said[i] = s.call(method, message)
			}
		}
		sent++
		if plant && sent == 3 {
			said[1] += "?"
		}
		if len(said[0]) > 8 && said[0][:8] == "Internal" {
			refused++
		}
		if said[0] != said[1] {
			different++
			shortened := message[:min(len(message), 200)]
			fmt.Printf("DIFFERENT %s %x (%d bytes)\n  etcd  %.200s\n  kevel %.200s\n", method, shortened, len(message), said[0], said[1])
		}
	}
	for _, c := range cases() {
		compare(c.method, c.message)
	}
	d := &drawer{rand.New(rand.NewSource(seed))}
	for range messages {
		compare(d.draw())
	}
	fmt.Printf("%d messages, %d of them refused as no message, %d differ\n", sent, refused, different)
	if different > 0 {
		return 1
	}
	return 0
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
