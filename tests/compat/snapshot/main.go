// Snapshot saves a snapshot of a server while it is written to, has etcd's own tool look at the file and restore it, and
// starts etcd on what the tool made of it. Everything must be as the server has it at the snapshot's revision: every key
// with its revisions, the leases with their keys, the alarms and HashKV.
//
//	go run ./snapshot -server PATH -judges FOLDER      half a minute
//
// -tool names another binary that knows `snapshot status` and `snapshot restore`, which has to print the same statuses,
// and -restored another server to be started on what it makes. With -plant one key of that server is changed, and the run
// must fail.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// side is a server with its services.
type side struct {
	*member.Member
	conn        *grpc.ClientConn
	kv          pb.KVClient
	lease       pb.LeaseClient
	maintenance pb.MaintenanceClient
}

func start(m *member.Member) *side {
	fail(m.Start())
	conn, err := member.Dial(m.Client)
	fail(err)
	return &side{m, conn, pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewMaintenanceClient(conn)}
}

func (s *side) stop() {
	s.conn.Close()
	s.Stop()
}

func main() {
	server := flag.String("server", "", "the server's binary")
	judges := flag.String("judges", "", "the folder of etcd, etcdctl and etcdutl")
	keys := flag.Int("keys", 10000, "keys that are written first")
	plant := flag.Bool("plant", false, "change a key after it was restored")
	tool := flag.String("tool", "", "what restores (default etcdutl)")
	other := flag.String("restored", "", "the server that is started on what was restored (default etcd)")
	flag.Parse()
	judge := func(name string) string { return filepath.Join(*judges, name) }
	etcdutl := judge("etcdutl")
	if *tool == "" {
		*tool = etcdutl
	}
	if *other == "" {
		*other = judge("etcd")
	}
	dir, err := os.MkdirTemp("", "snapshot-")
	fail(err)
	defer os.RemoveAll(dir)

	m, err := member.New(*server, "server", dir, "--quota-backend-bytes=8589934592")
	fail(err)
	live := start(m)
	defer live.stop()
	fill(live, *keys)

	// The first time the server is written to. The second time it is compacted, behind an alarm that forbids to put.
	for round, compacts := range []bool{false, true} {
		if compacts {
			live.alarm(pb.AlarmRequest_ACTIVATE)
		}
		file := filepath.Join(dir, fmt.Sprintf("round-%d.db", round))
		before := live.revision()
		stop := write(live, !compacts)
		peak := live.WatchMemory()
		quiet := live.Memory()
		saved := make(chan struct{})
		if compacts {
			go live.compact(before-int64(*keys)/2, saved)
		}
		began := time.Now()
		run(judge("etcdctl"), "--endpoints", live.Client, "--command-timeout=60s", "snapshot", "save", file)
		took := time.Since(began)
		if compacts {
			<-saved
		}
		writes := stop()
		after := live.revision()
		info, err := os.Stat(file)
		fail(err)
		fmt.Printf("%d MB in %v, %d writes beside it, RssAnon from %d to %d KiB\n",
			info.Size()>>20, took.Round(time.Millisecond), writes, quiet.Anon, peak().Anon)
		status := look(etcdutl, file, info.Size())
		for _, form := range []string{"simple", "json", "fields", "table"} {
			want := run(etcdutl, "snapshot", "status", file, "-w", form)
			if got := run(*tool, "snapshot", "status", file, "-w", form); !bytes.Equal(want, got) {
				fail(fmt.Errorf("the status is printed as\n%s, by etcdutl as\n%s", got, want))
			}
		}
		if status.Revision < before || status.Revision > after {
			fail(fmt.Errorf("the snapshot is of revision %d, which was none between %d and %d", status.Revision, before, after))
		}
		e, err := member.New(*other, fmt.Sprintf("restored-%d", round), dir)
		fail(err)
		peer := "http://" + e.Peer
		run(*tool, "snapshot", "restore", file, "--data-dir", filepath.Join(e.Dir, "data"), "--name", "default",
			"--initial-cluster", "default="+peer, "--initial-advertise-peer-urls", peer)
		restored := start(e)
		if *plant {
			restored.alarm(pb.AlarmRequest_DEACTIVATE)
			_, err := restored.kv.Put(context.Background(), &pb.PutRequest{Key: []byte("key/00007"), Value: []byte("planted")})
			fail(err)
		}
		compare(live, restored, status)
		restored.stop()
	}
	fmt.Println("what was restored has what the server has")
}

// status is what etcdutl finds in a file, after it has checked all of it.
type status struct {
	Revision  int64
	TotalKey  int64
	TotalSize int64
	Version   string
}

func look(etcdutl, file string, size int64) (s status) {
	fail(json.Unmarshal(run(etcdutl, "snapshot", "status", file, "-w", "json"), &s))
	// Behind the database stands its checksum.
	if s.TotalSize+32 != size || s.Version != "3.7.0" {
		fail(fmt.Errorf("a file of %d bytes is said to be %+v", size, s))
	}
	return s
}

func run(binary string, args ...string) []byte {
	cmd := exec.Command(binary, args...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		fail(fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(binary), strings.Join(args, " "), err, out, said.String()))
	}
	return out
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}
