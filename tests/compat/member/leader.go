package member

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// Leader waits until all members answer and take the same one for the leader: its number.
func Leader(members []*grpc.ClientConn, within time.Duration) (int, error) {
	for deadline := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		leader, agreed := -1, map[uint64]bool{}
		for n, conn := range members {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			status, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
			cancel()
			if err != nil {
				agreed[0] = true
				continue
			}
			agreed[status.Leader] = true
			if status.Leader == status.Header.MemberId {
				leader = n
			}
		}
		if leader >= 0 && len(agreed) == 1 {
			return leader, nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("the members do not agree on a leader: %v", agreed)
		}
	}
}
