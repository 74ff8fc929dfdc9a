package main

import (
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"time"
)

// row is one thing that is tried on both servers of a case. What it returns is compared; an error counts as "refused".
type row struct {
	name string
	try  func(s *side) (string, error)
	// excuse says why the two differ, where they do on purpose.
	excuse string
}

// pki is what all cases share.
type pki struct {
	ca, other             *issued
	server                *issued
	alice, bob, stranger  *issued
	expired, early, wrong *issued
}

func newPKI() *pki {
	p := &pki{ca: authority("ca"), other: authority("other")}
	p.server = serverOf(p.ca, nil)
	client := func(a ask) *issued {
		if a.by == nil {
			a.by = p.ca
		}
		return issue(a)
	}
	p.alice = client(ask{cn: "alice", hosts: []string{"alice.example"}})
	p.bob = client(ask{cn: "bob", hosts: []string{"bob.example"}})
	p.stranger = client(ask{cn: "alice", by: p.other})
	p.expired = client(ask{cn: "alice", from: -2 * time.Hour, to: -time.Hour})
	p.early = client(ask{cn: "alice", from: time.Hour, to: 2 * time.Hour})
	p.wrong = client(ask{cn: "alice", usage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return p
}

// serverFlags writes a server's files and names them.
func serverFlags(f folder, server, ca *issued, pkcs8 bool, more ...string) []string {
	flags := []string{"--cert-file=" + f.put("server.crt", server.certPEM()), "--key-file=" + f.put("server.key", server.keyPEM(pkcs8))}
	if ca != nil {
		flags = append(flags, "--client-cert-auth", "--trusted-ca-file="+f.put("ca.crt", ca.certPEM()))
	}
	return append(flags, more...)
}

func get(name string, c client) row {
	return row{name: name, try: func(s *side) (string, error) { return c.get(s.Client) }}
}

// agreed tells by what the two sides have agreed on keys, and by which suite they go on.
func agreed(name string, c client) row {
	return row{name: name, try: func(s *side) (string, error) {
		conn, err := tls.Dial("tcp", s.Client, withName(c))
		if err != nil {
			return "", err
		}
		defer conn.Close()
		state := conn.ConnectionState()
		return fmt.Sprint(tls.VersionName(state.Version), state.CurveID, tls.CipherSuiteName(state.CipherSuite)), nil
	}}
}

// openssl tells which suite is chosen of those that OpenSSL offers, with longer keys first.
func openssl(name string, version string) row {
	return row{name: name, try: func(s *side) (string, error) {
		out, err := exec.Command("openssl", "s_client", "-connect", s.Client, version).CombinedOutput()
		if err != nil {
			return "", err
		}
		_, suite, _ := strings.Cut(string(out), "Cipher is ")
		suite, _, _ = strings.Cut(suite, "\n")
		return suite, nil
	}}
}

func atExtra(name string, c client) row {
	return row{name: name, try: func(s *side) (string, error) { return c.get(s.extra) }}
}

func call(name string, c client) row {
	return row{name: name, try: func(s *side) (string, error) { return "answered", c.call(s.Client) }}
}

// versions are rows about what is spoken, without certificates of clients.
func versions(p *pki) []row {
	c := client{trusts: p.ca}
	with := func(change func(*client)) client { d := c; change(&d); return d }
	rows := []row{
		get("HTTP/1.1", c), call("gRPC", c),
		get("by its address", with(func(c *client) { c.name = "127.0.0.1" })),
		get("another authority", with(func(c *client) { c.trusts = p.other })),
		get("another name", with(func(c *client) { c.name = "elsewhere" })),
		get("TLS 1.3", with(func(c *client) { c.min = tls.VersionTLS13 })),
		get("TLS 1.2", with(func(c *client) { c.max = tls.VersionTLS12 })),
		get("TLS 1.1", with(func(c *client) { c.max = tls.VersionTLS11 })),
		get("no ALPN", with(func(c *client) { c.alpn = []string{} })),
		get("ALPN of another protocol", with(func(c *client) { c.alpn = []string{"foo"} })),
	}
	for _, suite := range []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_128_GCM_SHA256,
	} {
		rows = append(rows, get(tls.CipherSuiteName(suite), with(func(c *client) { c.max, c.suites = tls.VersionTLS12, []uint16{suite} })))
	}
	for _, curve := range []tls.CurveID{tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024, tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			r := agreed(fmt.Sprint(curve, " alone, ", tls.VersionName(version)), with(func(c *client) { c.max, c.curves = version, []tls.CurveID{curve} }))
			if curve == tls.SecP384r1MLKEM1024 {
				r.excuse = "Kevel has no ML-KEM with P-384"
			}
			rows = append(rows, r)
		}
	}
	rows = append(rows, agreed("what is agreed upon", c), agreed("what is agreed upon, TLS 1.2", with(func(c *client) { c.max = tls.VersionTLS12 })),
		openssl("OpenSSL's suite", "-tls1_3"), openssl("OpenSSL's suite, TLS 1.2", "-tls1_2"))
	cbc := get("TLS 1.2 with CBC", with(func(c *client) {
		c.max, c.suites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	}))
	cbc.excuse = "Kevel has no suites of CBC"
	return append(rows, cbc,
		row{name: "garbage", try: func(s *side) (string, error) { return s.garbage([]byte("\x00\x01\x02garbage of some length\r\n\r\n")) }},
		row{name: "a hello cut short", try: func(s *side) (string, error) { return s.garbage([]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03")) }},
		row{name: "HTTP without TLS", try: func(s *side) (string, error) { return plainGet(s.Client) }},
		row{name: "large answers", try: func(s *side) (string, error) { return "whole", c.large(s.Client) }},
		row{name: "served after all that", try: func(s *side) (string, error) { return c.get(s.Client) }},
	)
}

// garbage sends bytes and ends; it tells whether anything was said back that is no alert.
func (s *side) garbage(sent []byte) (string, error) {
	conn, err := net.DialTimeout("tcp", s.Client, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(3 * time.Second))
	conn.Write(sent)
	conn.(*net.TCPConn).CloseWrite()
	answer, _ := io.ReadAll(conn)
	const alert = 0x15
	if len(answer) > 0 && answer[0] != alert {
		return fmt.Sprintf("%d bytes", len(answer)), nil
	}
	return "nothing", nil
}

// certificates are rows about who is let in where clients have to show a certificate.
func certificates(p *pki) []row {
	show := func(name string, who *issued) row { return get(name, client{trusts: p.ca, shows: who}) }
	middle := issue(ask{cn: "middle", isCA: true, by: p.ca})
	under := issue(ask{cn: "alice", by: middle})
	behind := *under
	behind.chain = []*x509.Certificate{middle.cert}
	rows := []row{
		show("alice", p.alice), call("alice over gRPC", client{trusts: p.ca, shows: p.alice}),
		show("nobody", nil), call("nobody over gRPC", client{trusts: p.ca}),
		show("of another authority", p.stranger), show("expired", p.expired), show("not valid yet", p.early),
		show("for servers only", p.wrong), show("with an RSA key", issue(ask{cn: "alice", by: p.ca, key: rsaKey()})),
		show("with an Ed25519 key", issue(ask{cn: "alice", by: p.ca, key: edKey()})),
		show("with a key on P-384", issue(ask{cn: "alice", by: p.ca, key: ecKeyOn(elliptic.P384())})),
		show("with a key on P-521", issue(ask{cn: "alice", by: p.ca, key: ecKeyOn(elliptic.P521())})),
		show("without the authority between", under), show("with the authority between", &behind),
		show("of version 1", old(ask{cn: "alice", by: p.ca})), get("TLS 1.2, of version 1", client{trusts: p.ca, shows: old(ask{cn: "alice", by: p.ca}), max: tls.VersionTLS12}),
		call("of version 1, over gRPC", client{trusts: p.ca, shows: old(ask{cn: "alice", by: p.ca})}),
		show("of version 1, of another authority of that name", old(ask{cn: "alice", by: authority("ca")})),
		show("of version 1, expired", old(ask{cn: "alice", by: p.ca, from: -2 * time.Hour, to: -time.Hour})),
		show("an authority under the authority", issue(ask{cn: "alice", by: p.ca, isCA: true})),
		show("an authority of another authority of that name", issue(ask{cn: "alice", by: authority("ca"), isCA: true})),
		show("an authority under the authority, expired", issue(ask{cn: "alice", by: p.ca, isCA: true, from: -2 * time.Hour, to: -time.Hour})),
		show("signed by a client", signed(p.alice)),
		show("the authority itself", p.ca), show("signed by itself", issue(ask{cn: "alice", isCA: true})),
		get("TLS 1.2, alice", client{trusts: p.ca, shows: p.alice, max: tls.VersionTLS12}),
		get("TLS 1.2, nobody", client{trusts: p.ca, max: tls.VersionTLS12}),
	}
	return rows
}

// signed is a certificate that somebody has signed who is not an authority, and the other's behind it.
func signed(by *issued) *issued {
	i := issue(ask{cn: "alice", by: by})
	i.chain = append(i.chain, by.cert)
	return i
}

// logged compares what the log says of the last connection that was refused.
func logged(name string, c client, words string) row {
	return row{name: "the log about " + name, try: func(s *side) (string, error) {
		return s.rejects(func() { c.get(s.Client) }, "rejected connection on client endpoint", words)
	}}
}

// peers are rows about connections to the peer port of a member whose peers are to be called "server".
func peers(p *pki, skips bool) []row {
	at := func(name string, who *issued) row {
		return row{name: name, try: func(s *side) (string, error) {
			status, err := client{trusts: p.ca, shows: who, path: "/version"}.get(s.Peer)
			return status, err
		}}
	}
	named := func(cn string, hosts, ips []string) *issued {
		return issue(ask{cn: cn, by: p.ca, hosts: hosts, ips: ips})
	}
	rows := []row{
		at("a member", p.server), at("nobody", nil), at("another name", p.alice), at("of another authority", serverOf(p.other, nil)),
		at("no hosts at all", named("server", nil, nil)), at("another address", named("server", nil, []string{"10.0.0.9"})),
		at("another address, its own host", named("server", []string{"localhost"}, []string{"10.0.0.9"})),
		at("another host", named("server", []string{"elsewhere.invalid"}, nil)), at("a star", named("server", []string{"*.invalid"}, nil)),
		at("revoked", p.bob),
	}
	if !skips {
		rows = append(rows, row{name: "the log", try: func(s *side) (string, error) {
			far := client{trusts: p.ca, shows: named("server", nil, []string{"10.0.0.9"}), path: "/version"}
			return s.rejects(func() { far.get(s.Peer) }, "rejected connection on peer endpoint", `"ip-addresses":["10.0.0.9"]`,
				"x509: certificate is valid for 10.0.0.9, not 127.0.0.1")
		}})
	}
	return rows
}

// halfOpen waits until a server ends a connection on which nothing is said.
func halfOpen(s *side) (string, error) {
	conn, err := net.DialTimeout("tcp", s.Client, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	began := time.Now()
	conn.SetReadDeadline(began.Add(15 * time.Second))
	_, err = io.Copy(io.Discard, conn)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		return "", fmt.Errorf("still open after %v", time.Since(began))
	}
	if took := time.Since(began); took < 8*time.Second || took > 12*time.Second {
		return "", fmt.Errorf("ended after %v", took)
	}
	return "ended after some ten seconds", nil
}
