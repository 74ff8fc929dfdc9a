// Differential drives two servers with one seeded stream of calls and compares every answer. One of them is etcd: what it
// answers is the specification, the texts of its errors included.
//
//	go run ./differential -seed 1 -calls 200000 -etcd PATH -kevel PATH
//
// It prints a summary and exits 1 when an answer differed. Run with etcd on both sides it must be silent; run with -plant
// it must not.
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand"
	"os"
	"slices"
	"strings"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func main() {
	seed := flag.Int64("seed", 1, "what all random draws follow from")
	calls := flag.Int("calls", 20_000, "how many calls to compare")
	etcd := flag.String("etcd", "", "etcd's binary, the left side")
	kevel := flag.String("kevel", "", "Kevel's binary, the right side")
	left := flag.String("left", "", "host:port of a running left side with an empty store, instead of -etcd")
	right := flag.String("right", "", "host:port of a running right side with an empty store, instead of -kevel")
	most := flag.Int("most", 10, "differences to report before giving up")
	slow := flag.Bool("slow", true, "end with what needs waiting: leases that expire, periodic progress, half-closed streams")
	histories := flag.Int("histories", 0, "instead of calls: compare HashKV all over so many short histories")
	plant := flag.String("plant", "", "spoil one answer of the right side: "+strings.Join(plantNames(), ", "))
	flag.Parse()
	if _, known := plants[*plant]; *plant != "" && !known {
		fail(fmt.Errorf("-plant: one of %s", strings.Join(plantNames(), ", ")))
	}

	dir, err := os.MkdirTemp("", "differential-")
	fail(err)
	stop := func() {}
	address := func(binary, name, given string) string {
		if given != "" {
			return given
		}
		m, err := member.New(binary, name, dir, "--watch-progress-notify-interval=1s")
		fail(err)
		fail(m.Start())
		inner := stop
		stop = func() { m.Kill(); inner() }
		return m.Client
	}
	d := &driver{dice: dice{Rand: rand.New(rand.NewSource(*seed))}, compacted: -1, compactedAt: map[int64]bool{}, remade: map[int64]bool{},
		counts: map[string]int{}, errors: map[string]int{}, most: *most, plant: *plant}
	if *plant != "" {
		d.plantAt = *calls / 2
	}
	for i, a := range []string{address(*etcd, "left", *left), address(*kevel, "right", *right)} {
		d.sides[i], err = dial([]string{"left", "right"}[i], a)
		fail(err)
	}
	fail(d.begin())

	start := time.Now()
	if *histories > 0 {
		d.histories(*histories)
		*slow = false
	} else {
		d.run(*calls)
	}
	if *slow && !d.failed() {
		d.slowly()
	}
	d.summary(*seed, time.Since(start))
	d.watches.close()
	stop()
	if d.mismatches > 0 {
		fmt.Println("data and logs are kept in", dir)
		os.Exit(1)
	}
	os.RemoveAll(dir)
}

// begin makes sure that both stores are new.
func (d *driver) begin() error {
	for _, s := range d.sides {
		r, err := pb.NewKVClient(s.conn).Range(context.Background(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if r.Header.Revision != 1 {
			return fmt.Errorf("%s is at revision %d: both sides must be new", s.name, r.Header.Revision)
		}
	}
	d.revision = 1
	var err error
	d.watches, err = newWatches(d)
	return err
}

func (d *driver) summary(seed int64, took time.Duration) {
	for name, n := range d.watches.counted {
		d.counts["watch "+name] = n
	}
	table(d.counts)
	table(d.errors)
	fmt.Printf("%9d  calls, revision %d, seed %d, %v\n", d.calls, d.revision, seed, took.Round(time.Millisecond))
	fmt.Printf("%9d  mismatches\n", d.mismatches)
}

func table(counts map[string]int) {
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Printf("%9d  %s\n", counts[name], name)
	}
	fmt.Println()
}

func plantNames() []string { return slices.Sorted(maps.Keys(plants)) }

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
