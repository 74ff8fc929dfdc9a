package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"kevel/compat/member"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// patience is what a call may take beyond the time of its kind: a bound against hangs, and no judgement of speed.
const patience = time.Minute

// sender sends one kind until its time is over, and counts what comes back.
type sender struct {
	address string
	until   time.Time
	conn    *grpc.ClientConn
	options []grpc.CallOption // of each call

	mu     sync.Mutex
	counts map[string]int
}

func send(name, address string, lasts time.Duration) {
	index := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
	if index < 0 {
		fail(fmt.Errorf("no kind is called %s", name))
	}
	conn, err := member.Dial(address)
	fail(err)
	options := []grpc.CallOption{grpc.ForceCodecV2(unread{})}
	s := &sender{address: address, until: time.Now().Add(lasts), conn: conn, options: options, counts: map[string]int{}}
	kinds[index].send(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	fail(json.NewEncoder(os.Stdout).Encode(s.counts))
}

func (s *sender) count(what string) {
	s.mu.Lock()
	s.counts[what]++
	s.mu.Unlock()
}

func (s *sender) over() bool { return time.Now().After(s.until) }

// unread takes answers without looking into them: the sender's own work would disturb the gets.
type unread struct{}

func (unread) Name() string { return "proto" }

func (unread) Marshal(v any) (mem.BufferSlice, error) {
	bytes, err := proto.Marshal(v.(proto.Message))
	return mem.BufferSlice{mem.SliceBuffer(bytes)}, err
}

func (unread) Unmarshal(mem.BufferSlice, any) error { return nil }

var _ encoding.CodecV2 = unread{}

// unary calls a method from several callers until the time is over.
func (s *sender) unary(callers int, method string, request func(call int) proto.Message) {
	var group sync.WaitGroup
	for caller := range callers {
		group.Go(func() {
			for call := caller; !s.over(); call += callers {
				s.once(method, request(call))
			}
		})
	}
	group.Wait()
}

// each makes so many calls from several callers, however long that takes.
func (s *sender) each(callers, calls int, method string, request func(call int) proto.Message) {
	s.until = time.Now().Add(patience)
	var group sync.WaitGroup
	for caller := range callers {
		group.Go(func() {
			for call := caller; call < calls; call += callers {
				s.once(method, request(call))
			}
		})
	}
	group.Wait()
}

func (s *sender) once(method string, request proto.Message) {
	ctx, cancel := context.WithDeadline(context.Background(), s.until.Add(patience))
	defer cancel()
	err := s.conn.Invoke(ctx, method, request, nil, s.options...)
	s.count(status.Code(err).String())
}

// streamed calls a method that answers in many messages, and takes them all.
func (s *sender) streamed(callers int, method string, request proto.Message) {
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for !s.over() {
				s.count(status.Code(s.stream(method, request)).String())
			}
		})
	}
	group.Wait()
}

func (s *sender) stream(method string, request proto.Message) error {
	ctx, cancel := context.WithDeadline(context.Background(), s.until.Add(patience))
	defer cancel()
	description := &grpc.StreamDesc{ServerStreams: true}
	stream, err := s.conn.NewStream(ctx, description, method, grpc.ForceCodecV2(unread{}))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(request); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		if err := stream.RecvMsg(nil); err != nil {
			if err.Error() == "EOF" {
				return nil
			}
			return err
		}
		s.count("message")
	}
}
