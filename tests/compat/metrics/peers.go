package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	// lagPuts are more entries than either server keeps in memory.
	lagPuts     = 3000
	agreeWithin = 30 * time.Second
	// accidents are families that move when a connection ends, which is an accident.
	accidents = "etcd_network_disconnected_peers_total etcd_network_peer_received_failures_total etcd_network_peer_sent_failures_total"
)

// judgePeers compares what the leader says at /metrics, and what a member says that has taken a snapshot of it.
func judgePeers(etcd, kevel string, verbose bool) ([]string, error) {
	dir, err := os.MkdirTemp("", "metrics-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	theirs, err := liveTogether(etcd, "etcd", dir)
	if err != nil {
		return nil, fmt.Errorf("members of etcd: %w", err)
	}
	ours, err := liveTogether(kevel, "kevel", dir)
	if err != nil {
		return nil, fmt.Errorf("members of %s: %w", kevel, err)
	}
	var complaints []string
	for _, role := range sortedKeys(theirs) {
		for _, name := range sortedKeys(theirs[role]) {
			if !strings.HasPrefix(name, "etcd_network_") || strings.HasPrefix(name, "etcd_network_client_grpc_") {
				continue
			}
			for _, text := range comparePeers(name, theirs[role][name], ours[role][name]) {
				complaint := fmt.Sprintf("%s of the member that %s: %s", name, role, text)
				switch {
				case strings.Contains(accidents, name):
					if verbose {
						fmt.Println("excused ", complaint, "(when a connection ends is an accident)")
					}
				default:
					complaints = append(complaints, complaint)
				}
			}
		}
	}
	return complaints, nil
}

func comparePeers(name string, theirs, ours *family) (complaints []string) {
	complain := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	if ours == nil {
		complain("missing")
		return complaints
	}
	if theirs.kind != ours.kind {
		complain("is a %s, and a %s in etcd", ours.kind, theirs.kind)
	}
	for _, series := range sortedKeys(theirs.series) {
		if strings.Contains(series, `From="0"`) {
			continue // heartbeats of a link, which name nobody
		}
		our, there := ours.series[series]
		if !there {
			complain("no series %s", series)
			continue
		}
		their := theirs.series[series]
		isTimed := strings.Contains(series, "_bucket") || strings.Contains(series, "_sum")
		isCounted := strings.Contains(name, "_snapshot_") || theirs.kind == "gauge"
		switch {
		case isTimed:
		case isCounted && their != our:
			complain("%s is %v, and %v in etcd", series, our, their)
		case (their == 0) != (our == 0):
			complain("%s is %v, and %v in etcd", series, our, their)
		}
	}
	if strings.Contains(name, "_snapshot_") {
		for _, series := range sortedKeys(ours.series) {
			if _, there := theirs.series[series]; !there {
				complain("%s is not there in etcd", series)
			}
		}
	}
	return complaints
}

// liveTogether has a member of three lag until it needs a snapshot: what the leader and that member say then, with roles for ids.
func liveTogether(binary, name, dir string) (map[string]scrape, error) {
	var all []*member.Member
	var conns []*grpc.ClientConn
	defer func() {
		for _, m := range all {
			m.Kill()
		}
	}()
	for n := range 3 {
		m, err := member.New(binary, fmt.Sprintf("%s%d", name, n), dir, "--snapshot-count=100", "--snapshot-catchup-entries=10")
		if err != nil {
			return nil, err
		}
		conn, err := member.Dial(m.Client, grpc.WithConnectParams(member.Quickly))
		if err != nil {
			return nil, err
		}
		all, conns = append(all, m), append(conns, conn)
	}
	if err := member.Found(all...); err != nil {
		return nil, err
	}
	leader, err := member.Leader(conns, agreeWithin)
	if err != nil {
		return nil, err
	}
	follower, lagging := (leader+1)%3, (leader+2)%3
	roles := map[int]string{leader: "leads", follower: "follows", lagging: "lags"}
	var ids []string
	for n, conn := range conns {
		ctx, cancel := context.WithTimeout(context.Background(), agreeWithin)
		status, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
		cancel()
		if err != nil {
			return nil, err
		}
		ids = append(ids, fmt.Sprintf("%x", status.Header.MemberId), roles[n])
	}
	all[lagging].Kill()
	for n := range lagPuts {
		ctx, cancel := context.WithTimeout(context.Background(), agreeWithin)
		_, err := pb.NewKVClient(conns[leader]).Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "key/%d", n), Value: make([]byte, 1000)})
		cancel()
		if err != nil {
			return nil, err
		}
	}
	if err := all[lagging].Start(); err != nil {
		return nil, err
	}
	conns[lagging].ResetConnectBackoff()
	if _, _, err := member.Agree(conns, agreeWithin); err != nil {
		return nil, err
	}
	// Members ask one another how they are every four seconds.
	time.Sleep(9 * time.Second)
	said := map[string]scrape{}
	for _, n := range []int{leader, lagging} {
		got, err := fetch(all[n].Client)
		if err != nil {
			return nil, err
		}
		for _, f := range got {
			series := map[string]float64{}
			for name, value := range f.series {
				series[strings.NewReplacer(ids...).Replace(name)] = value
			}
			f.series = series
		}
		said[roles[n]] = got
	}
	return said, nil
}
