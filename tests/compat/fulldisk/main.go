// Fulldisk fills the disk below a member, in three ways: until a write of the log waits for room, until only the store file
// has none, and before the member has begun. It must say so at /readyz, /health and /metrics, end within seconds of SIGTERM,
// refuse the writes that wait, and have everything acknowledged when it is started again with room.
//
//	go run ./fulldisk -server PATH
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	inside       = "-inside"
	valueBytes   = 1 << 20
	segmentBytes = 64_000_000
	stopsWithin  = 5 * time.Second
	parkedAfter  = 3 * time.Second
)

func main() {
	server := flag.String("server", "", "path of the server to judge")
	flag.Bool(inside[1:], false, "the program has its own mounts already")
	flag.Parse()
	if *server == "" {
		fail(errors.New("-server is missing: the path of the server to judge"))
	}
	if len(os.Args) < 2 || os.Args[1] != inside {
		os.Exit(withMounts())
	}
	for name, judge := range map[string]func(string) error{
		"a write of the log waits": waiting, "no room for a checkpoint": checkpoint, "no room for a start": start,
	} {
		began := time.Now()
		if err := judge(*server); err != nil {
			fail(fmt.Errorf("%s: %w", name, err))
		}
		fmt.Printf("%s: ok, %v\n", name, time.Since(began).Round(time.Second))
	}
}

// withMounts runs the program again where it may mount a disk of its own, and nobody else sees it.
func withMounts() int {
	again := exec.Command("/proc/self/exe", append([]string{inside}, os.Args[1:]...)...)
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := again.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// disk is a small filesystem.
type disk struct{ path string }

func newDisk(megabytes int) (*disk, error) {
	path, err := os.MkdirTemp("", "fulldisk-")
	if err != nil {
		return nil, err
	}
	return &disk{path}, syscall.Mount("none", path, "tmpfs", 0, fmt.Sprintf("size=%dm", megabytes))
}

func (d *disk) remove() {
	syscall.Unmount(d.path, syscall.MNT_DETACH)
	os.Remove(d.path)
}

func (d *disk) filler() string { return filepath.Join(d.path, "filler") }

// fill takes the room there is, but for so many bytes.
func (d *disk) fill(but int64) error {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(d.path, &stat); err != nil {
		return err
	}
	file, err := os.Create(d.filler())
	if err != nil {
		return err
	}
	defer file.Close()
	return syscall.Fallocate(int(file.Fd()), 0, 0, int64(stat.Bavail)*stat.Bsize-but)
}

// waiting fills the disk with puts, until one is not answered.
func waiting(server string) error {
	d, m, err := begin(server, 400)
	if err != nil {
		return err
	}
	defer d.remove()
	defer m.Kill()
	if err := m.Start(); err != nil {
		return err
	}
	for _, path := range []string{"/readyz", "/health"} {
		if code, body := get(m, path); code != http.StatusOK {
			return fmt.Errorf("%s before: %d %s", path, code, body)
		}
	}
	if err := d.fill(100 << 20); err != nil {
		return err
	}
	acknowledged := 0
	parked := make(chan error, 1)
	for {
		answer := make(chan error, 1)
		go func() { answer <- put(m, acknowledged) }()
		select {
		case err := <-answer:
			if err != nil {
				return fmt.Errorf("put %d: %w", acknowledged, err)
			}
			acknowledged++
			continue
		case <-time.After(parkedAfter):
			parked = answer
		}
		break
	}
	if err := saysSo(m); err != nil {
		return err
	}
	if err := stops(m); err != nil {
		return err
	}
	select {
	case err := <-parked:
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "etcdserver: server stopped") {
			return fmt.Errorf("the write that waited got %v", err)
		}
	case <-time.After(time.Second):
		return errors.New("the write that waited was not answered")
	}
	return comesBack(d, m, acknowledged)
}

// saysSo looks at the endpoints of a member whose log waits.
func saysSo(m *member.Member) error {
	for _, path := range []string{"/readyz", "/readyz/log_room", "/health", "/health?serializable=false"} {
		if code, body := get(m, path); code != http.StatusServiceUnavailable || !strings.Contains(body, "disk of the log is full") {
			return fmt.Errorf("%s: %d %s", path, code, body)
		}
	}
	for _, path := range []string{"/livez", "/health?serializable=true", "/readyz?exclude=log_room"} {
		if code, body := get(m, path); code != http.StatusOK {
			return fmt.Errorf("%s: %d %s", path, code, body)
		}
	}
	if _, body := get(m, "/metrics"); !strings.Contains(body, "\nkevel_wal_lacks_room 1\n") {
		return errors.New("the gauge does not say that the log waits for room")
	}
	return nil
}

// checkpoint takes the room of the store file, while the log has some.
func checkpoint(server string) error {
	d, m, err := begin(server, 400)
	if err != nil {
		return err
	}
	defer d.remove()
	defer m.Kill()
	if err := m.Start(); err != nil {
		return err
	}
	if err := prepared(m); err != nil {
		return err
	}
	if err := d.fill(0); err != nil {
		return err
	}
	acknowledged := 0
	for ; acknowledged < 50; acknowledged++ {
		if err := put(m, acknowledged); err != nil {
			return err
		}
	}
	if err := stops(m); err != nil {
		return err
	}
	log, err := os.ReadFile(m.Log())
	if err != nil || !strings.Contains(string(log), "stopped without a last checkpoint") {
		return fmt.Errorf("the log does not say that there is no checkpoint: %s", log)
	}
	return comesBack(d, m, acknowledged)
}

// prepared waits until the log has its next segment ready.
func prepared(m *member.Member) error {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		names, err := filepath.Glob(filepath.Join(m.Dir, "data", "member", "wal", "*.tmp"))
		if err != nil {
			return err
		}
		for _, name := range names {
			if found, err := os.Stat(name); err == nil && found.Size() >= segmentBytes {
				return nil
			}
		}
	}
	return errors.New("the next segment of the log is not ready")
}

// start gives a new member less room than its log's first segment takes.
func start(server string) error {
	d, m, err := begin(server, 20)
	if err != nil {
		return err
	}
	defer d.remove()
	defer m.Kill()
	if err := m.Launch(); err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	if err := stops(m); err != nil {
		return err
	}
	log, err := os.ReadFile(m.Log())
	if err != nil || !strings.Contains(string(log), "disk of the log is full") || strings.Contains(string(log), "serving client") {
		return fmt.Errorf("the log says that it serves, or not why it does not: %s", log)
	}
	return nil
}

func begin(server string, megabytes int) (*disk, *member.Member, error) {
	d, err := newDisk(megabytes)
	if err != nil {
		return nil, nil, err
	}
	m, err := member.New(server, "victim", d.path, "--log-level=info")
	return d, m, err
}

func put(m *member.Member, number int) error {
	conn, err := member.Dial(m.Client)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = pb.NewKVClient(conn).Put(context.Background(), &pb.PutRequest{Key: key(number), Value: make([]byte, valueBytes)})
	return err
}

func key(number int) []byte { return fmt.Appendf(nil, "key%04d", number) }

// stops sends SIGTERM and waits for the end.
func stops(m *member.Member) error {
	if err := syscall.Kill(m.Pid(), syscall.SIGTERM); err != nil {
		return err
	}
	for deadline := time.Now().Add(stopsWithin); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if !m.Running() {
			return nil
		}
	}
	return fmt.Errorf("still there %v after SIGTERM", stopsWithin)
}

// comesBack starts the member again with room, and looks for what was acknowledged.
func comesBack(d *disk, m *member.Member, acknowledged int) error {
	if err := os.Remove(d.filler()); err != nil {
		return err
	}
	if err := m.Start(); err != nil {
		return err
	}
	conn, err := member.Dial(m.Client)
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := pb.NewKVClient(conn).Range(context.Background(),
		&pb.RangeRequest{Key: []byte("key"), RangeEnd: key(acknowledged), CountOnly: true})
	if err != nil || acknowledged == 0 || answer.Count != int64(acknowledged) {
		return fmt.Errorf("%d puts were acknowledged, %v found: %w", acknowledged, answer, err)
	}
	return nil
}

func get(m *member.Member, path string) (int, string) {
	answer, err := http.Get("http://" + m.Client + path)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(body)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
