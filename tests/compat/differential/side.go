package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const callWithin = 15 * time.Second

// side is one of the two servers under comparison, seen through raw stubs: a client library would retry, cache and
// translate, and hide exactly the differences that are looked for.
type side struct {
	name string
	conn *grpc.ClientConn
	keep pb.Lease_LeaseKeepAliveClient
}

func dial(name, address string) (*side, error) {
	conn, err := member.Dial(address)
	if err != nil {
		return nil, err
	}
	s := &side{name: name, conn: conn}
	s.keep, err = pb.NewLeaseClient(conn).LeaseKeepAlive(context.Background())
	return s, err
}

// call is one request that both sides get.
type call struct {
	kind    string
	request proto.Message // what a report prints
	reads   bool          // changes nothing, so neighbouring reads may run beside it
	send    func(context.Context, *side) outcome
	relax   func(left, right *outcome) // evens out what the API leaves open
	before  func()                     // runs when all earlier events are in; nil when that does not matter
	after   func(left outcome)         // what the driver learns from it
}

// unary makes a call of one request and one response; response only gives the type.
func unary(kind, method string, request, response proto.Message) *call {
	return &call{kind: kind, request: request, send: func(ctx context.Context, s *side) outcome {
		out := response.ProtoReflect().New().Interface()
		if err := s.conn.Invoke(ctx, method, request, out); err != nil {
			return answered(err)
		}
		return answered(nil, out)
	}}
}

func (c *call) reading() *call {
	c.reads = true
	return c
}

// rangeStream keeps the messages apart: where etcd cuts a stream into chunks is a rule, not an accident.
func rangeStream(request *pb.RangeRequest) *call {
	return &call{kind: "RangeStream", request: request, reads: true, send: func(ctx context.Context, s *side) outcome {
		stream, err := pb.NewKVClient(s.conn).RangeStream(ctx, request)
		if err != nil {
			return answered(err)
		}
		var chunks []proto.Message
		for {
			chunk, err := stream.Recv()
			if err == io.EOF {
				return answered(nil, chunks...)
			}
			if err != nil {
				return answered(err, chunks...)
			}
			chunks = append(chunks, chunk)
		}
	}}
}

// keepAlive uses the one stream that each side keeps open: an unknown lease must not end it.
func keepAlive(id int64) *call {
	request := &pb.LeaseKeepAliveRequest{ID: id}
	return &call{kind: "LeaseKeepAlive", request: request, send: func(ctx context.Context, s *side) outcome {
		if err := s.keep.Send(request); err != nil {
			return answered(err)
		}
		type received struct {
			*pb.LeaseKeepAliveResponse
			error
		}
		got := make(chan received, 1)
		go func() {
			r, err := s.keep.Recv()
			got <- received{r, err}
		}()
		select {
		case r := <-got:
			if r.error != nil {
				return answered(r.error)
			}
			return answered(nil, r.LeaseKeepAliveResponse)
		case <-ctx.Done():
			return answered(fmt.Errorf("no answer on the keep-alive stream"))
		}
	}}
}
