package main

import (
	"bytes"
	"fmt"
	"math"
	"math/rand"
)

// dice draws everything random in a run. Keys come from a small pool, so that calls meet the traces of earlier ones.
type dice struct {
	*rand.Rand
	values int
}

func (d *dice) chance(percent float64) bool { return d.Float64()*100 < percent }

func pick[T any](d *dice, from ...T) T { return from[d.Intn(len(from))] }

var oddKeys = []string{"\x00", "\x00\x00", "\xff", "\xff\xff", "k", "k0", "k00\x00", "k99", "\u00e9", "d/", "d", " "}

func (d *dice) key() []byte {
	switch p := d.Intn(1000); {
	case p < 720:
		return fmt.Appendf(nil, "k%02d", d.Intn(24))
	case p < 900:
		return fmt.Appendf(nil, "d/%c/%d", 'a'+d.Intn(3), d.Intn(10))
	case p < 965:
		return []byte(pick(d, oddKeys...))
	case p < 985:
		return append(bytes.Repeat([]byte("L"), 2000), byte('0'+d.Intn(3)))
	case p < 995:
		key := make([]byte, 1+d.Intn(4))
		d.Read(key)
		return key
	default:
		return nil
	}
}

// interval draws key and range_end, from the plain to the absurd.
func (d *dice) interval() (key, end []byte) {
	switch p := d.Intn(100); {
	case p < 42:
		return d.key(), nil
	case p < 67:
		prefix := pick(d, "k", "k0", "k1", "d/", "d/a/", "L")
		return []byte(prefix), prefixEnd(prefix)
	case p < 72:
		return d.key(), []byte{0}
	case p < 78:
		return []byte{0}, []byte{0}
	case p < 80:
		return nil, d.key()
	default:
		return d.key(), d.key() // as often as not empty or upside down
	}
}

func prefixEnd(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++
	return end
}

func (d *dice) value() []byte {
	switch p := d.Intn(1000); {
	case p < 500:
		return []byte(pick(d, "", "v0", "v1", "v2", "v3", "v4", "v5", "v6"))
	case p < 900:
		d.values++
		return fmt.Appendf(nil, "w%d", d.values)
	case p < 995:
		return bytes.Repeat([]byte{byte(d.Intn(256))}, 100+d.Intn(1900))
	default:
		return bytes.Repeat([]byte{byte(d.Intn(256))}, 10_000+d.Intn(90_000))
	}
}

// number draws values that sit on the edges of int64 or near zero.
func (d *dice) number() int64 {
	return pick[int64](d, 0, 1, 2, 3, 5, 10, -1, -2, math.MaxInt64, math.MinInt64)
}
