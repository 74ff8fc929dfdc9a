// Tls compares how etcd and Kevel secure their ports: which connections are taken and which refused, by certificates,
// names, versions, ciphers and lists of revoked certificates; what changed files do to a running server; which flags are
// refused at start; and whether three members with TLS are a cluster, also where some of them are etcd.
//
//	go run ./tls -etcd PATH -kevel PATH        three minutes
//	go run ./tls -etcd PATH -kevel PATH -only clients
package main

import (
	"crypto/elliptic"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

var (
	etcd  = flag.String("etcd", "", "etcd's binary")
	kevel = flag.String("kevel", "", "Kevel's binary")
	only  = flag.String("only", "", "cases whose names have this in them")
	keep  = flag.Bool("keep", false, "keep the servers' folders")
)

// scene is two servers with the same flags, and what is tried on both.
type scene struct {
	name  string
	flags func(f folder) []string
	rows  []row
}

var failures int

func main() {
	flag.Parse()
	dir, err := os.MkdirTemp("", "tls-")
	fail(err)
	p := newPKI()
	for _, s := range scenes(p) {
		if strings.Contains(s.name, *only) {
			run(dir, s)
		}
	}
	for name, check := range map[string]func(string, *pki){"start": refusals, "reload": reload, "flood": flood, "cluster": clusters, "etcdctl": etcdctl} {
		if strings.Contains(name, *only) {
			check(dir, p)
		}
	}
	if !*keep {
		os.RemoveAll(dir)
	}
	if failures > 0 {
		fmt.Printf("%d rows differ\n", failures)
		os.Exit(1)
	}
	fmt.Println("no difference")
}

func scenes(p *pki) []scene {
	plain := func(more ...string) func(folder) []string {
		return func(f folder) []string { return serverFlags(f, p.server, nil, false, more...) }
	}
	auth := func(more ...string) func(folder) []string {
		return func(f folder) []string { return serverFlags(f, p.server, p.ca, false, more...) }
	}
	secured := func(more ...string) func(folder) []string {
		return func(f folder) []string {
			flags := serverFlags(f, p.server, nil, false, "--peer-client-cert-auth", "--peer-trusted-ca-file="+f.put("peer-ca.crt", p.ca.certPEM()),
				"--peer-cert-file="+f.put("peer.crt", p.server.certPEM()), "--peer-key-file="+f.put("peer.key", p.server.keyPEM(false)),
				"--peer-crl-file="+f.put("crl", crlOf(p.ca, p.bob)),
				"--listen-peer-urls=https://PEER", "--initial-advertise-peer-urls=https://PEER", "--initial-cluster=default=https://PEER")
			return append(flags, more...)
		}
	}
	any := client{trusts: p.ca}
	alice, bob := client{trusts: p.ca, shows: p.alice}, client{trusts: p.ca, shows: p.bob}
	keys := func(name string, server *issued, pkcs8 bool) scene {
		return scene{"key " + name, func(f folder) []string { return serverFlags(f, server, nil, pkcs8) }, []row{get("taken", any), call("over gRPC", any)}}
	}
	middle := issue(ask{cn: "middle", isCA: true, by: p.ca})
	chained := serverOf(middle, nil)
	chained.chain = append(chained.chain, middle.cert)
	own := issue(ask{cn: "own", isCA: true, hosts: []string{"localhost"}, ips: []string{"127.0.0.1"}})
	ca521 := issue(ask{cn: "ca", isCA: true, key: ecKeyOn(elliptic.P521())})
	alice521 := issue(ask{cn: "alice", by: ca521, key: ecKeyOn(elliptic.P521())})
	pinned := issue(ask{cn: "alice"})
	late := issue(ask{cn: "late", isCA: true, from: -2 * time.Hour, to: -time.Hour})
	first := old(ask{cn: "first"})
	rsaServer := serverOf(p.ca, rsaKey())
	max := func(v string) string { return "--tls-max-version=" + v }
	v12, v13 := client{trusts: p.ca, max: 0x0303}, client{trusts: p.ca, min: 0x0304}
	return []scene{
		{"versions", plain(), versions(p)},
		{"clients", auth(), append(certificates(p),
			logged("nobody", any, "tls: client didn't provide a certificate"),
			logged("a stranger", client{trusts: p.ca, shows: p.stranger}, "x509: certificate signed by unknown authority"),
			logged("an expired one", client{trusts: p.ca, shows: p.expired}, "certificate has expired or is not yet valid"),
			logged("a client that trusts another authority", client{trusts: p.other, shows: p.alice}, "remote error: tls: bad certificate"),
			logged("old versions", client{trusts: p.ca, shows: p.alice, max: 0x0302}, "tls: client offered only unsupported versions"),
		)},
		{"an authority without client-cert-auth", func(f folder) []string {
			return append(serverFlags(f, p.server, nil, false), "--trusted-ca-file="+f.put("ca.crt", p.ca.certPEM()))
		}, []row{get("nobody", any), get("alice", alice)}},
		{"allowed hostname", auth("--client-cert-allowed-hostname=alice.example,10.0.0.1"), []row{
			get("alice", alice), get("bob", bob), get("nobody", any), logged("bob", bob, "client certificate authentication failed")}},
		{"allowed hostname without authority", plain("--client-cert-allowed-hostname=alice.example"), []row{get("nobody", any), get("bob", bob)}},
		{"revoked", func(f folder) []string {
			return serverFlags(f, p.server, p.ca, false, "--client-crl-file="+f.put("crl", crlOf(p.ca, p.bob)))
		}, []row{get("alice", alice), get("bob", bob), call("alice over gRPC", alice), call("bob over gRPC", bob),
			logged("bob", bob, fmt.Sprintf("transport: certificate serial %x revoked", p.bob.cert.SerialNumber))}},
		{"from TLS 1.3 on", plain("--tls-min-version=TLS1.3"), []row{get("1.2", v12), get("1.3", v13)}},
		{"up to TLS 1.2", plain(max("TLS1.2")), []row{get("1.2", v12), get("1.3", v13), call("gRPC", any)}},
		{"one cipher suite", plain("--cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"), []row{
			get("it", client{trusts: p.ca, max: 0x0303, suites: []uint16{0xc02b}}), get("another", client{trusts: p.ca, max: 0x0303, suites: []uint16{0xc02c}}),
			get("TLS 1.3", v13)}},
		keys("RSA, PKCS#1", rsaServer, false), keys("RSA, PKCS#8", rsaServer, true), keys("ECDSA, SEC1", p.server, false),
		keys("ECDSA, PKCS#8", p.server, true), keys("Ed25519", serverOf(p.ca, edKey()), true), keys("P-384", serverOf(p.ca, ecKeyOn(elliptic.P384())), false),
		keys("P-521, SEC1", serverOf(p.ca, ecKeyOn(elliptic.P521())), false), keys("P-521, PKCS#8", serverOf(p.ca, ecKeyOn(elliptic.P521())), true), keys("behind another authority", chained, false),
		{"signed by itself", func(f folder) []string { return serverFlags(f, own, own, false) }, []row{
			get("shown by both", client{trusts: own, shows: own}), get("nobody", client{trusts: own}), get("alice", client{trusts: own, shows: p.alice})}},
		{"an authority with a key on P-521", func(f folder) []string { return serverFlags(f, serverOf(ca521, nil), ca521, false) }, []row{
			get("nobody", client{trusts: ca521}), get("its own", client{trusts: ca521, shows: alice521}), call("its own over gRPC", client{trusts: ca521, shows: alice521}),
			get("its own, TLS 1.2", client{trusts: ca521, shows: alice521, max: 0x0303}), get("alice", client{trusts: ca521, shows: p.alice})}},
		{"a client among the authorities", func(f folder) []string {
			flags := serverFlags(f, p.server, nil, false, "--client-cert-auth", "--trusted-ca-file="+f.put("trusted", append(p.ca.certPEM(), pinned.certPEM()...)))
			return flags
		}, []row{get("it", client{trusts: p.ca, shows: pinned}), get("signed by it", client{trusts: p.ca, shows: issue(ask{cn: "bob", by: pinned})}),
			get("signed by it, and it", client{trusts: p.ca, shows: signed(pinned)}), get("alice", alice)}},
		{"an authority that has expired", func(f folder) []string {
			return serverFlags(f, p.server, nil, false, "--client-cert-auth", "--trusted-ca-file="+f.put("trusted", append(p.ca.certPEM(), late.certPEM()...)))
		}, []row{get("its own", client{trusts: p.ca, shows: issue(ask{cn: "bob", by: late})}), get("alice", alice), get("itself", client{trusts: p.ca, shows: late})}},
		{"an authority of version 1", func(f folder) []string { return serverFlags(f, serverOf(first, nil), first, false) }, []row{
			get("its own", client{trusts: first, shows: issue(ask{cn: "alice", by: first})}), get("its own, of version 1", client{trusts: first, shows: old(ask{cn: "alice", by: first})}),
			get("alice", client{trusts: first, shows: p.alice}), get("nobody", client{trusts: first})}},
		{"a server of version 1", func(f folder) []string { return serverFlags(f, old(ask{cn: "server", by: p.ca}), nil, false) }, []row{
			get("by who verifies it", any), get("by who does not", client{})}},
		{"made by itself", func(folder) []string { return []string{"--auto-tls"} }, []row{get("taken", client{}), call("over gRPC", client{})}},
		{"both schemes at one address", plain("--listen-client-urls=https://CLIENT,http://CLIENT"), []row{
			get("TLS", any), call("gRPC", any), {name: "plain", try: func(s *side) (string, error) { return plainGet(s.Client) }}}},
		{"gRPC alone", plain("--listen-client-http-urls=http://EXTRA"), []row{call("gRPC", any)}},
		{"HTTP apart", plain("--listen-client-http-urls=https://EXTRA"), []row{call("gRPC", any), atExtra("HTTP", any)}},
		{"metrics", auth("--listen-metrics-urls=https://EXTRA"), []row{atExtra("alice", alice), atExtra("nobody", any), atExtra("from another address", client{
			trusts: p.ca, shows: issue(ask{cn: "alice", by: p.ca, ips: []string{"10.0.0.9"}})})}},
		{"without TLS", plain("--listen-client-urls=http://CLIENT", "--advertise-client-urls=http://CLIENT"), []row{
			get("TLS", any), {name: "plain", try: func(s *side) (string, error) { return plainGet(s.Client) }}}},
		{"peers", secured("--peer-cert-allowed-cn=server,bob"), peers(p, false)},
		{"peers whose address does not count", secured("--peer-cert-allowed-cn=server,bob", "--peer-skip-client-san-verification"), peers(p, true)},
		{"half open", plain(), []row{{name: "nothing said", try: halfOpen}}},
	}
}

// run starts both servers of a scene and tries its rows on them.
func run(dir string, s scene) {
	if len(s.rows) == 0 {
		return
	}
	var sides []*side
	for name, binary := range map[string]string{"etcd": *etcd, "kevel": *kevel} {
		f := newFolder(dir, strings.ReplaceAll(s.name, " ", "-")+"-"+name)
		flags := s.flags(f)
		extra := freePort()
		for n := range flags {
			flags[n] = strings.Replace(flags[n], "EXTRA", extra, 1)
		}
		one, err := start(name, binary, string(f), flags...)
		if err != nil {
			report(s.name, "start", fmt.Sprintf("%s does not start: %v", name, err))
			return
		}
		defer one.Stop()
		one.extra = extra
		sides = append(sides, one)
	}
	for _, r := range s.rows {
		first, firstErr := outcome(r, sides[0])
		second, secondErr := outcome(r, sides[1])
		if first != second && r.excuse == "" {
			report(s.name, r.name, fmt.Sprintf("%s: %s (%v), %s: %s (%v)", sides[0].name, first, firstErr, sides[1].name, second, secondErr))
		}
	}
	fmt.Printf("%-40s %d rows\n", s.name, len(s.rows))
}

func outcome(r row, s *side) (string, error) {
	text, err := r.try(s)
	if err != nil {
		return "refused", err
	}
	return text, nil
}

func report(scene, row, what string) {
	failures++
	fmt.Printf("DIFFERENT  %s, %s: %s\n", scene, row, what)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func eventually(within time.Duration, is func() bool) bool {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if is() {
			return true
		}
	}
	return false
}
