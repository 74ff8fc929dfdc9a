package main

import (
	"fmt"
	"os"
	"strings"

	"kevel/compat/member"
)

// record is a service of the domain and what its records name.
func record(service string, targets ...srv) map[string][]srv {
	return map[string][]srv{"_" + service + "._tcp." + domain + ".": targets}
}

// at names the peer ports of these members.
func at(numbers ...int) (targets []srv) {
	for _, n := range numbers {
		targets = append(targets, srv{host(n) + ".", 2380})
	}
	return targets
}

func both(some, more map[string][]srv) map[string][]srv {
	all := map[string][]srv{}
	for _, m := range []map[string][]srv{some, more} {
		for name, targets := range m {
			all[name] = targets
		}
	}
	return all
}

// found starts clusters of three of each pattern, and compares them with that of etcd.
func (j *judge) found(name string, flags func(n int) []string, after func(all []*member.Member) error) {
	var expected string
	for _, pattern := range patterns {
		j.trial(fmt.Sprintf("%s: %v", name, pattern), func() error {
			var all []*member.Member
			for n, kind := range pattern {
				all = append(all, j.lay(kind, n+1, flags(n+1)...))
			}
			defer kill(all)
			got, err := together(all...)
			if err != nil {
				return err
			}
			if j.loud {
				fmt.Println("      ", got)
			}
			if expected == "" {
				expected = got
			}
			if got != expected {
				return fmt.Errorf("the members are %s, and with etcd %s", got, expected)
			}
			if after != nil {
				return after(all)
			}
			return nil
		})
	}
}

// guess starts a member of each kind, and compares what both take for the founders.
func (j *judge) guess(name string, flags func() []string) {
	j.trial(name, func() error {
		taken := map[string]string{}
		for _, kind := range []string{"etcd", "kevel"} {
			m := j.lay(kind, 1, flags()...)
			if err := m.Launch(); err != nil {
				return err
			}
			err := says(m, "starting an etcd server")
			m.Kill()
			if err != nil {
				return err
			}
			for _, l := range lines(m) {
				if l.InitialCluster != "" {
					taken[kind] = l.InitialCluster
				}
			}
		}
		if j.loud {
			fmt.Println("      ", taken["etcd"])
		}
		if taken["etcd"] == "" || taken["etcd"] != taken["kevel"] {
			return fmt.Errorf("etcd takes the founders to be %q, Kevel %q", taken["etcd"], taken["kevel"])
		}
		return nil
	})
}

func (j *judge) byDNS() {
	srvFlags := func(more ...string) func(int) []string {
		return func(int) []string { return append([]string{"--discovery-srv=" + domain}, more...) }
	}
	plain := record("etcd-server", at(1, 2, 3)...)

	j.zone.set(plain, none)
	j.found("records of three members", srvFlags(), j.restart)
	j.zone.set(record("etcd-server-blue", at(3, 1, 2)...), cut)
	j.found("records of a named service, cut over UDP", srvFlags("--discovery-srv-name=blue"), nil)

	ca := newAuthority(j.dir, "peers")
	ca.issue("domain", domain)
	j.zone.set(record("etcd-server-ssl", at(1, 2, 3)...), none)
	secure := func(more ...string) func(int) []string {
		return func(n int) []string {
			ca.issue(host(n), host(n), address(n), "127.0.0.1")
			flags := []string{
				"--discovery-srv=" + domain, fmt.Sprintf("--initial-advertise-peer-urls=https://%s:2380", host(n)),
				fmt.Sprintf("--listen-peer-urls=https://%s:2380", address(n)),
			}
			for _, flag := range more {
				flags = append(flags, strings.ReplaceAll(flag, "HOST", host(n)))
			}
			return flags
		}
	}
	pair := []string{"--peer-cert-file=" + ca.path("HOST.crt"), "--peer-key-file=" + ca.path("HOST.key")}
	j.found("members with TLS, each with a certificate for its host",
		secure(append(pair, "--peer-trusted-ca-file="+ca.path("ca.crt"), "--peer-client-cert-auth")...), nil)
	fail(os.Setenv("SSL_CERT_FILE", ca.path("ca.crt")))
	j.found("members with TLS by the system's authorities, all with a certificate for the domain",
		secure("--peer-cert-file="+ca.path("domain.crt"), "--peer-key-file="+ca.path("domain.key")), nil)
	fail(os.Unsetenv("SSL_CERT_FILE"))

	own := []string{"--discovery-srv=" + domain}
	just := func() []string { return own }
	nowhere := srv{"nowhere." + domain + ".", 2380}
	j.zone.set(record("etcd-server", append(at(1, 2), nowhere)...), none)
	j.guess("a record whose host is not known", just)
	j.zone.set(both(record("etcd-server", at(1, 2)...), record("etcd-server-ssl", at(3, 4)...)), none)
	j.guess("records of both services", just)
	j.zone.set(both(plain, record("etcd-server-ssl", at(1, 2)...)), none)
	j.guess("records of both services for one place", just)
	j.zone.set(record("etcd-server", srv{host(1) + ".", 2380}, srv{host(1) + ".", 2381}), none)
	j.guess("records of one host with two ports", just)
	j.zone.set(plain, none)
	j.guess("a domain with a dot at its end", func() []string { return []string{"--discovery-srv=" + domain + "."} })
	j.guess("the default cluster in a file", func() []string { return []string{"--config-file=" + j.file(configuration)} })

	j.zone.set(nil, none)
	j.sameRefusal("no records", "no such host", 1, own...)
	j.sameRefusal("a domain that is no name", "no such host", 1, "--discovery-srv=exa mple")
	j.zone.set(plain, serverFailure)
	j.sameRefusal("a name server that fails", "server misbehaving", 1, own...)
	j.zone.set(plain, refused)
	j.sameRefusal("a name server that refuses", "server misbehaving", 1, own...)
	j.zone.set(plain, lame)
	j.sameRefusal("a name server that refers to nowhere", "lame referral", 1, own...)
	j.zone.set(plain, silent)
	j.sameRefusal("a name server that is silent", "i/o timeout", 1, own...)
	j.zone.set(plain, none)
	j.zone.close()
	j.sameRefusal("no name server", "connection refused", 1, own...)
	j.zone.open()
	j.sameRefusal("records of others", "cannot find local etcd member", 4, own...)
	j.sameRefusal("an own host that is not known", "no such host", 1, append(own, "--initial-advertise-peer-urls=http://no.example:2380")...)
	j.sameRefusal("an URL that no record has", "missing from", 1, append(own, "--initial-advertise-peer-urls=http://127.0.1.1:2380,http://127.0.1.1:2390")...)
	j.sameRefusal("a cluster that nobody answers for", "could not retrieve cluster information", 1, append(own, "--initial-cluster-state=existing")...)
	j.zone.set(record("etcd-server", at(1)...), none)
	j.sameRefusal("a record of another scheme", "scheme mismatch", 1, append(own, "--initial-advertise-peer-urls=https://127.0.1.1:2380")...)
	j.zone.set(record("etcd-server", nowhere), none)
	j.sameRefusal("records of unknown hosts alone", "no such host", 1, own...)
	j.zone.set(record("etcd-server", append(at(1, 2), at(2)...)...), none)
	j.sameRefusal("a record twice", "duplicate url", 1, own...)
	j.zone.set(record("etcd-server", append(at(1), srv{"in valid.", 2380})...), none)
	j.sameRefusal("a record that names no host", "invalid names", 1, own...)

	j.zone.set(plain, none)
	const several = "multiple discovery or bootstrap flags are set"
	j.sameRefusal("records and a cluster", several, 1, append(own, "--initial-cluster=m1=http://127.0.1.1:2380")...)
	j.sameRefusal("records and a service", several, 1, append(own, "--discovery-endpoints=127.0.0.1:1", "--discovery-token=t")...)
	j.sameRefusal("a token without a service", "must be set", 1, append(own, "--discovery-token=t")...)
	j.sameRefusal("a service without a token", "must be set", 1, "--discovery-endpoints=127.0.0.1:1")
	j.sameRefusal("an empty endpoint", "empty endpoints", 1, "--discovery-endpoints=127.0.0.1:1,,", "--discovery-token=t")
	j.sameRefusal("the name of a service without a domain", "couldn't find local name", 1, "--discovery-srv-name=x")
}

// configuration is that of a member that spells the default cluster out.
const configuration = `name: m1
data-dir: %s
discovery-srv: example.com
initial-cluster: default=http://localhost:2380
listen-peer-urls: http://127.0.1.1:2380
initial-advertise-peer-urls: http://127.0.1.1:2380
listen-client-urls: http://127.0.1.1:2379
advertise-client-urls: http://127.0.1.1:2379
`

// restart kills a member and starts it while no name is known: who has data does not ask.
func (j *judge) restart(all []*member.Member) error {
	before := j.zone.asked()
	all[0].Kill()
	j.zone.close()
	defer j.zone.open()
	// Members are reached by name, and what DNS has told is not kept.
	if err := all[0].Launch(); err != nil {
		return err
	}
	if err := says(all[0], "server has already been initialized"); err != nil {
		return err
	}
	if before == 0 {
		return fmt.Errorf("the name server was not asked")
	}
	return nil
}

// file writes a configuration file, whose %s is a new folder.
func (j *judge) file(text string) string {
	f, err := os.CreateTemp(j.dir, "config-*.yml")
	fail(err)
	defer f.Close()
	_, err = f.WriteString(strings.ReplaceAll(text, "%s", f.Name()+".data"))
	fail(err)
	return f.Name()
}
