package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

const registry = "/_etcd/registry/"

// service is a server that members register at.
type service struct {
	*member.Member
	kind   string
	tokens int
}

func (j *judge) serve(kind string, flags ...string) *service {
	m := j.lay(kind, members)
	m.Flags("--initial-cluster=" + m.Name + "=http://" + m.Peer)
	m.Flags(flags...)
	return &service{Member: m, kind: kind}
}

// token is a new one for a cluster of so many.
func (s *service) token(size string) (string, error) {
	s.tokens++
	token := fmt.Sprintf("token-%d", s.tokens)
	return token, s.put(token+"/_config/size", size)
}

func (s *service) put(key, value string) error {
	return call(s.Member, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte(registry + key), Value: []byte(value)}, grpc.WaitForReady(true))
		return err
	})
}

// has is what the service has under a token, as text, without the token.
func (s *service) has(token string) (string, error) {
	var all []string
	err := call(s.Member, func(ctx context.Context, conn *grpc.ClientConn) error {
		from := registry + token + "/"
		got, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte(from), RangeEnd: []byte(from[:len(from)-1] + "0")})
		for _, kv := range got.GetKvs() {
			all = append(all, strings.TrimPrefix(string(kv.Key), from)+": "+string(kv.Value))
		}
		return err
	})
	return strings.Join(all, "; "), err
}

func (s *service) flags(token string) []string {
	return []string{"--discovery-token=" + token, "--discovery-endpoints=" + s.Client}
}

func (j *judge) byService() {
	for _, kind := range []string{"etcd", "kevel"} {
		s := j.serve(kind)
		fail(s.Start())
		j.gather(s)
		j.refuse(s)
		s.Kill()
	}
	j.late()
	j.secured()
	j.loggedIn()
}

// gather starts clusters of each pattern at a service.
func (j *judge) gather(s *service) {
	var expected string
	for n, pattern := range patterns {
		j.trial(fmt.Sprintf("at %s's service: %v", s.kind, pattern), func() error {
			// The ids follow from the token, so all patterns have the same one in turn.
			token := fmt.Sprintf("all/%d", n)
			if err := s.put(token+"/_config/size", "3"); err != nil {
				return err
			}
			var all []*member.Member
			for n, kind := range pattern {
				// Dots and slashes in a token mean what they mean in a path.
				all = append(all, j.lay(kind, n+1, s.flags("./"+token+"/")...))
			}
			defer kill(all)
			first := all[0]
			if err := first.Launch(); err != nil {
				return err
			}
			if err := says(first, "waiting for peers from discovery service"); err != nil {
				return err
			}
			// Who is interrupted keeps its place on the list.
			first.Kill()
			got, err := together(all...)
			if err != nil {
				return err
			}
			has, err := s.has(token)
			if err != nil {
				return err
			}
			if strings.Count(has, "members/") != 3 || !strings.Contains(has, "m1=http://127.0.1.1:2380") {
				return fmt.Errorf("the service has %s", has)
			}
			if names := withoutIDs(got); expected == "" {
				expected = names
			} else if names != expected {
				return fmt.Errorf("the members are %s, and with etcd %s", names, expected)
			}
			// Who has data does not ask: neither is the list looked at, nor does it matter that it is full.
			first.Kill()
			if err := s.put(token+"/_config/size", "nonsense"); err != nil {
				return err
			}
			if err := first.Start(); err != nil {
				return err
			}
			if err := says(first, "discovery token is ignored since cluster already initialized; valid logs are found"); err != nil {
				return err
			}
			_, err = cluster(all...)
			return err
		})
	}
	// With one token for one cluster of each kind, ids are the same too.
	var ids string
	for _, kind := range []string{"etcd", "kevel"} {
		j.trial(fmt.Sprintf("at %s's service: the ids of a member of %s alone", s.kind, kind), func() error {
			if err := s.clear("alone"); err != nil {
				return err
			}
			if err := s.put("alone/_config/size", "1"); err != nil {
				return err
			}
			m := j.lay(kind, 1, s.flags("alone")...)
			defer m.Kill()
			got, err := together(m)
			if err != nil {
				return err
			}
			has, err := s.has("alone")
			if got += " | " + has; ids == "" {
				ids = got
			}
			if err == nil && got != ids {
				err = fmt.Errorf("%s, and with etcd %s", got, ids)
			}
			return err
		})
	}
}

func (s *service) clear(token string) error {
	return call(s.Member, func(ctx context.Context, conn *grpc.ClientConn) error {
		from := registry + token
		_, err := pb.NewKVClient(conn).DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(from + "/"), RangeEnd: []byte(from + "0")})
		return err
	})
}

func withoutIDs(members string) string {
	var names []string
	for _, m := range strings.Split(members, "; ") {
		_, rest, _ := strings.Cut(m, " ")
		names = append(names, rest)
	}
	sort.Strings(names)
	return strings.Join(names, "; ")
}

func (j *judge) refuse(s *service) {
	bad := func(name, word, size string, more ...string) {
		token, err := s.token(size)
		fail(err)
		j.sameRefusal(fmt.Sprintf("at %s's service: %s", s.kind, name), word, 1, append(s.flags(token), more...)...)
	}
	for _, size := range []string{"", "x", "0", "-1", "3.0", " 3"} {
		bad(fmt.Sprintf("a size of %q", size), "size key is bad", size)
	}
	j.sameRefusal(fmt.Sprintf("at %s's service: no size", s.kind), "size key not found", 1, s.flags("unknown")...)
	bad("one that joins", "should not be set when joining", "1", "--initial-cluster-state=existing")
	bad("a certificate that is not there", "no such file", "1", "--discovery-cacert=/none")
	bad("a certificate without its key", "must both be present", "1", "--discovery-cert=/none")

	listed := func(name, word, size string, others ...string) {
		token, err := s.token(size)
		fail(err)
		for n, other := range others {
			fail(s.put(fmt.Sprintf("%s/members/%d", token, n), other))
		}
		j.sameRefusal(fmt.Sprintf("at %s's service: %s", s.kind, name), word, 1, s.flags(token)...)
	}
	listed("a cluster that is full", "cluster is full", "2", "a=http://127.0.1.8:1", "b=http://127.0.1.9:1")
	listed("a cluster of more than there is room for", "cluster is full", "1", "a=http://127.0.1.8:1", "b=http://127.0.1.9:1")
	listed("another member's URL is none", "invalid peer URL", "2", "a=nonsense")
	listed("another member has the same URL", "has duplicate url", "2", "a=http://127.0.1.1:2380")
}

// late starts members before their service.
func (j *judge) late() {
	for _, kind := range []string{"etcd", "kevel"} {
		j.trial("a service that is not there yet: "+kind, func() error {
			s := j.serve("etcd")
			m := j.lay(kind, 1, "--discovery-token=token-1", "--discovery-endpoints=127.0.1.9:1,"+s.Client, "--discovery-request-timeout=1s")
			if err := m.Launch(); err != nil {
				return err
			}
			defer m.Kill()
			if err := says(m, "retry connecting to discovery service"); err != nil {
				return err
			}
			if err := s.Start(); err != nil {
				return err
			}
			defer s.Kill()
			if _, err := s.token("1"); err != nil {
				return err
			}
			return ready(m)
		})
	}
}

// ready waits longer than a member takes that knows its cluster.
func ready(m *member.Member) error {
	err := m.Ready()
	if err != nil && m.Running() {
		err = m.Ready()
	}
	return err
}

// secured has members of both kinds at a service with TLS.
func (j *judge) secured() {
	ca, other := newAuthority(j.dir, "service"), newAuthority(j.dir, "other")
	ca.issue("service", "localhost", address(members))
	ca.issue("client", "localhost")
	fail(os.Setenv("SSL_CERT_FILE", other.path("ca.crt")))
	defer os.Unsetenv("SSL_CERT_FILE")
	for _, kind := range []string{"etcd", "kevel"} {
		endpoint := address(members) + ":2389"
		s := j.serve(kind, "--listen-client-urls=http://"+address(members)+":2379,https://"+endpoint,
			"--cert-file="+ca.path("service.crt"), "--key-file="+ca.path("service.key"))
		fail(s.Start())
		authorities := "--discovery-cacert=" + ca.path("ca.crt")
		for _, way := range []struct {
			name, endpoint string
			flags          []string
			isKnown        bool
		}{
			{"with its authority", "https://" + endpoint, []string{authorities}, true},
			{"with its authority and no scheme", endpoint, []string{authorities}, true},
			{"with a certificate", endpoint, []string{authorities, "--discovery-cert=" + ca.path("client.crt"), "--discovery-key=" + ca.path("client.key")}, true},
			{"with any certificate", endpoint, []string{"--discovery-insecure-skip-tls-verify"}, true},
			{"with the system's authorities", endpoint, []string{"--discovery-insecure-transport=false"}, false},
			{"with the system's authorities by its scheme", "https://" + endpoint, nil, false},
			{"in the open, to a port with TLS", "http://" + endpoint, []string{authorities}, false},
		} {
			for _, joins := range []string{"etcd", "kevel"} {
				j.trial(fmt.Sprintf("at %s's service %s: %s", kind, way.name, joins), func() error {
					token, err := s.token("1")
					if err != nil {
						return err
					}
					flags := append([]string{"--discovery-token=" + token, "--discovery-endpoints=" + way.endpoint, "--discovery-request-timeout=1s"}, way.flags...)
					m := j.lay(joins, 1, flags...)
					if err := m.Launch(); err != nil {
						return err
					}
					defer m.Kill()
					if !way.isKnown {
						return says(m, "retry connecting to discovery service")
					}
					return m.Ready()
				})
			}
		}
		s.Kill()
	}
}

// loggedIn has members of both kinds at a service of etcd's that asks who they are, and at one that does not.
func (j *judge) loggedIn() {
	s := j.serve("etcd")
	fail(s.Start())
	defer s.Kill()
	who := func(token string, more ...string) []string {
		return append(s.flags(token), append([]string{"--discovery-user=root", "--discovery-password=secret"}, more...)...)
	}
	join := func(token string) {
		for _, kind := range []string{"etcd", "kevel"} {
			j.trial(fmt.Sprintf("a member that says who it is, under %s: %s", token, kind), func() error {
				m := j.lay(kind, 1, who(token)...)
				defer m.Kill()
				return m.Start()
			})
		}
	}
	open, err := s.token("1")
	fail(err)
	closed, err := s.token("1")
	fail(err)
	join(open)
	fail(s.enableAuth())
	join(closed)
	j.sameRefusal("a wrong password", "authentication failed", 1, who(closed, "--discovery-password=wrong")...)
	j.trial("a member that does not say who it is", func() error {
		for _, kind := range []string{"etcd", "kevel"} {
			m := j.lay(kind, 1, s.flags(closed)...)
			if err := m.Launch(); err != nil {
				return err
			}
			err := says(m, "failed to get cluster size from discovery service")
			m.Kill()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *service) enableAuth() error {
	return call(s.Member, func(ctx context.Context, conn *grpc.ClientConn) error {
		auth := pb.NewAuthClient(conn)
		if _, err := auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "root", Password: "secret"}); err != nil {
			return err
		}
		if _, err := auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}); err != nil {
			return err
		}
		if _, err := auth.AuthEnable(ctx, &pb.AuthEnableRequest{}); err != nil {
			return err
		}
		got, err := auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "secret"})
		if err != nil {
			return err
		}
		known := metadata.AppendToOutgoingContext(ctx, "token", got.Token)
		if _, err := pb.NewKVClient(conn).Range(known, &pb.RangeRequest{Key: []byte("a")}); err != nil {
			return err
		}
		if _, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("a")}); err == nil {
			return errors.New("the service lets anybody in")
		}
		return nil
	})
}
