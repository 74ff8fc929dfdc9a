package main

import (
	"bytes"
	"math/rand"

	"google.golang.org/protobuf/encoding/protowire"
)

type message struct {
	method  string
	message []byte
}

func field(number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
}

func number(number protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), value)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// cases are messages that are worth more than the chance of being drawn.
func cases() []message {
	key := field(1, []byte("a"))
	put := field(2, join(key, field(2, []byte("v"))))
	broken := []byte{0x0a, 9, 1}
	txn := func(m []byte) message { return message{txnMethod, m} }
	nested := func(depth int) []byte {
		m := field(2, put)
		for range depth {
			m = field(2, field(4, m))
		}
		return m
	}
	return []message{
		txn([]byte("\x12\x08\x0a\x06\x0a\x01a\x1a\x01x")),
		txn([]byte("\x0a\x06\x0a\x01a\x1a\x01a")),
		{watchMethod, []byte("\x0a\x06\x0a\x01a\x1a\x01x")},
		{watchMethod, join(field(1, join(key, number(5, 0), field(5, []byte{1, 0}))))},
		{watchMethod, field(1, broken)},
		{rangeMethod, []byte("\x0b\x0c")},
		{rangeMethod, []byte("\x0b\x14")},
		// Operations without content: too many, as many as may be, and with bytes behind that are no message.
		txn(bytes.Repeat([]byte{0x12, 0}, 700_000)),
		txn(bytes.Repeat([]byte{0x12, 0}, 129)),
		txn(bytes.Repeat([]byte{0x12, 0}, 128)),
		txn(bytes.Repeat([]byte{0x0a, 0}, 129)),
		txn(bytes.Repeat([]byte{0x0a, 0}, 128)),
		txn(join(bytes.Repeat([]byte{0x12, 0}, 700_000), []byte{0x12, 3}, broken)),
		txn(join(bytes.Repeat([]byte{0x12, 0}, 129), field(2, field(1, broken)))),
		txn(field(2, join(put, field(2, broken)))),
		// Several contents of one operation: the last counts, and parts of the same go together.
		txn(field(2, join(put, field(1, key)))),
		txn(field(2, join(field(1, key), put))),
		txn(field(2, join(field(4, field(2, put)), field(4, field(3, put))))),
		txn(field(2, join(field(4, field(2, put)), put, field(4, field(3, put))))),
		// Deep nesting, of transactions and of groups.
		txn(nested(60)), txn(nested(126)), txn(nested(128)), txn(nested(4000)), txn(nested(6000)),
		{rangeMethod, join(bytes.Repeat([]byte{0x7b}, 200), bytes.Repeat([]byte{0x7c}, 200), key)},
		{rangeMethod, join(bytes.Repeat([]byte{0x7b}, 9_000), bytes.Repeat([]byte{0x7c}, 9_000), key)},
		{rangeMethod, join(bytes.Repeat([]byte{0x7b}, 11_000), bytes.Repeat([]byte{0x7c}, 11_000), key)},
	}
}

// drawer draws messages.
type drawer struct{ *rand.Rand }

func (d *drawer) one(of int) bool { return d.Intn(of) == 0 }

// tag is longer than need be now and then.
func (d *drawer) tag(number protowire.Number, kind protowire.Type) []byte {
	tag := protowire.AppendTag(nil, number, kind)
	if d.one(30) {
		tag[len(tag)-1] |= 0x80
		tag = append(tag, 0x80, 0)
	}
	return tag
}

// field is a field of this kind, or of another one, or of a number that no message has.
func (d *drawer) field(number protowire.Number, kind protowire.Type, value []byte) []byte {
	if d.one(40) {
		number = []protowire.Number{14, 16, 99, 2047, 1 << 20}[d.Intn(5)]
	}
	if d.one(12) {
		kind = protowire.Type(d.Intn(6))
	}
	tag := d.tag(number, kind)
	switch kind {
	case protowire.VarintType:
		return protowire.AppendVarint(tag, uint64(d.Intn(3)))
	case protowire.Fixed32Type:
		return append(tag, 1, 2, 3, 4)
	case protowire.Fixed64Type:
		return append(tag, 1, 2, 3, 4, 5, 6, 7, 8)
	case protowire.StartGroupType:
		return join(tag, d.field(1, protowire.VarintType, nil), d.tag(number, protowire.EndGroupType))
	case protowire.EndGroupType:
		return tag
	}
	return protowire.AppendBytes(tag, value)
}

func (d *drawer) key() []byte {
	return []byte{byte('a' + d.Intn(4))}
}

// fields are some of these fields, in any order, some of them twice.
func (d *drawer) fields(all ...func() []byte) []byte {
	var m []byte
	for _, i := range d.Perm(len(all)) {
		for d.Intn(3) > 0 {
			m = append(m, all[i]()...)
		}
	}
	if d.one(60) && len(m) > 0 {
		m = m[:d.Intn(len(m))]
	}
	return m
}

func (d *drawer) bytes(n protowire.Number) func() []byte {
	return func() []byte { return d.field(n, protowire.BytesType, d.key()) }
}

func (d *drawer) varint(n protowire.Number) func() []byte {
	return func() []byte { return d.field(n, protowire.VarintType, nil) }
}

func (d *drawer) rangeRequest() []byte {
	return join(d.bytes(1)(), d.fields(d.bytes(2), d.varint(3), d.varint(8), d.varint(9)))
}

func (d *drawer) put() []byte {
	return join(d.bytes(1)(), d.fields(d.bytes(2), d.varint(4)))
}

func (d *drawer) deleteRange() []byte {
	return join(d.bytes(1)(), d.fields(d.bytes(2), d.varint(3)))
}

func (d *drawer) compare() []byte {
	return join(d.bytes(3)(), d.fields(d.varint(1), d.varint(2), d.varint(4), d.bytes(7), d.bytes(64)))
}

func (d *drawer) operation(depth int) []byte {
	var m []byte
	for range 1 + d.Intn(8)/7 {
		switch n := d.Intn(7); {
		case n < 2:
			m = append(m, d.field(1, protowire.BytesType, d.rangeRequest())...)
		case n < 4:
			m = append(m, d.field(2, protowire.BytesType, d.put())...)
		case n < 5 || depth > 3:
			m = append(m, d.field(3, protowire.BytesType, d.deleteRange())...)
		default:
			m = append(m, d.field(4, protowire.BytesType, d.txn(depth+1))...)
		}
	}
	return m
}

func (d *drawer) txn(depth int) []byte {
	branch := func(n protowire.Number) func() []byte {
		return func() []byte { return d.field(n, protowire.BytesType, d.operation(depth)) }
	}
	return d.fields(func() []byte { return d.field(1, protowire.BytesType, d.compare()) }, branch(2), branch(3))
}

func (d *drawer) draw() (string, []byte) {
	switch d.Intn(40) {
	case 0:
		return watchMethod, d.field(1, protowire.BytesType, join(d.bytes(1)(), d.fields(d.varint(3), d.varint(6), d.varint(5), d.bytes(2))))
	case 1, 2, 3, 4:
		return rangeMethod, d.rangeRequest()
	case 5, 6, 7, 8:
		return putMethod, d.put()
	case 9, 10:
		return deleteMethod, d.deleteRange()
	}
	return txnMethod, d.txn(0)
}
