package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const (
	methodRange       = "/etcdserverpb.KV/Range"
	methodRangeStream = "/etcdserverpb.KV/RangeStream"
	methodTxn         = "/etcdserverpb.KV/Txn"
	methodPut         = "/etcdserverpb.KV/Put"
	methodDelete      = "/etcdserverpb.KV/DeleteRange"
	methodCompact     = "/etcdserverpb.KV/Compact"
	methodGrant       = "/etcdserverpb.Lease/LeaseGrant"
	methodLeases      = "/etcdserverpb.Lease/LeaseLeases"
	methodTimeToLive  = "/etcdserverpb.Lease/LeaseTimeToLive"
	methodHashKV      = "/etcdserverpb.Maintenance/HashKV"
	methodHash        = "/etcdserverpb.Maintenance/Hash"
	methodDefragment  = "/etcdserverpb.Maintenance/Defragment"
)

// A kind of dear request. How long gets take is never judged beside kinds that keep the log busy (`writes`): a get that is
// linearizable waits for no write, but the disk and the kernel are shared.
type kind struct {
	name   string
	writes bool
	// Puts beside it wait until the disk has what it writes, which may take longer than the member's time for requests.
	putsWait bool
	send     func(*sender)
	// answers are all that may come, "OK" where there are none: codes, or what a sender that sees no code counts.
	answers []string
	// An answer of everything in the full store is longer than gRPC can say.
	everything bool
}

// tooLong is the code of an answer that is longer than gRPC can say, or than a member assembles.
const tooLong = "ResourceExhausted"

// wrong is what is wrong with the answers to a kind; empty where each is one that may come, and there is one.
func (k kind) wrong(answers map[string]int, full bool) string {
	right := k.answers
	switch {
	case k.everything && full:
		right = []string{tooLong}
	case len(right) == 0:
		right = []string{"OK"}
	}
	for answer := range answers {
		if !slices.Contains(right, answer) {
			return fmt.Sprintf("%s instead of %s", answer, strings.Join(right, " or "))
		}
	}
	if len(answers) == 0 {
		return "no answer"
	}
	return ""
}

// answering says what comes instead of "OK".
func (k kind) answering(answers ...string) kind {
	k.answers = answers
	return k
}

// ofEverything marks an answer that has all of the store in it.
func (k kind) ofEverything() kind {
	k.everything = true
	return k
}

// fillingTheDisk marks a kind whose requests and the puts beside them may wait for the disk longer than a member lets them.
func (k kind) fillingTheDisk() kind {
	k.writes, k.putsWait, k.answers = true, true, []string{"OK", "Unavailable", tooLong}
	return k
}

// What senders count that see no code.
var (
	streamed = []string{"message", "OK"}
	unseen   = []string{"sent"}
	watched  = []string{"response"}
)

var everything = &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}

func of(change func(*pb.RangeRequest)) *pb.RangeRequest {
	r := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	change(r)
	return r
}

func unaryKind(name string, callers int, method string, request proto.Message) kind {
	return kind{name: name, send: func(s *sender) { s.unary(callers, method, func(int) proto.Message { return request }) }}
}

var kinds = append(ranges(), append(txns(), append(streams(), others()...)...)...)

func ranges() []kind {
	return []kind{
		unaryKind("range/everything", 1, methodRange, everything).ofEverything(),
		unaryKind("range/limit-negative", 1, methodRange, of(func(r *pb.RangeRequest) { r.Limit = -1 })).ofEverything(),
		unaryKind("range/values-that-fit", 4, methodRange, &pb.RangeRequest{Key: []byte("large/"), RangeEnd: []byte("large/0000100")}),
		unaryKind("range/keys-only", 4, methodRange, of(func(r *pb.RangeRequest) { r.KeysOnly = true })),
		unaryKind("range/count-only", 4, methodRange, of(func(r *pb.RangeRequest) { r.CountOnly = true })),
		unaryKind("range/sorted-by-value", 4, methodRange, sorted(pb.RangeRequest_VALUE, 1)),
		unaryKind("range/sorted-by-value-all", 1, methodRange, sorted(pb.RangeRequest_VALUE, 0)).ofEverything(),
		unaryKind("range/sorted-by-version", 4, methodRange, sorted(pb.RangeRequest_VERSION, 10)),
		unaryKind("range/sorted-by-mod", 4, methodRange, sorted(pb.RangeRequest_MOD, 0)).ofEverything(),
		unaryKind("range/filtered-to-nothing", 4, methodRange, of(func(r *pb.RangeRequest) { r.MinModRevision = 1 << 60 })),
		{name: "range/stream", answers: streamed, send: func(s *sender) { s.streamed(2, methodRangeStream, everything) }},
		{name: "range/stream-limit-negative", answers: streamed, everything: true, send: func(s *sender) {
			s.streamed(1, methodRangeStream, of(func(r *pb.RangeRequest) { r.Limit = -1 }))
		}},
		{name: "range/stream-sorted", answers: []string{"Unimplemented"}, send: func(s *sender) { s.streamed(1, methodRangeStream, sorted(pb.RangeRequest_VALUE, 0)) }},
		// Each call has one and a half kilobytes, which become one and a half megabytes.
		{name: "range/packed", answers: []string{"OK", tooLong}, send: func(s *sender) {
			pack(&pb.RangeRequest{Key: make([]byte, 1_500_000)})
			s.options = append(s.options, grpc.UseCompressor("gzip"))
			s.unary(2000, methodRange, func(int) proto.Message { return &pb.RangeRequest{Key: []byte("packed")} })
		}},
		// Each takes a millisecond or two in several slices, and all are ready at once.
		{name: "range/crowd", send: func(s *sender) {
			s.unary(1000, methodRange, func(call int) proto.Message { return someOf(call) })
		}},
		{name: "range/unread", answers: unseen, send: func(s *sender) { s.stalled(2000, methodRange, &pb.RangeRequest{Key: []byte("large/0000000")}) }},
		{name: "range/unread-everything", answers: unseen, send: func(s *sender) {
			s.stalled(200, methodRange, &pb.RangeRequest{Key: []byte("large/"), RangeEnd: []byte("large/0000090")})
		}},
		{name: "range/unread-streams", answers: unseen, send: func(s *sender) { s.stalled(500, methodRangeStream, everything) }},
	}
}

// someOf asks for ten thousand keys in one of the forms that read them all and answer little.
func someOf(call int) *pb.RangeRequest {
	r := &pb.RangeRequest{Key: []byte("small/0000000"), RangeEnd: []byte("small/0010000")}
	switch call % 3 {
	case 0:
		r.MinModRevision = 1 << 60
	case 1:
		r.SortTarget, r.SortOrder, r.Limit = pb.RangeRequest_MOD, pb.RangeRequest_DESCEND, 1
	case 2:
		r.CountOnly, r.MaxCreateRevision = true, 1
	}
	return r
}

func sorted(by pb.RangeRequest_SortTarget, limit int64) *pb.RangeRequest {
	return of(func(r *pb.RangeRequest) { r.SortTarget, r.SortOrder, r.Limit = by, pb.RangeRequest_DESCEND, limit })
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func txnOf(count int, op *pb.RequestOp) *pb.TxnRequest {
	txn := &pb.TxnRequest{}
	for range count {
		txn.Success = append(txn.Success, op)
	}
	return txn
}

func txns() []kind {
	compare := &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: []byte("probe")})}}
	for range 128 {
		compare.Compare = append(compare.Compare, &pb.Compare{
			Result: pb.Compare_GREATER, Target: pb.Compare_VERSION, Key: []byte{0}, RangeEnd: []byte{0},
			TargetUnion: &pb.Compare_Version{Version: 0},
		})
	}
	return []kind{
		unaryKind("txn/127-lists", 1, methodTxn, txnOf(127, rangeOp(everything))).answering(tooLong),
		unaryKind("txn/20-lists-of-25-MB", 2, methodTxn,
			txnOf(20, rangeOp(&pb.RangeRequest{Key: []byte("large/"), RangeEnd: []byte("large/0000025")}))),
		unaryKind("txn/127-that-match-nothing", 4, methodTxn,
			txnOf(127, rangeOp(of(func(r *pb.RangeRequest) { r.MinModRevision = 1 << 60 })))),
		// It may take longer than its client waits.
		unaryKind("txn/127-sorted-by-value", 2, methodTxn, txnOf(127, rangeOp(sorted(pb.RangeRequest_VALUE, 1)))).
			answering("OK", "DeadlineExceeded"),
		unaryKind("txn/127-counts", 2, methodTxn, txnOf(127, rangeOp(of(func(r *pb.RangeRequest) { r.CountOnly = true })))),
		unaryKind("txn/128-compares-of-everything", 2, methodTxn, compare),
		{name: "txn/40000-puts-of-nothing", writes: true, send: func(s *sender) {
			txn := nested(40_000, putNothing)
			s.unary(1, methodTxn, func(int) proto.Message { return txn })
		}},
		{name: "txn/40000-puts-from-16-callers", writes: true, send: func(s *sender) {
			txn := nested(40_000, putNothing)
			s.unary(16, methodTxn, func(int) proto.Message { return txn })
		}},
		{name: "txn/40000-gets", send: func(s *sender) {
			txn := nested(40_000, func(key []byte) *pb.RequestOp { return rangeOp(&pb.RangeRequest{Key: key}) })
			s.unary(2, methodTxn, func(int) proto.Message { return txn })
		}},
		{name: "txn/reads-everything-and-puts", writes: true, answers: []string{tooLong}, send: func(s *sender) {
			txn := txnOf(100, rangeOp(&pb.RangeRequest{Key: []byte("large/"), RangeEnd: []byte("large/0000090")}))
			put := &pb.PutRequest{Key: []byte("written"), Value: []byte("x")}
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
			s.unary(1, methodTxn, func(int) proto.Message { return txn })
		}},
		// Each connection has fewer calls than make a member look their answers up, and together they have 3 GB of answers.
		{name: "txn/one-pair-unread-on-50-connections", writes: true, answers: unseen, send: func(s *sender) {
			put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("written")}}}
			txn := txnOf(1, rangeOp(&pb.RangeRequest{Key: []byte("large/0000000")}))
			txn.Failure = append(txn.Failure, put)
			for range 49 {
				go s.stalled(63, methodTxn, txn)
			}
			s.stalled(63, methodTxn, txn)
		}},
		// Two kilobytes each that write 62 MB, and may show them too; then less than is written before it is applied.
		unaryKind("txn/copies-of-62-MB", 16, methodTxn, copying(62, false)).fillingTheDisk(),
		unaryKind("txn/copies-of-62-MB-shown", 16, methodTxn, copying(62, true)).fillingTheDisk(),
		unaryKind("txn/copies-of-30-MB", 16, methodTxn, copying(30, false)).fillingTheDisk(),
		// Six times the default limit of requests, which are in memory as they came, as they are logged and as they are applied.
		{name: "txn/puts-of-9-MB", writes: true, send: func(s *sender) {
			put := &pb.PutRequest{Key: []byte("written"), Value: make([]byte, 9<<20)}
			s.unary(4, methodPut, func(int) proto.Message { return put })
		}},
	}
}

// putNothing puts a key and keeps its value.
func putNothing(key []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, IgnoreValue: true}}}
}

// copying is a short transaction that puts long values again, and may show what was there.
func copying(values int, shows bool) *pb.TxnRequest {
	txn := &pb.TxnRequest{}
	for value := range values {
		put := &pb.PutRequest{Key: fmt.Appendf(nil, "large/%07d", value), IgnoreValue: true, PrevKv: shows}
		txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	return txn
}

// nested is one transaction with many operations on small keys, 32 in each inner transaction.
func nested(operations int, operation func(key []byte) *pb.RequestOp) *pb.TxnRequest {
	outer := &pb.TxnRequest{}
	for at := 0; at < operations; {
		middle := &pb.TxnRequest{}
		for range 32 {
			inner := &pb.TxnRequest{}
			for range 32 {
				inner.Success = append(inner.Success, operation(fmt.Appendf(nil, "small/%07d", at%100_000)))
				at++
			}
			middle.Success = append(middle.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: inner}})
		}
		outer.Success = append(outer.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: middle}})
	}
	return outer
}

func streams() []kind {
	return []kind{
		{name: "watch/100000-creates", answers: watched, send: func(s *sender) { s.watches(100_000, 0, 1, watchNew) }},
		{name: "watch/20000-progress-requests", answers: watched, send: func(s *sender) { s.watches(50_000, 20_000, 1, watchNew) }},
		{name: "watch/history-with-previous", answers: watched, send: func(s *sender) { s.watches(4, 0, 2, watchHistory) }},
		{name: "watch/history-of-1000", answers: watched, send: func(s *sender) { s.watches(1000, 0, 1, watchHistory) }},
		{name: "watch/50000-of-everything-and-puts", writes: true, answers: []string{"OK", "response"}, send: func(s *sender) {
			go s.unary(1, methodTxn, func(call int) proto.Message {
				txn := &pb.TxnRequest{}
				for key := range 128 {
					put := &pb.PutRequest{Key: fmt.Appendf(nil, "event/%d", key), Value: []byte("x")}
					txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
				}
				time.Sleep(time.Second)
				return txn
			})
			s.watches(50_000, 0, 1, watchNew)
		}},
	}
}

func watchNew(int) *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}}
}

func watchHistory(int) *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: 1, PrevKv: true, Fragment: true}
}

// watches opens streams with watchers, then asks for progress, and takes what comes.
func (s *sender) watches(creates, progress, streams int, create func(int) *pb.WatchCreateRequest) {
	for range streams {
		ctx, cancel := context.WithDeadline(context.Background(), s.until)
		defer cancel()
		stream, err := pb.NewWatchClient(s.conn).Watch(ctx)
		fail(err)
		go func() {
			for {
				if _, err := stream.Recv(); err != nil {
					return
				}
				s.count("response")
			}
		}()
		for at := range creates {
			request := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create(at)}}
			if stream.Send(request) != nil {
				s.ended()
				break
			}
		}
		for range progress {
			request := &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}
			if stream.Send(&pb.WatchRequest{RequestUnion: request}) != nil {
				s.ended()
				break
			}
		}
	}
	time.Sleep(time.Until(s.until))
}

// ended counts a stream that did not end because its time is over.
func (s *sender) ended() {
	if !s.over() {
		s.count("ended")
	}
}

func others() []kind {
	return []kind{
		{name: "delete/everything-under-a-watch", writes: true, answers: []string{"OK", "response"}, send: func(s *sender) {
			go s.watches(1, 0, 1, func(int) *pb.WatchCreateRequest {
				return &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, PrevKv: true}
			})
			time.Sleep(time.Second)
			s.once(methodDelete, &pb.DeleteRangeRequest{Key: []byte("many/"), RangeEnd: []byte("many0"), PrevKv: true})
			time.Sleep(time.Until(s.until))
		}},
		{name: "delete/large-with-previous", writes: true, answers: []string{tooLong}, send: func(s *sender) {
			s.once(methodDelete, &pb.DeleteRangeRequest{Key: []byte("large/"), RangeEnd: []byte("large0"), PrevKv: true})
			time.Sleep(time.Until(s.until))
		}},
		{name: "lease/list-of-30000", send: func(s *sender) {
			s.each(100, 30_000, methodGrant, func(id int) proto.Message {
				return &pb.LeaseGrantRequest{TTL: 600, ID: int64(id + 1)}
			})
			s.until = time.Now().Add(5 * time.Second)
			s.unary(100, methodLeases, func(int) proto.Message { return &pb.LeaseLeasesRequest{} })
		}},
		{name: "lease/keys-of-one", send: func(s *sender) {
			s.once(methodGrant, &pb.LeaseGrantRequest{TTL: 600, ID: 1 << 40})
			s.each(10, 50_000/perTxn, methodTxn, func(at int) proto.Message {
				txn := &pb.TxnRequest{}
				for key := range perTxn {
					put := &pb.PutRequest{Key: fmt.Appendf(nil, "leased/%06d", at*perTxn+key), Lease: 1 << 40}
					txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
				}
				return txn
			})
			s.until = time.Now().Add(5 * time.Second)
			s.unary(100, methodTimeToLive, func(int) proto.Message { return &pb.LeaseTimeToLiveRequest{ID: 1 << 40, Keys: true} })
		}},
		unaryKind("maintenance/hashkv", 8, methodHashKV, &pb.HashKVRequest{}),
		unaryKind("maintenance/hashkv-1000", 1000, methodHashKV, &pb.HashKVRequest{}).answering("OK", "DeadlineExceeded"),
		unaryKind("maintenance/hash", 4, methodHash, &pb.HashRequest{}),
		unaryKind("maintenance/defragment", 4, methodDefragment, &pb.DefragmentRequest{}),
		{name: "http/pipelined-metrics", answers: unseen, send: func(s *sender) { s.pipelined("GET /metrics HTTP/1.1\r\nHost: m\r\n\r\n") }},
		{name: "http/pipelined-health", answers: unseen, send: func(s *sender) { s.pipelined("GET /health HTTP/1.1\r\nHost: m\r\n\r\n") }},
		{name: "http2/half-open-calls", answers: []string{"opened"}, send: func(s *sender) { s.halfOpen() }},
		{name: "compact/physical-of-everything", writes: true, send: func(s *sender) {
			s.once(methodPut, &pb.PutRequest{Key: []byte("written")})
			s.once(methodCompact, &pb.CompactionRequest{Revision: 3, Physical: true})
		}},
	}
}

// pipelined writes requests as fast as the server reads them, and drops the answers.
func (s *sender) pipelined(request string) {
	conn, err := net.Dial("tcp", s.address)
	fail(err)
	defer conn.Close()
	conn.SetDeadline(s.until)
	go io.Copy(io.Discard, conn)
	for !s.over() {
		if _, err := io.WriteString(conn, request); err != nil {
			return
		}
		s.count("sent")
	}
}

// halfOpen opens calls without messages on several connections and takes them back one by one.
func (s *sender) halfOpen() {
	for !s.over() {
		r, err := dialRaw(s.address, 0)
		fail(err)
		go r.drain(s.until)
		var open []uint32
		for range 20_000 {
			id, err := r.head(methodRange)
			if err != nil {
				break
			}
			open = append(open, id)
			s.count("opened")
		}
		for _, id := range open {
			if r.write(func() error { return r.framer.WriteRSTStream(id, 8) }) != nil {
				break
			}
		}
		r.Close()
	}
}
