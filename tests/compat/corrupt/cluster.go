package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	callWithin   = 5 * time.Second
	changeWithin = 30 * time.Second
	alarmWithin  = 25 * time.Second
	agreeWithin  = 30 * time.Second
	endWithin    = 30 * time.Second
)

// side is one member, a client's way to it, and its id.
type side struct {
	*member.Member
	conn *grpc.ClientConn
	id   uint64
}

func (s *side) kv() pb.KVClient                   { return pb.NewKVClient(s.conn) }
func (s *side) cluster() pb.ClusterClient         { return pb.NewClusterClient(s.conn) }
func (s *side) maintenance() pb.MaintenanceClient { return pb.NewMaintenanceClient(s.conn) }

// lay makes a member that does not run.
func lay(dir, name string, k kind, flags ...string) *side {
	m, err := member.New(k.server, name, dir, flags...)
	fail(err)
	conn, err := member.Dial(m.Client, grpc.WithConnectParams(member.Quickly))
	fail(err)
	s := &side{Member: m, conn: conn}
	running = append(running, s)
	return s
}

// found starts three members of one cluster, each from a snapshot that has its own value under one key and is equal otherwise.
func found(dir string, kinds []kind, values []string, flags ...string) []*side {
	files := map[string]string{}
	for _, value := range values {
		if files[value] == "" {
			files[value] = snapshot(dir, kinds[0], value)
		}
	}
	var sides []*side
	var members []*member.Member
	var founders []string
	for n, k := range kinds {
		s := lay(dir, fmt.Sprintf("m%d", n+1), k, flags...)
		sides, members = append(sides, s), append(members, s.Member)
		founders = append(founders, s.Name+"=http://"+s.Peer)
	}
	member.Together(members...)
	for n, s := range sides {
		tell(kinds[n].tool, "snapshot", "restore", files[values[n]], "--data-dir", filepath.Join(s.Dir, "data"), "--name", s.Name,
			"--initial-cluster", strings.Join(founders, ","), "--initial-advertise-peer-urls", "http://"+s.Peer)
		fail(s.Launch())
	}
	for _, s := range sides {
		fail(s.Ready())
		s.id = s.status().Header.MemberId
	}
	return sides
}

// snapshot writes some keys to a server of its own, one of them with this value, and saves them.
func snapshot(dir string, k kind, value string) string {
	s := lay(dir, "seed-"+value, k)
	fail(s.Start())
	for n := range 20 {
		s.put(fmt.Sprintf("key/%02d", n), "as everywhere")
	}
	s.put("differs", value)
	stream, err := s.maintenance().Snapshot(context.Background(), &pb.SnapshotRequest{})
	fail(err)
	path := filepath.Join(dir, value+".db")
	file, err := os.Create(path)
	fail(err)
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		fail(err)
		_, err = file.Write(piece.Blob)
		fail(err)
	}
	fail(file.Close())
	s.Stop()
	return path
}

func tell(binary string, args ...string) {
	out, err := exec.Command(binary, args...).CombinedOutput()
	if err != nil {
		fail(fmt.Errorf("%s %s: %w\n%s", filepath.Base(binary), strings.Join(args, " "), err, out))
	}
}

func (s *side) status() *pb.StatusResponse {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	status, err := s.maintenance().Status(ctx, &pb.StatusRequest{})
	fail(err)
	return status
}

func (s *side) put(key, value string) int64 {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	put, err := s.kv().Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	fail(err)
	return put.Header.Revision
}

// compact writes some more and compacts in the midst of it.
func (s *side) compact() {
	var revision int64
	for n := range 10 {
		revision = s.put(fmt.Sprintf("key/%02d", n), "again")
	}
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	_, err := s.kv().Compact(ctx, &pb.CompactionRequest{Revision: revision - 2, Physical: true})
	fail(err)
}

// alarms are those that a member lists, in the form MEMBER:TYPE.
func (s *side) alarms() []string {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	list, err := s.maintenance().Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
	fail(err)
	var said []string
	for _, alarm := range list.Alarms {
		said = append(said, fmt.Sprintf("%x:%v", alarm.MemberID, alarm.Alarm))
	}
	slices.Sort(said)
	return said
}

// alarmed waits until all members list exactly these alarms.
func alarmed(sides []*side, want ...string) {
	slices.Sort(want)
	deadline := time.Now().Add(alarmWithin)
	for {
		var got [][]string
		agree := true
		for _, s := range sides {
			said := s.alarms()
			got, agree = append(got, said), agree && slices.Equal(said, want)
		}
		if agree {
			return
		}
		if time.Now().After(deadline) {
			fail(fmt.Errorf("the members list the alarms %v, and should list %v", got, want))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// clear takes an alarm back.
func (s *side) clear(id uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	_, err := s.maintenance().Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: id, Alarm: pb.AlarmType_CORRUPT})
	fail(err)
}

// leader is the member that leads.
func leader(sides []*side) *side {
	for deadline := time.Now().Add(changeWithin); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		id := sides[0].status().Leader
		for _, s := range sides {
			if s.id == id && s.status().Leader == id {
				return s
			}
		}
	}
	fail(errors.New("nobody leads"))
	return nil
}

// rebuild has the others rebuild a member: removed, added again, and started on nothing.
func rebuild(s *side, others []*side) {
	s.Kill()
	through := others[0].cluster()
	retried(func(ctx context.Context) error {
		_, err := through.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: s.id})
		return err
	})
	retried(func(ctx context.Context) error {
		added, err := through.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://" + s.Peer}})
		if err == nil {
			s.id = added.Member.ID
		}
		return err
	})
	fail(os.RemoveAll(filepath.Join(s.Dir, "data")))
	var known []*member.Member
	for _, o := range others {
		known = append(known, o.Member)
	}
	s.Join(known...)
	fail(s.Start())
	if got := s.status().Header.MemberId; got != s.id {
		fail(fmt.Errorf("the member that was rebuilt is %x, and was added as %x", got, s.id))
	}
}

// rebuildByTool has one command do all of it; then the member starts with its usual flags.
func rebuildByTool(s *side, tool string, others []*side, flags ...string) {
	before := s.id
	tell(tool, append([]string{"rebuild", "--data-dir", s.Data(), "--endpoints", endpoints(others)}, flags...)...)
	fail(s.Start())
	if s.id = s.status().Header.MemberId; s.id == before {
		fail(fmt.Errorf("the member that was rebuilt is %x as before", s.id))
	}
}

func endpoints(sides []*side) string {
	var urls []string
	for _, s := range sides {
		urls = append(urls, "http://"+s.Client)
	}
	return strings.Join(urls, ",")
}

// refusesTheWell tries to rebuild members that are not damaged: one that serves, and a copy of its directory, which names it
// too. Nobody may be removed.
func refusesTheWell(well *side, tool string, others []*side) {
	copied := filepath.Join(well.Dir, "copy")
	fail(os.CopyFS(copied, os.DirFS(well.Data())))
	for dir, why := range map[string]string{well.Data(): "another process uses", copied: "answers at"} {
		out, err := exec.Command(tool, "rebuild", "--data-dir", dir, "--endpoints", endpoints(others)).CombinedOutput()
		if err == nil || !strings.Contains(string(out), why) {
			fail(fmt.Errorf("rebuild of %s, which is well, ends with %v: %s", dir, err, out))
		}
	}
	fail(os.RemoveAll(copied))
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	list, err := others[0].cluster().MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	fail(err)
	if !slices.ContainsFunc(list.Members, func(m *pb.Member) bool { return m.ID == well.id }) {
		fail(fmt.Errorf("a member that is well is gone: %v", list.Members))
	}
}

// agree looks whether all members have the same data.
func agree(sides []*side) {
	var conns []*grpc.ClientConn
	for _, s := range sides {
		conns = append(conns, s.conn)
	}
	_, _, err := member.Agree(conns, agreeWithin)
	fail(err)
}

// retried repeats a change while the cluster is not ready for it.
func retried(change func(ctx context.Context) error) {
	deadline := time.Now().Add(changeWithin)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), callWithin)
		err := change(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			fail(err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func end(sides []*side) {
	for _, s := range sides {
		s.Kill()
		s.conn.Close()
	}
	running = nil
}

// expect fails if a call does not end like this.
func expect(what string, err error, code codes.Code, text string) {
	if got := status.Convert(err); got.Code() != code || got.Message() != text {
		fail(fmt.Errorf("%s: %v %q, and should be %v %q", what, got.Code(), got.Message(), code, text))
	}
}

// said looks for words in the log of a member.
func (s *side) said(words ...string) {
	log, err := os.ReadFile(s.Log())
	fail(err)
	for _, word := range words {
		if !strings.Contains(string(log), word) {
			fail(fmt.Errorf("%s does not say %q in %s", s.Name, word, s.Log()))
		}
	}
}
