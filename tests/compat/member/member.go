// Package member runs a server binary, etcd or Kevel, on loopback: as a cluster of one, or with others (Together). Both take
// the same flags, which is the point: nothing in here knows which of the two it starts.
package member

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	readyWithin = 30 * time.Second
	stopWithin  = 15 * time.Second
)

// Member is one server, its ports and its data directory. It survives Kill and Start: that is how restarts are tested.
type Member struct {
	Name   string
	Client string // host:port that clients dial
	Peer   string
	Dir    string

	// proxy is where other members reach it, if that is not Peer.
	proxy string

	binary string
	flags  []string
	cmd    *exec.Cmd
	exited chan struct{}
}

// New lays out a member of its own folder under dir; nothing runs before Start.
func New(binary, name, dir string, flags ...string) (*Member, error) {
	if binary == "" {
		return nil, errors.New("no server was named: its binary's path is missing (-h shows the flags)")
	}
	if _, err := os.Stat(binary); err != nil {
		return nil, err
	}
	path, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	m := &Member{Name: name, Dir: filepath.Join(dir, name), binary: path, flags: flags}
	if m.Client, err = freeAddress(); err != nil {
		return nil, err
	}
	if m.Peer, err = freeAddress(); err != nil {
		return nil, err
	}
	return m, os.MkdirAll(m.Dir, 0o700)
}

// Behind has other members reach it at another address than its own. To be called before Together and Join.
func (m *Member) Behind(address string) { m.proxy = address }

// advertised is where other members reach it.
func (m *Member) advertised() string {
	if m.proxy != "" {
		return m.proxy
	}
	return m.Peer
}

// Together makes members the founders of one cluster, each under its own name.
func Together(members ...*Member) {
	var founders []string
	for _, m := range members {
		founders = append(founders, m.Name+"=http://"+m.advertised())
	}
	for _, m := range members {
		m.flags = append(m.flags, "--name="+m.Name, "--initial-cluster="+strings.Join(founders, ","))
	}
}

// Found makes members the founders of one cluster, starts them together, and returns when each answers a linearizable read.
func Found(members ...*Member) error {
	Together(members...)
	for _, m := range members {
		if err := m.Launch(); err != nil {
			return err
		}
	}
	for _, m := range members {
		if err := m.Ready(); err != nil {
			return err
		}
	}
	return nil
}

// Join makes a member one that joins the cluster of the others, which has been told of it.
func (m *Member) Join(others ...*Member) {
	var all []string
	for _, o := range append(others, m) {
		all = append(all, o.Name+"=http://"+o.advertised())
	}
	m.flags = append(m.flags, "--name="+m.Name, "--initial-cluster="+strings.Join(all, ","), "--initial-cluster-state=existing")
}

// freeAddress picks below the range the kernel hands to outgoing connections, so that a port stays ours across a restart.
func freeAddress() (string, error) {
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 12000+rand.Intn(18000))
		l, err := net.Listen("tcp", address)
		if err == nil {
			l.Close()
			return address, nil
		}
	}
	return "", fmt.Errorf("no free port on loopback")
}

// Becomes has another binary run the member from the next start on.
func (m *Member) Becomes(binary string) error {
	path, err := filepath.Abs(binary)
	m.binary = path
	return err
}

// Data is the member's data directory.
func (m *Member) Data() string { return filepath.Join(m.Dir, "data") }

// Flags adds flags. Of two that say the same the later one counts.
func (m *Member) Flags(flags ...string) { m.flags = append(m.flags, flags...) }

// Log is where the server's own output goes, appended over restarts.
func (m *Member) Log() string { return filepath.Join(m.Dir, "server.log") }

// Start runs the server and returns when it answers a linearizable read.
func (m *Member) Start() error {
	if err := m.Launch(); err != nil {
		return err
	}
	return m.Ready()
}

// Launch runs the server without waiting for it.
func (m *Member) Launch() error {
	log, err := os.OpenFile(m.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	client, peer, advertised := "http://"+m.Client, "http://"+m.Peer, "http://"+m.advertised()
	// Every member is called "default" inside: clients compare member names, and two sides must not differ by ours.
	m.cmd = exec.Command(m.binary, append([]string{
		"--name=default", "--data-dir=" + m.Data(),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + advertised,
		"--initial-cluster=default=" + advertised, "--log-level=warn",
	}, m.flags...)...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	if err := Spawn(m.cmd); err != nil {
		return err
	}
	m.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		cmd.Wait()
		close(exited)
	}(m.cmd, m.exited)
	return nil
}

// Ready waits until the running server answers a linearizable read.
func (m *Member) Ready() error {
	conn, err := Dial(m.Client)
	if err != nil {
		return err
	}
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	for deadline := time.Now().Add(readyWithin); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case <-m.exited:
			return fmt.Errorf("%s ended by itself, see %s", m.Name, m.Log())
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err = kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, CountOnly: true})
		cancel()
		if err == nil {
			return nil
		}
		conn.ResetConnectBackoff()
	}
	return fmt.Errorf("%s not ready in %v: %w", m.Name, readyWithin, err)
}

// Pid is the running server's process.
func (m *Member) Pid() int { return m.cmd.Process.Pid }

// Running tells whether the process is still there.
func (m *Member) Running() bool {
	select {
	case <-m.exited:
		return false
	default:
		return m.cmd != nil
	}
}

// Ended waits until the process has ended by itself, and returns its status; false if it has not in time.
func (m *Member) Ended(within time.Duration) (int, bool) {
	select {
	case <-m.exited:
		return m.cmd.ProcessState.ExitCode(), true
	case <-time.After(within):
		return 0, false
	}
}

// Kill ends the server as a power cut would end the process: nothing is flushed.
func (m *Member) Kill() {
	if m.cmd == nil {
		return
	}
	m.cmd.Process.Kill()
	<-m.exited
}

// Stop asks politely first.
func (m *Member) Stop() {
	if m.cmd == nil {
		return
	}
	m.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-m.exited:
	case <-time.After(stopWithin):
		m.Kill()
	}
}

// Quickly is how a client dials a member that comes and goes: again and again, and soon after each failure.
var Quickly = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1, MaxDelay: 100 * time.Millisecond},
	MinConnectTimeout: 5 * time.Second,
}

// Dial connects without limits of our own: message sizes and windows are the server's to bound, and a stream that the
// client's window stalls would make answers depend on timing.
func Dial(address string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(64 << 20),
		grpc.WithInitialConnWindowSize(256 << 20),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<31-1), grpc.MaxCallSendMsgSize(1<<31-1)),
		grpc.WithDisableRetry(),
	}, options...)...)
}
