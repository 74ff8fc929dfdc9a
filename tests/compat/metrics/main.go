// Command metrics compares what two servers say at /metrics: after the same traffic each family of etcd has to be there with
// its type and its labels, and has to have moved where etcd's has; counters by as much. Then three members of each are compared, one
// of which has taken a snapshot of its leader.
package main

import (
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"kevel/compat/member"
)

func main() {
	etcd := flag.String("etcd", "", "path of etcd")
	kevel := flag.String("kevel", "", "path of the server to judge")
	verbose := flag.Bool("v", false, "print what is excused, too")
	flag.Parse()
	complaints, err := judge(*etcd, *kevel, *verbose)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ofPeers, err := judgePeers(*etcd, *kevel, *verbose)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	complaints = append(complaints, ofPeers...)
	for _, complaint := range complaints {
		fmt.Println(complaint)
	}
	if len(complaints) > 0 {
		os.Exit(1)
	}
	fmt.Println("every family is there, and moved as etcd's")
}

// life is what one server said: at the start, after the traffic, and after a restart.
type life struct{ before, after, restarted scrape }

func judge(etcd, kevel string, verbose bool) ([]string, error) {
	dir, err := os.MkdirTemp("", "metrics-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	left, err := live(etcd, "etcd", dir)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	right, err := live(kevel, "kevel", dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kevel, err)
	}
	var complaints []string
	for _, name := range sortedKeys(left.after) {
		for _, complaint := range compare(name, left, right) {
			reason := excuse(name, complaint.about)
			switch {
			case reason == "":
				complaints = append(complaints, name+": "+complaint.text)
			case verbose:
				fmt.Printf("excused  %s: %s (%s)\n", name, complaint.text, reason)
			}
		}
	}
	return complaints, nil
}

func live(binary, name, dir string) (l life, err error) {
	m, err := member.New(binary, name, dir)
	if err != nil {
		return l, err
	}
	if err = m.Start(); err != nil {
		return l, err
	}
	defer m.Kill()
	s, err := dial(m)
	if err != nil {
		return l, err
	}
	defer s.conn.Close()
	if l.before, err = fetch(m.Client); err != nil {
		return l, err
	}
	if err = s.run(); err != nil {
		return l, err
	}
	// Both servers show some numbers only now and then.
	time.Sleep(6 * time.Second)
	if l.after, err = fetch(m.Client); err != nil {
		return l, err
	}
	m.Kill()
	if err = m.Start(); err != nil {
		return l, err
	}
	if _, err = fetch(m.Client); err != nil {
		return l, err
	}
	time.Sleep(time.Second)
	l.restarted, err = fetch(m.Client)
	return l, err
}

type complaint struct {
	about about
	text  string
}

type about int

const (
	absent about = iota
	shape
	still
	amount
)

func compare(name string, left, right life) (complaints []complaint) {
	complain := func(about about, format string, args ...any) {
		complaints = append(complaints, complaint{about, fmt.Sprintf(format, args...)})
	}
	theirs, ours := left.after[name], right.after[name]
	if ours == nil {
		complain(absent, "missing")
		return complaints
	}
	if theirs.kind != ours.kind {
		complain(shape, "is a %s, and a %s in etcd", ours.kind, theirs.kind)
	}
	if a, b := labels(theirs), labels(ours); a != b {
		complain(shape, "has labels {%s}, and {%s} in etcd", b, a)
	}
	for _, series := range sortedKeys(theirs.series) {
		if _, there := ours.series[mask(series, left, right)]; !there {
			// One complaint is enough for a histogram that is not there.
			if whole := strings.Contains(series, "_count"); whole || theirs.kind != "histogram" {
				complain(absent, "no series %s", series)
			} else if _, some := ours.series[mask(countOf(series), left, right)]; some {
				complain(shape, "no series %s", series)
			}
			continue
		}
		if strings.Contains(series, "_bucket") || theirs.kind == "histogram" && strings.Contains(series, "_sum") {
			continue // durations are nobody's promise
		}
		their := theirs.series[series] - value(left.before, name, series)
		series = mask(series, left, right)
		our := ours.series[series] - value(right.before, name, series)
		if their != 0 && our == 0 {
			complain(still, "%s moved by %v in etcd and not here", series, their)
		} else if theirs.kind != "gauge" && their != our {
			complain(amount, "%s moved by %v, and by %v in etcd", series, our, their)
		}
	}
	const exact = "etcd_debugging_mvcc_keys_total etcd_debugging_mvcc_current_revision etcd_debugging_mvcc_compact_revision"
	if strings.Contains(exact, name) {
		for which, scrapes := range map[string][2]scrape{
			"after traffic": {left.after, right.after}, "after a restart": {left.restarted, right.restarted},
		} {
			if a, b := value(scrapes[0], name, name), value(scrapes[1], name, name); a != b {
				complain(amount, "%v %s, and %v in etcd", b, which, a)
			}
		}
	}
	return complaints
}

// countOf names the series that counts what a bucket or a sum is of.
func countOf(series string) string {
	name, rest, found := strings.Cut(series, "{")
	name = strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum") + "_count"
	if !found {
		return name
	}
	var list []string
	for _, label := range split(strings.TrimSuffix(rest, "}")) {
		if !strings.HasPrefix(label, "le=") {
			list = append(list, label)
		}
	}
	if len(list) == 0 {
		return name
	}
	return name + "{" + strings.Join(list, ",") + "}"
}

// mask says how a series of etcd's is called on the other side: ids differ.
func mask(series string, left, right life) string {
	return strings.ReplaceAll(series, id(left), id(right))
}

func id(l life) string {
	for series := range l.after["etcd_server_id"].series {
		_, rest, _ := strings.Cut(series, `server_id="`)
		id, _, _ := strings.Cut(rest, `"`)
		return id
	}
	return "no id"
}

func value(s scrape, name, series string) float64 {
	if f := s[name]; f != nil {
		return f.series[series]
	}
	return 0
}

func labels(f *family) string {
	for series := range f.series {
		return names(series)
	}
	return ""
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
