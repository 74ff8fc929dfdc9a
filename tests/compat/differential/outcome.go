package main

import (
	"bytes"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// outcome is all that a client can see of one call: the messages in order, then the status.
type outcome struct {
	messages []proto.Message
	code     codes.Code
	text     string
}

func answered(err error, messages ...proto.Message) outcome {
	if err == nil {
		return outcome{messages: messages}
	}
	s := status.Convert(err)
	return outcome{messages: messages, code: s.Code(), text: s.Message()}
}

type headed interface{ GetHeader() *pb.ResponseHeader }

// headerOf finds the response header, or nil where the API sends none.
func headerOf(m proto.Message) *pb.ResponseHeader {
	switch m := m.(type) {
	case *pb.RangeStreamResponse:
		return m.GetRangeResponse().GetHeader()
	case headed:
		return m.GetHeader()
	}
	return nil
}

// mask hides what two servers rightly answer differently: who they are and how many elections they held. That each is set
// stays visible. Headers inside a transaction carry only a revision and are compared as they are.
func mask(m proto.Message) {
	h := headerOf(m)
	if h == nil {
		return
	}
	h.ClusterId, h.MemberId, h.RaftTerm = isSet(h.ClusterId), isSet(h.MemberId), isSet(h.RaftTerm)
}

func isSet(n uint64) uint64 {
	if n != 0 {
		return 1
	}
	return 0
}

// revision is the newest store revision that the outcome tells of.
func (o outcome) revision() (newest int64) {
	for _, m := range o.messages {
		newest = max(newest, headerOf(m).GetRevision())
	}
	return newest
}

// same compares byte by byte in the one encoding that Go calls deterministic; it is many times faster than reflection.
func same(a, b outcome) bool {
	if a.code != b.code || a.text != b.text || len(a.messages) != len(b.messages) {
		return false
	}
	for i := range a.messages {
		if !sameMessage(a.messages[i], b.messages[i]) {
			return false
		}
	}
	return true
}

func sameMessage(a, b proto.Message) bool {
	return bytes.Equal(encode(a), encode(b))
}

func encode(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return []byte(err.Error())
	}
	return b
}

const printed = 1500 // bytes of one message shown in a report

func (o outcome) String() string {
	var b strings.Builder
	for _, m := range o.messages {
		fmt.Fprintf(&b, "    %s\n", show(m))
	}
	if o.code != codes.OK {
		fmt.Fprintf(&b, "    %v: %s\n", o.code, o.text)
	}
	return strings.TrimRight(b.String(), "\n")
}

// show prints a message on one line, shortened in the middle.
func show(m proto.Message) string {
	if m == nil {
		return "(nothing)"
	}
	text := fmt.Sprintf("%s{%s}", m.ProtoReflect().Descriptor().Name(), prototext.MarshalOptions{}.Format(m))
	if len(text) > printed {
		text = fmt.Sprintf("%s ... %d bytes ... %s", text[:printed/2], len(text)-printed, text[len(text)-printed/2:])
	}
	return text
}
