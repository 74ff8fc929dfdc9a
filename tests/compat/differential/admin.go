package main

import (
	"context"
	"math"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// statuses compares what two healthy single members must agree on; sizes and raft positions are their own business, but
// have to be there and to make sense.
func (d *driver) statuses() *call {
	c := unary("Status", pb.Maintenance_Status_FullMethodName, &pb.StatusRequest{}, &pb.StatusResponse{}).reading()
	c.relax = inBoth(func(r *pb.StatusResponse) {
		sane := r.DbSize > 0 && r.DbSizeInUse > 0 && r.DbSizeInUse <= r.DbSize && r.RaftAppliedIndex <= r.RaftIndex &&
			r.RaftTerm == r.Header.RaftTerm && (r.Leader == r.Header.MemberId || r.Header.MemberId == 1 && r.Leader == 1)
		r.DbSize, r.DbSizeInUse, r.RaftIndex, r.RaftAppliedIndex, r.RaftTerm, r.Leader = 0, 0, 0, 0, 0, 0
		if !sane {
			r.Errors = append(r.Errors, "sizes, raft positions or leader make no sense")
		}
	})
	return c
}

func (d *driver) memberLists() *call {
	q := &pb.MemberListRequest{Linearizable: d.chance(50)}
	c := unary("MemberList", pb.Cluster_MemberList_FullMethodName, q, &pb.MemberListResponse{}).reading()
	c.relax = inBoth(func(r *pb.MemberListResponse) {
		for _, m := range r.Members {
			m.ID = isSet(m.ID)
			for _, urls := range [][]string{m.PeerURLs, m.ClientURLs} {
				for i := range urls {
					urls[i] = "url" // ports differ
				}
			}
		}
	})
	return c
}

// hashes asks above the last compaction: at a revision that was compacted itself etcd may answer from a cache, or not.
func (d *driver) hashes() *call {
	q := &pb.HashKVRequest{}
	switch roll := d.Intn(100); {
	case roll < 80 && d.revision > d.compacted:
		q.Revision = max(d.compacted, 1) + d.Int63n(d.revision-max(d.compacted, 1)+1)
		if q.Revision == d.compacted {
			q.Revision = 0
		}
	case roll < 90 || d.compacted < 3:
		q.Revision = d.revision + 1 + d.Int63n(3)
	default:
		if q.Revision = d.compacted - 1; d.compactedAt[q.Revision] {
			q.Revision = math.MaxInt64
		}
	}
	return unary("HashKV", pb.Maintenance_HashKV_FullMethodName, q, &pb.HashKVResponse{}).reading()
}

func (d *driver) alarmLists() *call {
	q := &pb.AlarmRequest{Alarm: pb.AlarmType(d.Intn(3)), MemberID: uint64(d.Intn(3))}
	return unary("Alarm", pb.Maintenance_Alarm_FullMethodName, q, &pb.AlarmResponse{})
}

// refusals are calls to the rest of the API that must be refused or change nothing.
func (d *driver) refusals() *call {
	type refusal struct {
		method            string
		request, response proto.Message
	}
	r := pick(&d.dice,
		refusal{pb.Maintenance_MoveLeader_FullMethodName, &pb.MoveLeaderRequest{TargetID: 1}, &pb.MoveLeaderResponse{}},
		refusal{pb.Maintenance_Downgrade_FullMethodName, &pb.DowngradeRequest{Version: "nonsense"}, &pb.DowngradeResponse{}},
		refusal{pb.Maintenance_Downgrade_FullMethodName, &pb.DowngradeRequest{Version: "3.1"}, &pb.DowngradeResponse{}},
		refusal{pb.Maintenance_Downgrade_FullMethodName, &pb.DowngradeRequest{Version: "3.6"}, &pb.DowngradeResponse{}},
		refusal{pb.Maintenance_Downgrade_FullMethodName, &pb.DowngradeRequest{Action: 7, Version: "3.6"}, &pb.DowngradeResponse{}},
		refusal{pb.Maintenance_Downgrade_FullMethodName, &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL}, &pb.DowngradeResponse{}},
		refusal{pb.Cluster_MemberRemove_FullMethodName, &pb.MemberRemoveRequest{ID: 1}, &pb.MemberRemoveResponse{}},
		refusal{pb.Cluster_MemberPromote_FullMethodName, &pb.MemberPromoteRequest{ID: 1}, &pb.MemberPromoteResponse{}},
		refusal{pb.Cluster_MemberUpdate_FullMethodName, &pb.MemberUpdateRequest{ID: 1, PeerURLs: []string{"http://127.0.0.1:1"}}, &pb.MemberUpdateResponse{}},
		refusal{pb.Cluster_MemberAdd_FullMethodName, &pb.MemberAddRequest{PeerURLs: []string{"not a url"}}, &pb.MemberAddResponse{}},
		refusal{pb.Cluster_MemberAdd_FullMethodName, &pb.MemberAddRequest{}, &pb.MemberAddResponse{}},
		refusal{pb.Auth_Authenticate_FullMethodName, &pb.AuthenticateRequest{Name: "root", Password: "x"}, &pb.AuthenticateResponse{}},
		refusal{pb.Auth_AuthEnable_FullMethodName, &pb.AuthEnableRequest{}, &pb.AuthEnableResponse{}},
		refusal{pb.Auth_AuthStatus_FullMethodName, &pb.AuthStatusRequest{}, &pb.AuthStatusResponse{}},
		refusal{pb.Auth_UserGet_FullMethodName, &pb.AuthUserGetRequest{Name: "nobody"}, &pb.AuthUserGetResponse{}},
		refusal{pb.Auth_UserAdd_FullMethodName, &pb.AuthUserAddRequest{}, &pb.AuthUserAddResponse{}},
		refusal{pb.Auth_RoleGet_FullMethodName, &pb.AuthRoleGetRequest{Role: "nobody"}, &pb.AuthRoleGetResponse{}},
		refusal{pb.Auth_UserList_FullMethodName, &pb.AuthUserListRequest{}, &pb.AuthUserListResponse{}},
		refusal{pb.Auth_RoleList_FullMethodName, &pb.AuthRoleListRequest{}, &pb.AuthRoleListResponse{}},
		refusal{"/grpc.health.v1.Health/Check", &grpc_health_v1.HealthCheckRequest{}, &grpc_health_v1.HealthCheckResponse{}},
		refusal{"/grpc.health.v1.Health/Check", &grpc_health_v1.HealthCheckRequest{Service: "other"}, &grpc_health_v1.HealthCheckResponse{}},
	)
	c := unary("others", r.method, r.request, r.response)
	c.relax = func(left, right *outcome) {
		if missing(r.method) && right.code == codes.Unimplemented && strings.HasPrefix(right.text, "unknown method ") {
			d.counts["not built: "+r.method]++
			*right = *left
		}
	}
	return c
}

// missing lists what Kevel's README lists as not built: answering UNIMPLEMENTED is right then, and nothing else is.
func missing(method string) bool {
	switch method {
	case pb.Cluster_MemberAdd_FullMethodName, pb.Cluster_MemberRemove_FullMethodName,
		pb.Cluster_MemberUpdate_FullMethodName, pb.Cluster_MemberPromote_FullMethodName,
		pb.Maintenance_MoveLeader_FullMethodName, pb.Maintenance_Downgrade_FullMethodName:
		return true
	}
	return strings.HasPrefix(method, "/etcdserverpb.Auth/")
}

// withMetadata sends what clients send beside the message.
func (d *driver) withMetadata(c *call) *call {
	pairs := pick(&d.dice,
		[]string{"hasleader", "true"}, []string{"client-api-version", "3.7"}, []string{"token", "unknown"},
		[]string{"authorization", "Bearer nothing"}, []string{"client-api-version", "x.y"}, []string{"hasleader", "maybe"})
	send := c.send
	c.send = func(ctx context.Context, s *side) outcome {
		return send(metadata.AppendToOutgoingContext(ctx, pairs...), s)
	}
	return c
}
