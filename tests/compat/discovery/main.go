// Discovery starts clusters whose founders are not named by --initial-cluster: SRV records of DNS name them, or a discovery
// service does. Members are of etcd, of Kevel, and of both; the service is of either. Clusters must come out with the same
// members under the same ids, and whoever is refused must be refused by both, with the same status and the same words.
//
//	go run ./discovery -etcd PATH -kevel PATH
//	go run ./discovery -try          whether this machine lets it have a network and a resolv.conf of its own
//
// All of it happens in namespaces of its own: a network of loopback alone, in which every port is free, and a
// /etc/resolv.conf that names the judge's own name server. Nothing outside is asked or changed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	inside     = "-inside"
	members    = 4
	domain     = "example.com"
	nameServer = "127.0.0.1:53"

	callWithin  = 10 * time.Second
	namesWithin = 10 * time.Second
	endWithin   = 40 * time.Second
	lineWithin  = 20 * time.Second
)

// judge is what all trials have in common.
type judge struct {
	kinds  map[string]string // binaries by kind
	dir    string
	zone   *zone
	made   int
	failed int
	only   string
	loud   bool
}

func main() {
	if len(os.Args) < 2 || os.Args[1] != inside {
		os.Exit(enter())
	}
	os.Args = append(os.Args[:1], os.Args[2:]...)
	try := flag.Bool("try", false, "only look whether namespaces can be had here")
	etcd := flag.String("etcd", "", "etcd's binary")
	kevel := flag.String("kevel", "", "Kevel's binary")
	keep := flag.Bool("keep", false, "keep the members' folders")
	only := flag.String("only", "", "only trials whose names contain this")
	loud := flag.Bool("v", false, "print what was compared")
	flag.Parse()

	dir, err := os.MkdirTemp("", "discovery-")
	fail(err)
	fail(isolate(dir))
	if *try {
		fail(os.RemoveAll(dir))
		return
	}
	j := &judge{kinds: map[string]string{"etcd": *etcd, "kevel": *kevel}, dir: dir, zone: newZone(), only: *only, loud: *loud}
	j.zone.open()
	began := time.Now()
	j.byDNS()
	j.byService()
	if j.failed > 0 {
		fmt.Printf("%d trials failed; folders are kept in %s\n", j.failed, dir)
		os.Exit(1)
	}
	if !*keep {
		fail(os.RemoveAll(dir))
	}
	fmt.Printf("ok: every cluster found and every refusal worded as by etcd, in %v\n", time.Since(began).Round(time.Second))
}

// enter runs this program again in namespaces of its own, and returns its status.
func enter() int {
	again := exec.Command("/proc/self/exe", append([]string{inside}, os.Args[1:]...)...)
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	err := again.Run()
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		return ended.ExitCode()
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// isolate sets the namespaces up: loopback, and a resolv.conf that names the judge.
func isolate(dir string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	text := "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"
	path := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	if err := syscall.Mount(path, "/etc/resolv.conf", "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("/etc/resolv.conf: %w", err)
	}
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(socket)
	request := struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}{flags: syscall.IFF_UP | syscall.IFF_RUNNING}
	copy(request.name[:], "lo")
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(socket), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("loopback: %w", errno)
	}
	return nil
}

func host(n int) string    { return fmt.Sprintf("m%d.%s", n, domain) }
func address(n int) string { return fmt.Sprintf("127.0.1.%d", n) }

// trial runs what has this name, and says what came of it.
func (j *judge) trial(name string, run func() error) {
	if !strings.Contains(name, j.only) {
		return
	}
	if err := run(); err != nil {
		j.failed++
		fmt.Printf("FAILED %s: %v\n", name, err)
		return
	}
	if j.loud {
		fmt.Printf("ok     %s\n", name)
	}
}

// lay makes the n-th member of a cluster, of a kind, with nothing said of the others.
func (j *judge) lay(kind string, n int, flags ...string) *member.Member {
	j.made++
	m, err := member.New(j.kinds[kind], fmt.Sprintf("m%d", n), filepath.Join(j.dir, fmt.Sprintf("%03d-%s", j.made, kind)))
	fail(err)
	m.Client, m.Peer = address(n)+":2379", address(n)+":2380"
	m.Flags("--name="+m.Name, "--initial-cluster=", "--log-level=info")
	m.Flags(flags...)
	return m
}

// kinds are the members of a cluster of three.
type kinds []string

func (k kinds) String() string { return strings.Join(k, ",") }

var (
	allEtcd, allKevel = kinds{"etcd", "etcd", "etcd"}, kinds{"kevel", "kevel", "kevel"}
	// etcd's are what the others are compared with.
	patterns = []kinds{allEtcd, allKevel, {"kevel", "etcd", "kevel"}, {"etcd", "kevel", "etcd"}}
)

// together starts members at once, looks at the cluster that they are, and returns it as text: ids, names and peer URLs.
func together(all ...*member.Member) (string, error) {
	for _, m := range all {
		if err := m.Launch(); err != nil {
			return "", err
		}
	}
	for _, m := range all {
		if err := m.Ready(); err != nil {
			return "", err
		}
	}
	return cluster(all...)
}

// cluster writes through each member and reads through the next, and returns the members' ids, names and peer URLs.
func cluster(all ...*member.Member) (string, error) {
	for n, m := range all {
		key := []byte(m.Name)
		if err := call(m, func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: key, Value: key})
			return err
		}); err != nil {
			return "", fmt.Errorf("a put through %s: %w", m.Name, err)
		}
		next := all[(n+1)%len(all)]
		if err := call(next, func(ctx context.Context, conn *grpc.ClientConn) error {
			got, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: key})
			if err == nil && len(got.Kvs) != 1 {
				err = errors.New("it is not there")
			}
			return err
		}); err != nil {
			return "", fmt.Errorf("what was put through %s, read through %s: %w", m.Name, next.Name, err)
		}
	}
	var shown string
	for deadline := time.Now().Add(namesWithin); ; time.Sleep(50 * time.Millisecond) {
		var named bool
		if err := call(all[0], func(ctx context.Context, conn *grpc.ClientConn) error {
			list, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
			if err == nil {
				shown, named = show(list.Members)
			}
			return err
		}); err != nil {
			return "", err
		}
		if named {
			return shown, nil
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("the members have not all told their names: %s", shown)
		}
	}
}

// show is a list of members as text, and whether all have told who they are.
func show(list []*pb.Member) (string, bool) {
	named := true
	var lines []string
	for _, m := range list {
		named = named && len(m.ClientURLs) > 0
		lines = append(lines, fmt.Sprintf("%x %s %s", m.ID, m.Name, strings.Join(m.PeerURLs, " ")))
	}
	sort.Strings(lines)
	return strings.Join(lines, "; "), named
}

func call(m *member.Member, do func(context.Context, *grpc.ClientConn) error) error {
	conn, err := member.Dial(m.Client, grpc.WithConnectParams(member.Quickly))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	return do(ctx, conn)
}

func kill(all []*member.Member) {
	for _, m := range all {
		m.Kill()
	}
}

// line is one of a log.
type line struct {
	Level, Msg, Error string
	InitialCluster    string `json:"initial-cluster"`
}

func lines(m *member.Member) []line {
	text, err := os.ReadFile(m.Log())
	fail(err)
	var all []line
	for _, one := range strings.Split(string(text), "\n") {
		var l line
		if json.Unmarshal([]byte(one), &l) == nil {
			all = append(all, l)
		}
	}
	return all
}

// says waits for a line with these words.
func says(m *member.Member, words string) error {
	for deadline := time.Now().Add(lineWithin); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, l := range lines(m) {
			if strings.Contains(l.Msg, words) {
				return nil
			}
		}
	}
	return fmt.Errorf("%s does not say %q", m.Log(), words)
}

// refusal starts a member that has to end by itself: its status, and the last error that it says.
func refusal(m *member.Member) (int, string, error) {
	if err := m.Launch(); err != nil {
		return 0, "", err
	}
	defer m.Kill()
	status, ended := m.Ended(endWithin)
	if !ended {
		return 0, "", fmt.Errorf("%s goes on", m.Dir)
	}
	var last string
	for _, l := range lines(m) {
		if l.Error != "" {
			last = l.Error
		}
	}
	last = ports.ReplaceAllString(last, "$1:PORT->")
	return status, servers.ReplaceAllString(last, "lookup $1:"), nil
}

var (
	// ports are those that the kernel picks.
	ports = regexp.MustCompile(`(127\.0\.0\.1):\d+->`)
	// servers are told for hosts by Go's resolver, and not by the system's.
	servers = regexp.MustCompile(`lookup ([^_ ]\S*) on 127\.0\.0\.1:53:`)
)

// sameRefusal starts a member of each kind, with the same flags. Kevel may say more behind etcd's words.
func (j *judge) sameRefusal(name, word string, n int, flags ...string) {
	j.trial(name, func() error {
		wanted, said, err := refusal(j.lay("etcd", n, flags...))
		if err != nil {
			return err
		}
		got, answered, err := refusal(j.lay("kevel", n, flags...))
		if err != nil {
			return err
		}
		if j.loud {
			fmt.Printf("       etcd  %d %q\n       kevel %d %q\n", wanted, said, got, answered)
		}
		if !strings.Contains(said, word) {
			return fmt.Errorf("etcd says %q, which has no %q: the case is not what it is meant to be", said, word)
		}
		if wanted != got || !strings.HasPrefix(answered, said) {
			return fmt.Errorf("etcd ends with %d and %q, Kevel with %d and %q", wanted, said, got, answered)
		}
		return nil
	})
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}
