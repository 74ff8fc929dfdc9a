package main

import (
	"context"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// rawCodec sends bytes that no message would encode to.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func raw(kind, method string, payload []byte, response proto.Message) *call {
	request := wrapperspb.Bytes(append([]byte(method+" "), payload...))
	return &call{kind: kind, request: request, send: func(ctx context.Context, s *side) outcome {
		var in []byte
		if err := s.conn.Invoke(ctx, method, payload, &in, grpc.ForceCodecV2(rawCodec{})); err != nil {
			return answered(err)
		}
		out := response.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(in, out); err != nil {
			return answered(fmt.Errorf("the answer does not parse: %w", err))
		}
		return answered(nil, out)
	}}
}

// malformed is what no protobuf parser accepts.
var malformed = [][]byte{
	{0x0a},             // a field without its length
	{0x0a, 0x05, 'k'},  // shorter than it says
	{0x0a, 0xff},       // a length that does not end
	{0x00, 0x00},       // field number zero
	{0x0f},             // wire type 7
	{0x0c},             // the end of a group that never began
	{0x0b, 0x08, 0x01}, // a group that never ends
	[]byte("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), // a varint of eleven bytes
	[]byte("not a message at all"),
}

// badWire must be refused before anything is done. Only the kind of refusal is a promise: the rest of the text is the
// parser's own and Go varies it on purpose.
func (d *driver) badWire() *call {
	type target struct {
		method   string
		response proto.Message
	}
	t := pick(&d.dice,
		target{pb.KV_Range_FullMethodName, &pb.RangeResponse{}},
		target{pb.KV_Put_FullMethodName, &pb.PutResponse{}},
		target{pb.KV_DeleteRange_FullMethodName, &pb.DeleteRangeResponse{}},
		target{pb.KV_Txn_FullMethodName, &pb.TxnResponse{}},
		target{pb.KV_Compact_FullMethodName, &pb.CompactionResponse{}},
		target{pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantResponse{}},
		target{pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeResponse{}},
		target{pb.Cluster_MemberList_FullMethodName, &pb.MemberListResponse{}},
		target{pb.Maintenance_Status_FullMethodName, &pb.StatusResponse{}},
	)
	c := raw("bad wire", t.method, malformed[d.Intn(len(malformed))], t.response)
	c.relax = func(left, right *outcome) {
		for _, o := range []*outcome{left, right} {
			if at := strings.Index(o.text, "unmarshalling request"); at >= 0 {
				o.text = o.text[:at]
			}
		}
	}
	return c
}

// oddWire is unusual but legal: unknown fields, a field sent twice, a known field of another type, wasteful varints.
func (d *driver) oddWire() *call {
	payload := encode(&pb.RangeRequest{Key: d.key(), Limit: int64(d.Intn(3))})
	switch d.Intn(6) {
	case 0:
		payload = protowire.AppendBytes(protowire.AppendTag(payload, 9999, protowire.BytesType), []byte("future"))
	case 1:
		payload = protowire.AppendBytes(protowire.AppendTag(payload, 1, protowire.BytesType), []byte("k01"))
	case 2:
		payload = protowire.AppendVarint(protowire.AppendTag(payload, 1, protowire.VarintType), 7)
	case 3:
		payload = append(payload, 0x18, 0x83, 0x80, 0x00) // limit 3 in three bytes
	case 4:
		group := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
		payload = protowire.AppendGroup(protowire.AppendTag(payload, 77, protowire.StartGroupType), 77, group)
	case 5:
		payload = protowire.AppendVarint(protowire.AppendTag(payload, 7, protowire.VarintType), 300) // a bool above one
	}
	return raw("odd wire", pb.KV_Range_FullMethodName, payload, &pb.RangeResponse{})
}

func (d *driver) unknownMethods() *call {
	method := pick(&d.dice, "/etcdserverpb.KV/Nope", "/etcdserverpb.Nope/Range", "/no.such.Service/Call", "/etcdserverpb.KV/", "/nothing",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/etcdserverpb.Watch/Range")
	return raw("unknown method", method, nil, &pb.RangeResponse{})
}

// oversized requests are refused by the limit on requests, and above that by the limit on messages.
func (d *driver) oversized() *call {
	const limit = 1536 << 10
	value := make([]byte, pick(&d.dice, limit+1, limit+1000, limit+512<<10-100, limit+512<<10+1, 3<<20))
	put := &pb.PutRequest{Key: []byte("big/no"), Value: value}
	if d.chance(50) {
		return unary("oversized", pb.KV_Put_FullMethodName, put, &pb.PutResponse{})
	}
	q := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}}}
	c := txn(q)
	c.kind = "oversized"
	return c
}
