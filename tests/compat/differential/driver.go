package main

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"
)

const readsTogether = 8

// driver holds what it takes to draw the next call: where the stores stand, as their own answers told.
type driver struct {
	dice
	sides     [2]*side
	watches   *watches
	revision  int64
	compacted int64
	// compactedAt remembers revisions that were compacted, because HashKV may answer for them from a cache.
	compactedAt map[int64]bool
	// remade are revisions that may have deleted a key before they put it. A compaction to one of them loses that key's
	// value in etcd, which then dies when somebody reads it.
	remade  map[int64]bool
	granted int64

	queue     []*call // calls that must follow in this order
	reads     []*call // calls that may run beside each other
	unsettled int     // writes since the events were last compared

	calls, mismatches, most int
	counts                  map[string]int // calls by kind
	errors                  map[string]int // refusals by code and text, as the left side words them
	plant                   string
	plantAt                 int
}

// then appends to the calls that come before the next random one.
func (d *driver) then(c *call) { d.queue = append(d.queue, c) }

func (d *driver) failed() bool { return d.mismatches >= d.most }

// planting is true once, for the one answer that a run with -plant must catch.
func (d *driver) planting() bool {
	if d.plantAt == 0 || d.calls < d.plantAt {
		return false
	}
	d.plantAt = 0
	return true
}

// menu is the mix, in hundredths of a percent.
func (d *driver) menu() *call {
	type dish struct {
		weight int
		draw   func() *call
	}
	roll := d.Intn(10_000)
	for _, m := range []dish{
		{2600, d.ranges}, {500, d.rangeStreams}, {2600, d.puts}, {600, d.deletes}, {1900, d.txns},
		{250, d.leaseGrants}, {120, d.leaseRevokes}, {200, d.leaseKeepAlives}, {250, d.leaseTimes}, {50, d.leaseLists},
		{100, d.hashes}, {30, d.statuses}, {20, d.memberLists}, {10, d.alarmLists}, {80, d.refusals},
		{30, d.compactions}, {40, d.badWire}, {60, d.oddWire}, {25, d.unknownMethods}, {10, d.oversized},
		{2, d.bigValues}, {4, d.alarmed}, {1, d.defragments}, {100, func() *call { return d.withMetadata(d.ranges()) }},
		{10, func() *call { return d.withMetadata(d.puts()) }},
	} {
		if roll -= m.weight; roll < 0 {
			return m.draw()
		}
	}
	return nil // the rest goes to the watches
}

// run makes the next n calls, or fewer when enough is wrong.
func (d *driver) run(n int) {
	for stop := d.calls + n; (d.calls < stop || len(d.queue) > 0) && !d.failed(); {
		var c *call
		if len(d.queue) > 0 {
			c, d.queue = d.queue[0], d.queue[1:]
		} else {
			c = d.menu()
		}
		if c == nil {
			d.flush()
			d.calls++
			d.watchStep()
			continue
		}
		d.calls++
		d.counts[c.kind]++
		if c.reads {
			if d.reads = append(d.reads, c); len(d.reads) == readsTogether {
				d.flush()
			}
			continue
		}
		d.flush()
		d.write(c)
	}
	d.flush()
	d.settle()
}

// flush makes the collected reads, all at once.
func (d *driver) flush() {
	var wait sync.WaitGroup
	answers := make([][2]outcome, len(d.reads))
	for i, c := range d.reads {
		wait.Go(func() { answers[i] = d.ask(c) })
	}
	wait.Wait()
	for i, c := range d.reads {
		d.judge(c, answers[i])
	}
	d.reads = d.reads[:0]
}

// write makes one call that may change the store, alone.
func (d *driver) write(c *call) {
	if c.before != nil {
		d.settle()
		c.before()
	}
	answers := d.ask(c)
	before := d.revision
	d.judge(c, answers)
	d.noteRemade(c, before)
	if d.revision > before {
		if d.unsettled++; d.unsettled == burst || d.chance(8) {
			d.settle()
		}
	}
}

func (d *driver) settle() {
	d.watches.settle()
	d.unsettled = 0
}

// ask sends one call to both sides at the same time.
func (d *driver) ask(c *call) (answers [2]outcome) {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	var wait sync.WaitGroup
	for i, s := range d.sides {
		wait.Go(func() { answers[i] = c.send(ctx, s) })
	}
	wait.Wait()
	return answers
}

// judge compares two answers and learns from the left one.
func (d *driver) judge(c *call, answers [2]outcome) {
	left, right := answers[0], answers[1]
	d.spoil(&right)
	d.revision = max(d.revision, left.revision())
	if c.relax != nil {
		c.relax(&left, &right)
	}
	if left.code != 0 {
		d.errors[fmt.Sprintf("%s: %v %s", c.kind, left.code, left.text)]++
	}
	for _, o := range []outcome{left, right} {
		for _, m := range o.messages {
			mask(m)
		}
	}
	if !same(left, right) {
		d.mismatch(c.kind, c.request, fmt.Sprintf("  left:\n%v\n  right:\n%v\n", left, right))
	}
	if c.after != nil {
		c.after(left)
	}
}

// mismatch reports one difference so that it can be repeated.
func (d *driver) mismatch(kind string, request proto.Message, answers string) {
	if d.mismatches++; d.mismatches > d.most {
		return
	}
	fmt.Printf("MISMATCH %d at call %d (%s), revision %d, compacted %d\n  request:\n    %s\n%s\n",
		d.mismatches, d.calls, kind, d.revision, d.compacted, show(request), answers)
}
