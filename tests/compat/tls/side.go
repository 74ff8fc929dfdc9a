package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

const startWithin = 20 * time.Second

// side is one of the two servers, running with the flags of a case.
type side struct {
	*member.Member
	name  string
	extra string // the address of another listener
}

// start runs a server with a client port that has TLS, and waits until something listens there.
func start(name, binary, dir string, flags ...string) (*side, error) {
	m, err := member.New(binary, name, dir)
	if err != nil {
		return nil, err
	}
	all := append([]string{"--listen-client-urls=https://" + m.Client, "--advertise-client-urls=https://" + m.Client, "--log-level=info"}, flags...)
	for n := range all {
		all[n] = strings.NewReplacer("CLIENT", m.Client, "PEER", m.Peer).Replace(all[n])
	}
	m.Flags(all...)
	s := &side{Member: m, name: name}
	if err := m.Launch(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(startWithin); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if !m.Running() {
			return s, fmt.Errorf("it ended by itself: %s", s.lastLine())
		}
		if s.says("serving client traffic") {
			return s, nil
		}
	}
	m.Kill()
	return s, fmt.Errorf("nobody is served within %v, see %s", startWithin, m.Log())
}

func (s *side) text() string {
	text, _ := os.ReadFile(s.Log())
	return string(text)
}

func (s *side) says(words string) bool { return strings.Contains(s.text(), words) }

// rejects tries something that is refused, and waits for the line about it, which has all these words.
func (s *side) rejects(try func(), words ...string) (string, error) {
	before := len(s.text())
	try()
	var line string
	for range 100 {
		for _, line = range strings.Split(s.text()[before:], "\n") {
			missing := func(word string) bool { return !strings.Contains(line, word) }
			if strings.Contains(line, "rejected connection on") && !slices.ContainsFunc(words, missing) {
				return "as expected", nil
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "", fmt.Errorf("no line with %q: %s", words, s.text()[before:])
}

func (s *side) lastLine() string {
	lines := strings.Split(strings.TrimSpace(s.text()), "\n")
	return lines[len(lines)-1]
}

// client is how one comes to a server.
type client struct {
	trusts   *issued
	shows    *issued
	min, max uint16
	suites   []uint16
	curves   []tls.CurveID
	alpn     []string
	name     string
	path     string // to ask for, instead of /health
}

func (c client) config() *tls.Config {
	pool := x509.NewCertPool()
	if c.trusts != nil {
		pool.AddCert(c.trusts.cert)
	}
	config := &tls.Config{RootCAs: pool, MinVersion: c.min, MaxVersion: c.max, CipherSuites: c.suites, CurvePreferences: c.curves, NextProtos: c.alpn, ServerName: c.name}
	if config.MinVersion == 0 {
		config.MinVersion = tls.VersionTLS10
	}
	if c.trusts == nil {
		config.InsecureSkipVerify = true
	}
	if c.shows != nil {
		// Shown whatever authorities the server names.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.shows.forClient(), nil }
	}
	return config
}

// get asks for /health over HTTP/1.1 and tells the status, or that there was none.
func (c client) get(address string) (string, error) {
	config := c.config()
	if config.NextProtos == nil {
		config.NextProtos = []string{"http/1.1"}
	}
	raw, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return "", err
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(5 * time.Second))
	if config.ServerName == "" {
		config.ServerName = "localhost"
	}
	conn := tls.Client(raw, config)
	if err := conn.Handshake(); err != nil {
		return "", err
	}
	path := c.path
	if path == "" {
		path = "/health"
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	if len(answer) == 0 {
		if err == nil {
			err = errors.New("closed")
		}
		return "", err
	}
	status, _, _ := strings.Cut(string(answer), "\r\n")
	return status, nil
}

// call makes a linearizable read over gRPC.
func (c client) call(address string) error {
	config := c.config()
	if config.ServerName == "" {
		config.ServerName = "localhost"
	}
	conn, err := member.Dial(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("k")})
	return err
}

// large writes values of a megabyte and reads them at once.
func (c client) large(address string) error {
	config := c.config()
	config.ServerName = "localhost"
	conn, err := member.Dial(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	const count = 12
	for n := range count {
		value := bytes.Repeat([]byte{byte(n)}, 1<<20)
		if _, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "large/%02d", n), Value: value}); err != nil {
			return err
		}
	}
	answer, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("large/"), RangeEnd: []byte("large0")})
	if err != nil {
		return err
	}
	for n, kv := range answer.Kvs {
		if len(kv.Value) != 1<<20 || bytes.Count(kv.Value, []byte{byte(n)}) != 1<<20 {
			return fmt.Errorf("value %d is another", n)
		}
	}
	if len(answer.Kvs) != count {
		return fmt.Errorf("%d values", len(answer.Kvs))
	}
	return nil
}

// plainGet asks without TLS.
func plainGet(address string) (string, error) {
	c := &http.Client{Timeout: 5 * time.Second}
	answer, err := c.Get("http://" + address + "/health")
	if err != nil {
		return "", err
	}
	answer.Body.Close()
	return answer.Proto + " " + answer.Status, nil
}
