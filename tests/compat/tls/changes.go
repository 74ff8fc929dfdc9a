package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"kevel/compat/member"
)

func freePort() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	fail(err)
	defer l.Close()
	return l.Addr().String()
}

// refusals are flags with which neither server starts.
func refusals(dir string, p *pki) {
	f := newFolder(dir, "refusals")
	cert, key := f.put("a.crt", p.server.certPEM()), f.put("a.key", p.server.keyPEM(false))
	otherKey, none, empty := f.put("b.key", p.alice.keyPEM(false)), filepath.Join(string(f), "none"), f.put("empty", nil)
	pair := []string{"--cert-file=" + cert, "--key-file=" + key}
	ca := f.put("ca.crt", p.ca.certPEM())
	for name, flags := range map[string][]string{
		"https without certificate": {}, "certificate without key": {"--cert-file=" + cert}, "key without certificate": {"--key-file=" + key},
		"a key of another": {"--cert-file=" + cert, "--key-file=" + otherKey}, "no such file": {"--cert-file=" + none, "--key-file=" + key},
		"an empty certificate": {"--cert-file=" + empty, "--key-file=" + key}, "no such authority": append(pair, "--trusted-ca-file="+none),
		"no such cipher suite": append(pair, "--cipher-suites=TLS_X"), "no such version": append(pair, "--tls-min-version=TLS1.1"),
		"versions the wrong way":    append(pair, "--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"),
		"ciphers of TLS 1.3":        append(pair, "--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"),
		"peers without certificate": append(pair, "--listen-peer-urls=https://PEER"), "no validity": {"--auto-tls", "--self-signed-cert-validity=0"},
		"names and hosts for clients": append(pair, "--trusted-ca-file="+ca, "--client-cert-auth", "--client-cert-allowed-cn=a", "--client-cert-allowed-hostname=b"),
		"names and hosts for peers": append(pair, "--peer-cert-file="+cert, "--peer-key-file="+key, "--peer-trusted-ca-file="+ca, "--peer-client-cert-auth",
			"--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b"),
		"metrics without certificate": {"--listen-client-urls=http://CLIENT", "--listen-metrics-urls=https://127.0.0.1:0"},
	} {
		for side, binary := range map[string]string{"etcd": *etcd, "kevel": *kevel} {
			one, err := start(side, binary, filepath.Join(string(f), strings.ReplaceAll(name, " ", "-")+side), flags...)
			if err == nil {
				one.Stop()
				report("start", name, side+" starts")
			}
		}
	}
	fmt.Printf("%-40s 16 rows\n", "refused at start")
}

// reload changes the files of a running server.
func reload(dir string, p *pki) {
	for name, binary := range map[string]string{"etcd": *etcd, "kevel": *kevel} {
		f := newFolder(dir, "reload-"+name)
		s, err := start(name, binary, string(f), serverFlags(f, p.server, p.ca, false, "--client-crl-file="+f.put("crl", crlOf(p.ca)))...)
		if err != nil {
			report("reload", "start", fmt.Sprint(name, err))
			continue
		}
		alice := client{trusts: p.ca, shows: p.alice}
		open, err := tls.Dial("tcp", s.Client, withName(alice))
		fail(err)
		after := serverOf(p.ca, nil)
		f.put("server.crt", after.certPEM())
		f.put("server.key", after.keyPEM(false))
		seen := func() bool { serial, _ := serialOf(s, alice); return serial == after.cert.SerialNumber.String() }
		if !eventually(3*time.Second, seen) {
			report("reload", "certificate", name+" shows the old one")
		}
		f.put("crl", crlOf(p.ca, p.bob))
		revoked := func() bool { _, err := client{trusts: p.ca, shows: p.bob}.get(s.Client); return err != nil }
		if !eventually(3*time.Second, revoked) {
			report("reload", "revoked", name+" takes a revoked certificate")
		}
		if _, err := alice.get(s.Client); err != nil {
			report("reload", "alice", fmt.Sprint(name, " refuses her: ", err))
		}
		// A connection from before goes on.
		if _, err := open.Write([]byte("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")); err != nil {
			report("reload", "open connection", fmt.Sprint(name, err))
		} else if n, err := open.Read(make([]byte, 100)); n == 0 {
			report("reload", "open connection", fmt.Sprint(name, err))
		}
		open.Close()
		if name == "kevel" {
			reloadMore(s, f, p, after)
		}
		s.Stop()
	}
	fmt.Printf("%-40s 7 rows\n", "reload")
}

// reloadMore is what Kevel does and etcd does not: a bad file changes nothing, and authorities are read again.
func reloadMore(s *side, f folder, p *pki, server *issued) {
	alice := client{trusts: p.ca, shows: p.alice}
	f.put("server.crt", []byte("nonsense"))
	time.Sleep(2500 * time.Millisecond)
	if _, err := alice.get(s.Client); err != nil || !s.says("cannot use changed TLS files") {
		report("reload", "bad file", fmt.Sprint(err))
	}
	f.put("server.crt", server.certPEM())
	f.put("ca.crt", p.other.certPEM())
	stranger := func() bool { _, err := client{trusts: p.ca, shows: p.stranger}.get(s.Client); return err == nil }
	if !eventually(3*time.Second, stranger) {
		report("reload", "authority", "the new one is not trusted")
	}
	if _, err := alice.get(s.Client); err == nil {
		report("reload", "authority", "the old one still is")
	}
}

func withName(c client) *tls.Config {
	config := c.config()
	config.ServerName, config.NextProtos = "localhost", []string{"http/1.1"}
	return config
}

func serialOf(s *side, c client) (string, error) {
	conn, err := tls.Dial("tcp", s.Client, withName(c))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

// flood opens connections that say nothing and begins handshakes without end, and looks whether who is served is served.
func flood(dir string, p *pki) {
	f := newFolder(dir, "flood")
	s, err := start("kevel", *kevel, string(f), serverFlags(f, serverOf(p.ca, rsaKey()), nil, false)...)
	if err != nil {
		report("flood", "start", err.Error())
		return
	}
	defer s.Stop()
	served, err := tls.Dial("tcp", s.Client, withName(client{trusts: p.ca}))
	fail(err)
	defer served.Close()
	const silent, shaking, rounds = 600, 64, 200
	for range silent {
		if conn, err := net.Dial("tcp", s.Client); err == nil {
			defer conn.Close()
		}
	}
	var done sync.WaitGroup
	stop, shaken := make(chan struct{}), 0
	var lock sync.Mutex
	for range shaking {
		done.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := (client{trusts: p.ca}).get(s.Client); err == nil {
					lock.Lock()
					shaken++
					lock.Unlock()
				}
			}
		})
	}
	time.Sleep(1500 * time.Millisecond) // until those who say nothing are sent away
	var slowest time.Duration
	buffer := make([]byte, 4096)
	for range rounds {
		began := time.Now()
		if _, err := served.Write([]byte("GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")); err != nil {
			report("flood", "served", err.Error())
			break
		}
		if _, err := served.Read(buffer); err != nil {
			report("flood", "served", err.Error())
			break
		}
		slowest = max(slowest, time.Since(began))
	}
	close(stop)
	done.Wait()
	if slowest > time.Second {
		report("flood", "served", fmt.Sprintf("waited %v", slowest))
	}
	if shaken == 0 {
		report("flood", "newcomers", "nobody was let in")
	}
	fmt.Printf("%-40s %d silent, %d let in, who is served waited at most %v\n", "flood", silent, shaken, slowest.Round(time.Millisecond))
}

// clusters are three members with TLS between them.
func clusters(dir string, p *pki) {
	for name, binaries := range map[string][]string{"kevel": {*kevel, *kevel, *kevel}, "mixed": {*etcd, *kevel, *etcd}} {
		f := newFolder(dir, "cluster-"+name)
		flags := func() []string {
			peers := []string{"--peer-cert-file=" + f.put("peer.crt", p.server.certPEM()), "--peer-key-file=" + f.put("peer.key", p.server.keyPEM(false)),
				"--peer-trusted-ca-file=" + f.put("ca.crt", p.ca.certPEM()), "--peer-client-cert-auth", "--peer-cert-allowed-cn=server"}
			return append(serverFlags(f, p.server, p.ca, false), peers...)
		}
		cluster(name, string(f), binaries, flags(), p)
	}
	for name, binaries := range map[string][]string{"kevel": {*kevel, *kevel, *kevel}, "mixed": {*etcd, *kevel, *etcd}} {
		cluster(name+", made by themselves", string(newFolder(dir, "auto-"+name)), binaries, []string{"--auto-tls", "--peer-auto-tls"}, p)
	}
}

func cluster(name, dir string, binaries, flags []string, p *pki) {
	var members []*member.Member
	var founders []string
	for n, binary := range binaries {
		m, err := member.New(binary, fmt.Sprintf("m%d", n+1), dir)
		fail(err)
		members = append(members, m)
		founders = append(founders, m.Name+"=https://"+m.Peer)
	}
	for _, m := range members {
		m.Flags("--name="+m.Name, "--listen-client-urls=https://"+m.Client, "--advertise-client-urls=https://"+m.Client, "--log-level=info",
			"--listen-peer-urls=https://"+m.Peer, "--initial-advertise-peer-urls=https://"+m.Peer, "--initial-cluster="+strings.Join(founders, ","))
		m.Flags(flags...)
		fail(m.Launch())
		defer m.Stop()
	}
	alice := client{trusts: p.ca, shows: p.alice}
	if strings.Contains(name, "themselves") {
		alice = client{}
	}
	answers := func(m *member.Member) bool { return alice.call(m.Client) == nil }
	all := func() bool {
		for _, m := range members {
			if m.Running() && !answers(m) {
				return false
			}
		}
		return true
	}
	if !eventually(30*time.Second, all) {
		report("cluster "+name, "formed", "not all members answer, see "+dir)
		return
	}
	members[0].Kill()
	if !eventually(30*time.Second, all) {
		report("cluster "+name, "one killed", "the others do not answer")
	}
	fail(members[0].Launch())
	if !eventually(30*time.Second, func() bool { return answers(members[0]) }) {
		report("cluster "+name, "back", "the one that came back does not answer")
	}
	for _, m := range members {
		// Members reach one another though only one side can dial the other, so each must be able to.
		if log, _ := os.ReadFile(m.Log()); strings.Contains(string(log), "tls: handshake failure") || strings.Contains(string(log), "signature algorithms") {
			report("cluster "+name, "handshakes", "some have failed, see "+m.Log())
		}
	}
	fmt.Printf("%-40s 4 rows\n", "cluster "+name)
}

// etcdctl reads and writes with files of PEM, as an operator does.
func etcdctl(dir string, p *pki) {
	f := newFolder(dir, "etcdctl")
	s, err := start("kevel", *kevel, string(f), serverFlags(f, p.server, p.ca, false)...)
	if err != nil {
		report("etcdctl", "start", err.Error())
		return
	}
	defer s.Stop()
	files := []string{"--endpoints=https://" + s.Client, "--cacert=" + f.put("ca.crt", p.ca.certPEM()),
		"--cert=" + f.put("alice.crt", p.alice.certPEM()), "--key=" + f.put("alice.key", p.alice.keyPEM(false))}
	for _, step := range [][]string{{"put", "k", "v"}, {"get", "k"}, {"endpoint", "health"}, {"member", "list"}} {
		out, err := exec.Command(filepath.Join(filepath.Dir(*etcd), "etcdctl"), append(files, step...)...).CombinedOutput()
		if err != nil {
			report("etcdctl", strings.Join(step, " "), string(out))
		}
	}
	if out, err := exec.Command(filepath.Join(filepath.Dir(*etcd), "etcdctl"), append(files[:2], "--command-timeout=2s", "get", "k")...).CombinedOutput(); err == nil {
		report("etcdctl", "without a certificate", string(out))
	}
	fmt.Printf("%-40s 5 rows\n", "etcdctl")
}
