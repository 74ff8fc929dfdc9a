package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

// The values of the one key that may differ.
var (
	same    = []string{"one", "one", "one"}
	oddOne  = []string{"one", "one", "two"}
	allOdd  = []string{"one", "two", "three"}
	inShort = []string{"--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=1s"}
)

// minority has one member that differs: the hashes of a compaction accuse it, whoever leads, and it alone.
func minority(dir string, kinds []kind) {
	sides := found(dir, kinds, oddOne, inShort...)
	sides[0].compact()
	odd := fmt.Sprintf("%x:CORRUPT", sides[2].id)
	alarmed(sides, odd)
	// Some checks later there is no other alarm.
	time.Sleep(3 * time.Second)
	alarmed(sides, odd)
	leader(sides).said("Detected compaction hash mismatch")
	for _, s := range sides {
		refuses(s)
	}
	rebuild(sides[2], sides[:2])
	agreeBehindAlarm(sides)
	before := sides[0].alarms()
	if !slices.Equal(before, []string{odd}) {
		fail(fmt.Errorf("the alarm of the member that was rebuilt became %v", before))
	}
	var id uint64
	fmt.Sscanf(odd, "%x:", &id)
	sides[0].clear(id)
	sides[0].compact()
	time.Sleep(3 * time.Second)
	alarmed(sides)
	agree(sides)
	end(sides)
}

// agreeBehindAlarm looks whether all members have the same data while nothing may be written.
func agreeBehindAlarm(sides []*side) {
	agree(sides)
}

// refuses looks what a member refuses behind the alarm, and what it does not.
func refuses(s *side) {
	const text = "etcdserver: corrupt cluster"
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	lease := pb.NewLeaseClient(s.conn)
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k")}}}
	get := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("k")}}}
	refused := map[string]func() error{
		"put":    func() error { _, err := s.kv().Put(ctx, &pb.PutRequest{Key: []byte("k")}); return err },
		"delete": func() error { _, err := s.kv().DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("k")}); return err },
		"txn": func() error {
			_, err := s.kv().Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{put}})
			return err
		},
		"compact": func() error { _, err := s.kv().Compact(ctx, &pb.CompactionRequest{Revision: 25}); return err },
		"grant":   func() error { _, err := lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60}); return err },
		"revoke":  func() error { _, err := lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 7}); return err },
	}
	for what, call := range refused {
		expect(s.Name+": "+what, call(), codes.DataLoss, text)
	}
	served := map[string]func() error{
		"get": func() error { _, err := s.kv().Range(ctx, &pb.RangeRequest{Key: []byte("k")}); return err },
		"local": func() error {
			_, err := s.kv().Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
			return err
		},
		"look":   func() error { _, err := s.kv().Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{get}}); return err },
		"leases": func() error { _, err := lease.LeaseLeases(ctx, &pb.LeaseLeasesRequest{}); return err },
		"list": func() error {
			_, err := s.cluster().MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
			return err
		},
	}
	for what, call := range served {
		expect(s.Name+": "+what, call(), codes.OK, "")
	}
	if errs := s.status().Errors; len(errs) != 1 || !bytes.Contains([]byte(errs[0]), []byte("alarm:CORRUPT")) {
		fail(fmt.Errorf("%s: the errors of its status are %q", s.Name, errs))
	}
	for path, want := range map[string]string{
		"/health":                 "503 {\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n",
		"/readyz/data_corruption": "503 [-]data_corruption failed: alarm activated: CORRUPT\n",
	} {
		got := ask(http.MethodGet, "http://"+s.Client+path, "", "")
		if !bytes.HasPrefix([]byte(got), []byte(want[:3])) || !bytes.Contains([]byte(got), []byte("CORRUPT")) {
			fail(fmt.Errorf("%s: %s answers %q, and should %q", s.Name, path, got, want))
		}
	}
}

// everybody has members that all differ: nobody knows whose data are right, and the alarm is that of the whole cluster.
func everybody(dir string, kinds []kind) {
	sides := found(dir, kinds, allOdd, inShort...)
	sides[0].compact()
	alarmed(sides, "0:CORRUPT")
	time.Sleep(3 * time.Second)
	alarmed(sides, "0:CORRUPT")
	leader(sides).said("cannot identify the corrupted members", "Detected compaction hash mismatch")
	end(sides)
}

// periodic compares the newest data: the leader accuses the first that has others, though it may be the one that is damaged.
func periodic(dir string, kinds []kind) {
	sides := found(dir, kinds, oddOne)
	for _, s := range sides {
		s.Kill()
	}
	for _, s := range sides {
		s.Flags("--corrupt-check-time=2s")
		fail(s.Launch())
	}
	for _, s := range sides {
		fail(s.Ready())
	}
	deadline := time.Now().Add(alarmWithin)
	for len(sides[0].alarms()) == 0 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	first := leader(sides)
	accused := sides[2]
	if first == sides[2] {
		accused = sides[0]
		if sides[1].id < accused.id {
			accused = sides[1]
		}
	}
	alarmed(sides, fmt.Sprintf("%x:CORRUPT", accused.id))
	first.said("same compact revision then hashes must match")
	end(sides)

	// Equal members are not accused, however much is written and compacted between two checks.
	sides = found(filepath.Join(dir, "equal"), kinds, same, "--corrupt-check-time=200ms", inShort[0], "--compact-hash-check-time=300ms")
	for began := time.Now(); time.Since(began) < 4*time.Second; {
		sides[0].compact()
	}
	time.Sleep(time.Second)
	alarmed(sides)
	agree(sides)
	end(sides)
}

// initial starts a member that differs from the others with the check before it serves: it does not serve. Those that do
// not differ do.
func initial(dir string, kinds []kind) {
	sides := found(dir, kinds, oddOne)
	odd, others := sides[2], sides[:2]
	odd.Stop()
	odd.Flags("--feature-gates=InitialCorruptCheck=true")
	fail(odd.Launch())
	code, ended := odd.Ended(endWithin)
	if !ended || code != 1 {
		fail(fmt.Errorf("a member with other data ended: %v, status %d", ended, code))
	}
	odd.said("found different hash values from remote peer", fmt.Sprintf("%x found data inconsistency with peers", odd.id))
	rebuild(odd, others)
	agree(sides)
	for _, s := range sides {
		s.Stop()
		s.Flags("--feature-gates=InitialCorruptCheck=true", "--log-level=info")
		fail(s.Start())
		s.said("initial corruption checking passed; no corruption")
	}
	sides[0].put("k", "v")
	agree(sides)
	end(sides)
}

// damage hurts what a member has on its disk. Only a server with checksums notices; of others there is nothing to judge.
func damage(dir string, kinds []kind) {
	sides := found(dir, kinds, same)
	store := func(s *side) string { return filepath.Join(s.Dir, "data", "member", "kevel", "store") }
	n := slices.IndexFunc(sides, func(s *side) bool { _, err := os.Stat(store(s)); return err == nil })
	if n < 0 {
		end(sides)
		return
	}
	hurt := sides[n]
	others := slices.DeleteFunc(slices.Clone(sides), func(s *side) bool { return s == hurt })
	refusesTheWell(hurt, kinds[n].server, others)
	const value = "a value that is to rot on the disk"
	hurt.put("rots", value)
	hurt.Stop()
	fail(spoil(store(hurt), []byte(value)))
	fail(hurt.Start())
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	got, err := hurt.kv().Range(ctx, &pb.RangeRequest{Key: []byte("rots"), Serializable: true})
	cancel()
	if err == nil {
		fail(fmt.Errorf("what has rotted was served: %v", got))
	}
	if _, ended := hurt.Ended(endWithin); !ended {
		fail(errors.New("a member goes on whose page fails its checksum"))
	}
	hurt.said("fails its checksum", "kevel rebuild --data-dir")
	forgets(hurt)
	rebuildByTool(hurt, kinds[n].server, others)
	agree(sides)
	expectValue(hurt, "rots", value)

	// The log, which lies apart now: a record that was committed.
	hurt.Stop()
	apart := filepath.Join(hurt.Dir, "wal")
	fail(os.Rename(filepath.Join(hurt.Data(), "member", "wal"), apart))
	hurt.Flags("--wal-dir=" + apart)
	fail(hurt.Start())
	const entry = "an entry that is to rot in the log"
	hurt.put("logged", entry)
	for n := range 20 {
		hurt.put("behind", fmt.Sprint(n))
	}
	hurt.Kill()
	logs, err := filepath.Glob(filepath.Join(apart, "*.wal"))
	fail(err)
	spoilt := false
	for _, log := range logs {
		spoilt = spoil(log, []byte(entry)) == nil || spoilt
	}
	if !spoilt {
		fail(errors.New("the entry is not in the log"))
	}
	fail(hurt.Launch())
	if code, ended := hurt.Ended(endWithin); !ended || code != 1 {
		fail(fmt.Errorf("a member with a damaged log ended: %v, status %d", ended, code))
	}
	hurt.said("in the write-ahead log is damaged", "nothing was changed")
	fail(os.RemoveAll(filepath.Join(hurt.Dir, "data", "member.damaged")))
	rebuildByTool(hurt, kinds[n].server, others, "--wal-dir", apart)
	if kept, err := filepath.Glob(filepath.Join(apart, "damaged", "*.wal")); err != nil || len(kept) == 0 {
		fail(fmt.Errorf("the damaged log is not kept in %s: %v", apart, err))
	}
	agree(sides)
	expectValue(hurt, "logged", entry)
	end(sides)
}

// forgets starts a member on nothing, with the flags of a founder: it must not begin anew under its old id.
func forgets(s *side) {
	data := filepath.Join(s.Dir, "data")
	fail(os.Rename(data, data+".kept"))
	fail(s.Launch())
	if code, ended := s.Ended(endWithin); !ended || code != 1 {
		fail(fmt.Errorf("a member that has lost its data ended: %v, status %d", ended, code))
	}
	s.said("has already been bootstrapped")
	fail(os.RemoveAll(data))
	fail(os.Rename(data+".kept", data))
}

func expectValue(s *side, key, value string) {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	got, err := s.kv().Range(ctx, &pb.RangeRequest{Key: []byte(key)})
	fail(err)
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
		fail(fmt.Errorf("%s has %v under %s", s.Name, got.Kvs, key))
	}
}

// spoil changes a bit in the midst of these bytes wherever a file has them.
func spoil(path string, bytesOf []byte) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	found := false
	for at := 0; ; {
		next := bytes.Index(content[at:], bytesOf)
		if next < 0 {
			break
		}
		at += next + len(bytesOf)/2
		if _, err := file.WriteAt([]byte{content[at] ^ 4}, int64(at)); err != nil {
			return err
		}
		found = true
	}
	if !found {
		return fmt.Errorf("%s has no %q", path, bytesOf)
	}
	return file.Sync()
}

// endpoint asks members of one cluster what they have at their peer ports. All have to answer alike.
func endpoint(dir string, kinds []kind) {
	sides := found(dir, kinds, same)
	sides[0].compact()
	sides[0].put("last", "one")
	agree(sides)
	revision := sides[0].put("last", "two")
	agree(sides)
	cluster := fmt.Sprintf("%x", sides[0].status().Header.ClusterId)
	questions := []struct {
		method, cluster, body string
		status                int
	}{
		{"GET", cluster, "{}", 200}, {"GET", cluster, "null", 200}, {"GET", "", "{}", 200},
		{"GET", cluster, fmt.Sprintf(`{"revision":%d}`, revision), 200},
		{"GET", cluster, fmt.Sprintf(`{"REVISION":%d,"x":[{}]}`, revision-1), 200},
		{"GET", cluster, `{"revision":-1}`, 200},
		{"GET", cluster, fmt.Sprintf(`{"revision":%d}`, revision+1), 400},
		{"GET", cluster, `{"revision":2}`, 400},
		{"GET", cluster, `{"revision":"2"}`, 400}, {"GET", cluster, `{"revision":1.5}`, 400}, {"GET", cluster, `[]`, 400},
		{"GET", cluster, "", 400}, {"GET", cluster, "{", 400}, {"GET", "abc", "{}", 412}, {"GET", "abc", "", 412},
		{"POST", cluster, "{}", 405}, {"PUT", "abc", "{}", 405}, {"DELETE", cluster, "", 405},
	}
	for _, q := range questions {
		want := ""
		for _, s := range sides {
			got := ask(q.method, "http://"+s.Peer+"/members/hashkv", q.cluster, q.body)
			if want == "" {
				want = got
			}
			if got != want || got[:3] != fmt.Sprint(q.status) {
				fail(fmt.Errorf("%v: %s answers %q, and another member %q", q, s.Name, got, want))
			}
		}
	}
	for _, path := range []string{"/members/hashkv/", "/members/hashkv/1", "/members/hash"} {
		for _, s := range sides {
			if got := ask("GET", "http://"+s.Peer+path, cluster, "{}"); got[:3] != "404" {
				fail(fmt.Errorf("%s answers %q at %s", s.Name, got, path))
			}
		}
	}
	// The hash of the compaction itself.
	hash := ask("GET", "http://"+sides[0].Peer+"/members/hashkv", cluster, "{}")
	if !bytes.Contains([]byte(hash), []byte(`"hash_revision"`)) {
		fail(fmt.Errorf("the answer is %q", hash))
	}
	end(sides)
}

// ask is a request over HTTP/1.1: status, the headers that matter, and body.
func ask(method, url, cluster, body string) string {
	request, err := http.NewRequest(method, url, bytes.NewReader([]byte(body)))
	fail(err)
	if cluster != "" {
		request.Header.Set("X-Etcd-Cluster-ID", cluster)
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	fail(err)
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	fail(err)
	headers := ""
	for _, name := range []string{"Content-Type", "X-Etcd-Cluster-Id", "Allow", "X-Content-Type-Options"} {
		headers += answer.Header.Get(name) + " "
	}
	return fmt.Sprintf("%d %s%s", answer.StatusCode, headers, content)
}
