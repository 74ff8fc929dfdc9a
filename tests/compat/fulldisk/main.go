// Fulldisk fills the disk below a member, in these ways: until a write of the log waits for room, until only the store file
// has none, and gets it back, the same where small writes copy much, and before the member has begun. It must say so at /readyz, /health and
// /metrics, end within seconds of SIGTERM, refuse the writes that wait, and have everything acknowledged when it is started
// again with room.
//
//	go run ./fulldisk -server PATH
//	go run ./fulldisk -try          whether a disk can be made here, which takes user and mount namespaces
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
	saysWithin   = 30 * time.Second
	puts         = 50 // of which the first ones make a checkpoint due
	copies       = 30 // values that one write copies
)

func main() {
	server := flag.String("server", "", "path of the server to judge")
	try := flag.Bool("try", false, "only try whether a disk can be made")
	flag.Bool(inside[1:], false, "the program has its own mounts already")
	flag.Parse()
	if *server == "" && !*try {
		fail(errors.New("-server is missing: the path of the server to judge"))
	}
	if len(os.Args) < 2 || os.Args[1] != inside {
		os.Exit(withMounts())
	}
	if *try {
		d, err := newDisk(1)
		fail(err)
		d.remove()
		return
	}
	for _, c := range []struct {
		name  string
		judge func(string) error
	}{
		{"a write of the log waits", waiting},
		{"no room for a checkpoint", checkpoint},
		{"room for a checkpoint again", again},
		{"no room for what is copied", copied},
		{"no room for a start", start},
	} {
		began := time.Now()
		if err := c.judge(*server); err != nil {
			fail(fmt.Errorf("%s: %w", c.name, err))
		}
		fmt.Printf("%s: ok, %v\n", c.name, time.Since(began).Round(time.Second))
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
	os.Remove(d.log())
}

func (d *disk) log() string { return d.path + ".log" }

func (d *disk) filler() string { return filepath.Join(d.path, "filler") }

// fill takes the room there is, but for so many bytes. A member that writes meanwhile has it try again.
func (d *disk) fill(but int64) error {
	return within(saysWithin, func() error { return d.tryFill(but) })
}

func (d *disk) tryFill(but int64) error {
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
	acknowledged, parked, err := untilParked(func(number int) error { return put(m, number) })
	if err != nil {
		return err
	}
	if err := saysSo(m); err != nil {
		return err
	}
	if err := stops(m); err != nil {
		return err
	}
	if err := refused(parked); err != nil {
		return err
	}
	return comesBack(d, m, acknowledged)
}

// untilParked writes one after the other until one is not answered. It returns how many were, and where the answer to that
// one will come.
func untilParked(write func(int) error) (int, chan error, error) {
	for acknowledged := 0; ; acknowledged++ {
		answer := make(chan error, 1)
		go func() { answer <- write(acknowledged) }()
		select {
		case err := <-answer:
			if err != nil {
				return 0, nil, fmt.Errorf("write %d: %w", acknowledged, err)
			}
		case <-time.After(parkedAfter):
			return acknowledged, answer, nil
		}
	}
}

// refused looks at what a write got that waited while its member stopped.
func refused(parked chan error) error {
	select {
	case err := <-parked:
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "etcdserver: server stopped") {
			return fmt.Errorf("the write that waited got %v", err)
		}
	case <-time.After(time.Second):
		return errors.New("the write that waited was not answered")
	}
	return nil
}

// saysSo looks at the endpoints of a member whose log waits.
func saysSo(m *member.Member) error {
	for _, path := range []string{"/readyz", "/readyz/log_room", "/health", "/health?serializable=false"} {
		if code, body := get(m, path); code != http.StatusServiceUnavailable || !strings.Contains(body, "disk of the log is full") {
			return fmt.Errorf("%s: %d %s", path, code, body)
		}
	}
	for _, path := range []string{"/livez", "/health?serializable=true", "/readyz?exclude=log_room&exclude=store_room"} {
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
	if err := fillBelowStore(d, m); err != nil {
		return err
	}
	if err := stops(m); err != nil {
		return err
	}
	if err := noLastCheckpoint(m); err != nil {
		return err
	}
	return comesBack(d, m, puts)
}

// again takes the room of the store file and gives it back.
func again(server string) error {
	d, m, err := begin(server, 400)
	if err != nil {
		return err
	}
	defer d.remove()
	defer m.Kill()
	if err := fillBelowStore(d, m); err != nil {
		return err
	}
	if err := os.Remove(d.filler()); err != nil {
		return err
	}
	if err := within(saysWithin, func() error { return storeRoom(m, http.StatusOK, "0") }); err != nil {
		return err
	}
	return put(m, puts)
}

// fillBelowStore starts a member, takes the room of its store file and puts until a checkpoint has none.
func fillBelowStore(d *disk, m *member.Member) error {
	if err := m.Start(); err != nil {
		return err
	}
	if err := prepared(m); err != nil {
		return err
	}
	if err := d.fill(0); err != nil {
		return err
	}
	for number := range puts {
		if err := put(m, number); err != nil {
			return fmt.Errorf("put %d: %w", number, err)
		}
	}
	return lacksRoom(m)
}

// copied takes the room of the store file from a member whose clients copy long values in short transactions.
func copied(server string) error {
	d, m, err := begin(server, 400)
	if err != nil {
		return err
	}
	defer d.remove()
	defer m.Kill()
	if err := m.Start(); err != nil {
		return err
	}
	for number := range copies {
		if err := put(m, number); err != nil {
			return err
		}
	}
	if err := prepared(m); err != nil {
		return err
	}
	if err := d.fill(0); err != nil {
		return err
	}
	acknowledged, parked, err := untilParked(func(int) error { return copyAll(m) })
	if err != nil {
		return err
	}
	if acknowledged < 2 {
		return fmt.Errorf("%d transactions were acknowledged: memory has to do for some", acknowledged)
	}
	if err := lacksRoom(m); err != nil {
		return err
	}
	if err := stops(m); err != nil {
		return err
	}
	if err := refused(parked); err != nil {
		return err
	}
	if err := noLastCheckpoint(m); err != nil {
		return err
	}
	if err := comesBack(d, m, copies); err != nil {
		return err
	}
	return versions(m, int64(1+acknowledged))
}

// lacksRoom looks at the endpoints of a member that cannot write its store file.
func lacksRoom(m *member.Member) error {
	unready := func() error { return storeRoom(m, http.StatusServiceUnavailable, "1") }
	if err := within(saysWithin, unready); err != nil {
		return fmt.Errorf("without room: %w", err)
	}
	for _, path := range []string{"/livez", "/health", "/readyz?exclude=store_room", "/readyz/log_room"} {
		if code, body := get(m, path); code != http.StatusOK {
			return fmt.Errorf("%s: %d %s", path, code, body)
		}
	}
	return nil
}

// storeRoom compares what a member says of the room for its store file.
func storeRoom(m *member.Member, ready int, gauge string) error {
	for _, path := range []string{"/readyz", "/readyz/store_room"} {
		code, body := get(m, path)
		if code != ready || (ready != http.StatusOK && !strings.Contains(body, "disk of the store file is full")) {
			return fmt.Errorf("%s: %d %s", path, code, body)
		}
	}
	if _, body := get(m, "/metrics"); !strings.Contains(body, "\nkevel_store_lacks_room "+gauge+"\n") {
		return fmt.Errorf("the gauge kevel_store_lacks_room is not %s", gauge)
	}
	return nil
}

// within repeats a look until it finds nothing wrong.
func within(patience time.Duration, look func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if err := look(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func noLastCheckpoint(m *member.Member) error {
	log, err := os.ReadFile(m.Log())
	if err != nil || !strings.Contains(string(log), "stopped without a last checkpoint") {
		return fmt.Errorf("the log does not say that there is no checkpoint: %s", log)
	}
	return nil
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
	if err != nil {
		return nil, nil, err
	}
	// What the member says must not depend on the room on its disk.
	return d, m, os.Symlink(d.log(), m.Log())
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

// copyAll puts all keys with the values that they have.
func copyAll(m *member.Member) error {
	txn := &pb.TxnRequest{}
	for number := range copies {
		put := &pb.PutRequest{Key: key(number), IgnoreValue: true}
		txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	conn, err := member.Dial(m.Client)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = pb.NewKVClient(conn).Txn(context.Background(), txn)
	return err
}

// versions looks whether the keys were put so many times at least.
func versions(m *member.Member, least int64) error {
	conn, err := member.Dial(m.Client)
	if err != nil {
		return err
	}
	defer conn.Close()
	everything := &pb.RangeRequest{Key: key(0), RangeEnd: key(copies), KeysOnly: true}
	answer, err := pb.NewKVClient(conn).Range(context.Background(), everything)
	if err != nil {
		return err
	}
	for _, kv := range answer.Kvs {
		if kv.Version < least {
			return fmt.Errorf("%s has version %d and was put %d times", kv.Key, kv.Version, least)
		}
	}
	return nil
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
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
