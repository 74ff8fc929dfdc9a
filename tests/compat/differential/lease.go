package main

import (
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	leasePool = 24
	// leaseStep keeps granted TTLs so far apart that the order of leases by remaining time, which LeaseLeases answers in, is
	// the order of granting whatever is renewed in between.
	leaseStep = 5000
	maxTTL    = 9_000_000_000
)

// leaseID draws a lease that is probably alive, from a pool that includes negative ids.
func (d *driver) leaseID() int64 {
	id := int64(1000 + d.Intn(leasePool))
	if id == 1000 {
		return -77
	}
	return id
}

func (d *driver) leaseGrants() *call {
	q := &pb.LeaseGrantRequest{ID: d.leaseID()}
	switch p := d.Intn(100); {
	case p < 90:
		d.granted++
		q.TTL = leaseStep * d.granted
	case p < 91:
		q.TTL = maxTTL
	case p < 95:
		q.TTL = pick(&d.dice, int64(maxTTL+1), math.MaxInt64)
	default:
		return d.shortLease()
	}
	return unary("LeaseGrant", pb.Lease_LeaseGrant_FullMethodName, q, &pb.LeaseGrantResponse{})
}

// shortLease asks for a time to live that is raised to the minimum, and revokes at once: a lease that expires by itself in
// the middle of the stream would do so at a different call on each side.
func (d *driver) shortLease() *call {
	id := int64(5_000_000 + d.calls)
	d.then(unary("LeaseRevoke", pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: id}, &pb.LeaseRevokeResponse{}))
	q := &pb.LeaseGrantRequest{ID: id, TTL: pick[int64](&d.dice, 0, 1, 2, -1, -100, math.MinInt64)}
	return unary("LeaseGrant", pb.Lease_LeaseGrant_FullMethodName, q, &pb.LeaseGrantResponse{})
}

func (d *driver) leaseRevokes() *call {
	q := &pb.LeaseRevokeRequest{ID: pick(&d.dice, d.leaseID(), d.leaseID(), d.leaseID(), 424242, 0, -1)}
	return unary("LeaseRevoke", pb.Lease_LeaseRevoke_FullMethodName, q, &pb.LeaseRevokeResponse{})
}

func (d *driver) leaseKeepAlives() *call {
	return keepAlive(pick(&d.dice, d.leaseID(), d.leaseID(), d.leaseID(), 424242, 0, -1))
}

func (d *driver) leaseTimes() *call {
	q := &pb.LeaseTimeToLiveRequest{ID: pick(&d.dice, d.leaseID(), d.leaseID(), d.leaseID(), 424242, 0), Keys: d.chance(60)}
	c := unary("LeaseTimeToLive", pb.Lease_LeaseTimeToLive_FullMethodName, q, &pb.LeaseTimeToLiveResponse{}).reading()
	c.relax = func(left, right *outcome) {
		inBoth(func(r *pb.LeaseTimeToLiveResponse) { slices.SortFunc(r.Keys, slices.Compare) })(left, right)
		if len(left.messages) != 1 || len(right.messages) != 1 {
			return
		}
		l := left.messages[0].(*pb.LeaseTimeToLiveResponse)
		r := right.messages[0].(*pb.LeaseTimeToLiveResponse)
		if l.TTL >= 0 && r.TTL >= 0 && l.TTL-r.TTL >= -1 && l.TTL-r.TTL <= 1 {
			r.TTL = l.TTL
		}
	}
	return c
}

func (d *driver) leaseLists() *call {
	return unary("LeaseLeases", pb.Lease_LeaseLeases_FullMethodName, &pb.LeaseLeasesRequest{}, &pb.LeaseLeasesResponse{}).reading()
}
