package main

import pb "go.etcd.io/etcd/api/v3/etcdserverpb"

// A driver that is never wrong may simply not look. Each plant spoils one answer of the right side, in the place where that
// kind of difference would be found, and the run has to fail.
var plants = map[string]string{
	"revision": "one answer's header revision is one too high",
	"value":    "one value read is another",
	"error":    "one error has another text",
	"event":    "one watch response with events is lost",
	"control":  "one answer to a watch request has another revision",
}

func (d *driver) spoil(o *outcome) {
	if d.calls < d.plantAt || d.plantAt == 0 {
		return
	}
	switch d.plant {
	case "revision":
		if len(o.messages) == 1 && headerOf(o.messages[0]).GetRevision() > 0 && d.planting() {
			headerOf(o.messages[0]).Revision++
		}
	case "value":
		if len(o.messages) == 1 {
			if r, ok := o.messages[0].(*pb.RangeResponse); ok && len(r.Kvs) > 0 && len(r.Kvs[0].Value) > 0 && d.planting() {
				r.Kvs[0].Value[0]++
			}
		}
	case "error":
		if o.text != "" && d.planting() {
			o.text += "."
		}
	case "event":
		for _, p := range d.watches.streams {
			if len(p.watchers) > 0 && d.planting() {
				p.sides[1].mu.Lock()
				p.sides[1].dropNext = true
				p.sides[1].mu.Unlock()
			}
		}
	}
}
