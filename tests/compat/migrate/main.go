// Migrate turns stopped members of etcd into members of Kevel and back, by `kevel migrate`, and looks whether anything is lost or
// different, though each migration is killed some times before it ends: first a member alone, then one member after the other of
// a cluster of three, while puts go on through the others.
//
//	go run ./migrate -etcd ETCD -kevel KEVEL
//
// With -stay etcd or -stay kevel the members of the cluster are stopped, killed and started likewise, and stay of that server: what
// the steps cost by themselves.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const callWithin = 20 * time.Second

// binaries are the two servers; the second also migrates, unless all stay what they are.
type binaries struct {
	etcd, kevel string
	stay        string
}

// side is one member and a client's way to it.
type side struct {
	*member.Member
	conn *grpc.ClientConn
	// kevel tells which of the two servers it is.
	kevel bool
	// down tells that it was stopped or killed, and has not started again.
	down atomic.Bool
}

func main() {
	etcd := flag.String("etcd", "", "etcd's binary")
	kevel := flag.String("kevel", "", "Kevel's binary")
	keys := flag.Int("keys", 10000, "keys of the member alone")
	rounds := flag.Int("rounds", 1, "how often the cluster goes to Kevel and back")
	stay := flag.String("stay", "", "etcd or kevel: have the members of the cluster stay of that server")
	keep := flag.Bool("keep", false, "keep the members' folders")
	flag.Parse()

	dir, err := os.MkdirTemp("", "migrate-")
	fail(err)
	path, err := filepath.Abs(*kevel)
	fail(err)
	both := binaries{*etcd, path, *stay}
	if *stay == "" {
		both.alone(dir, *keys)
	}
	both.cluster(dir, *rounds)
	if !*keep {
		fail(os.RemoveAll(dir))
	}
	fmt.Println("ok")
}

// lay makes a member of etcd.
func (b binaries) lay(name, dir string) *side {
	binary := b.etcd
	if b.stay == "kevel" {
		binary = b.kevel
	}
	m, err := member.New(binary, name, dir)
	fail(err)
	conn, err := member.Dial(m.Client, grpc.WithConnectParams(member.Quickly))
	fail(err)
	return &side{Member: m, conn: conn, kevel: b.stay == "kevel"}
}

// migrate makes a stopped member one of the other server, in place.
func (b binaries) migrate(s *side) {
	if b.stay != "" {
		return
	}
	way, binary := "--from", b.kevel
	if s.kevel {
		way, binary = "--to-etcd", b.etcd
	}
	began := time.Now()
	said, kills := b.interrupted(way, s.Data())
	fmt.Printf("migrate %s took %v and was killed %d times before: %s", way, time.Since(began).Round(time.Millisecond), kills, said)
	if left, err := os.ReadDir(s.Data()); err != nil || len(left) != 2 {
		fail(fmt.Errorf("migrate %s leaves %v in %s: %v", way, left, s.Data(), err))
	}
	fail(s.Becomes(binary))
	s.kevel = !s.kevel
	// What was replaced would be in the way of the next migration.
	for _, kept := range []string{"member.etcd", "member.kevel"} {
		fail(os.RemoveAll(filepath.Join(s.Data(), kept)))
	}
}

// interrupted runs a migration and kills it, later each time, until one ends by itself. What that one says, and how often
// it was killed before.
func (b binaries) interrupted(way, data string) (string, int) {
	after := 2 * time.Millisecond
	for kills := 0; ; kills++ {
		cmd := exec.Command(b.kevel, "migrate", way, data)
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		fail(cmd.Start())
		timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		var exit *exec.ExitError
		switch {
		case err == nil:
			return said.String(), kills
		case errors.As(err, &exit) && exit.ExitCode() < 0:
			after = after*3/2 + time.Millisecond
		case kills > 0 && strings.Contains(said.String(), "there is nothing to migrate"):
			// It was killed when all was done.
			return said.String(), kills
		default:
			fail(fmt.Errorf("migrate %s %s, killed %d times before: %w: %s", way, data, kills, err, said.String()))
		}
	}
}

// start runs a member until it serves.
func (s *side) start() {
	fail(s.Start())
	s.conn.ResetConnectBackoff()
}

// call asks a member that serves.
func call[Q, A any](ask func(ctx context.Context, question Q, options ...grpc.CallOption) (A, error), question Q) A {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	answer, err := ask(ctx, question, grpc.WaitForReady(true))
	fail(err)
	return answer
}

func (s *side) kv() pb.KVClient                   { return pb.NewKVClient(s.conn) }
func (s *side) lease() pb.LeaseClient             { return pb.NewLeaseClient(s.conn) }
func (s *side) maintenance() pb.MaintenanceClient { return pb.NewMaintenanceClient(s.conn) }

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}
