// Faults has clients put, compare and read on three members while something is done to the members: processes are killed or
// paused, the network between members is cut, wholly or in one direction. Behind each round everything that clients were told
// has to be linearizable (by porcupine), and the members have to have the same store.
//
//	go run ./faults -server PATH -rounds 100
package main

import (
	"flag"
	"fmt"
	"math/rand"
	"os"
	"strings"
	"time"

	"kevel/compat/member"
)

const (
	quietBefore = 300 * time.Millisecond
	agreeWithin = 30 * time.Second
)

func main() {
	server := flag.String("server", "", "the server's binary")
	rounds := flag.Int("rounds", len(kinds), "how many rounds; each does the next thing of the list")
	lasts := flag.Duration("for", 2*time.Second, "how long a fault lasts")
	only := flag.String("only", "", "only what has this in its name")
	list := flag.Bool("list", false, "print what is done, and end")
	seed := flag.Int64("seed", time.Now().UnixNano(), "what clients do follows from it, but for their timing")
	stale := flag.Bool("stale", false, "let reads be serializable, which has to be found")
	keep := flag.Bool("keep", false, "keep the members' folders")
	flag.Parse()
	var chosen []kind
	for _, k := range kinds {
		if strings.Contains(k.name, *only) {
			chosen = append(chosen, k)
		}
	}
	if len(chosen) == 0 {
		fail(fmt.Errorf("nothing has %q in its name (-list shows all)", *only))
	}
	if *list {
		for _, k := range chosen {
			fmt.Println(k.name)
		}
		return
	}
	fmt.Println("seed", *seed)
	dice := rand.New(rand.NewSource(*seed))
	dir, err := os.MkdirTemp("", "faults-")
	fail(err)
	c := found(*server, dir)
	c.stale = *stale
	defer c.kill()
	answered := 0
	for round := range *rounds {
		k := chosen[round%len(chosen)]
		h := newHistory(round)
		load := c.load(h, dice.Int63())
		time.Sleep(quietBefore)
		leader, err := member.Leader(c.conns, agreeWithin)
		fail(err)
		k.harm(c, leader)
		time.Sleep(*lasts)
		k.heal(c)
		c.mesh.heal()
		for _, m := range c.members {
			fail(m.Ready())
		}
		time.Sleep(quietBefore)
		load.stop()
		hash, revision, err := member.Agree(c.conns, agreeWithin)
		fail(err)
		c.readAll(h)
		told, unknown, err := h.judge()
		if err != nil {
			fail(fmt.Errorf("round %d, %s: %w; logs are in %s", round+1, k.name, err, dir))
		}
		answered += told
		fmt.Printf("%s round %d, %s: %d answers, %d calls without one, none for %v at most; HashKV %08x at %d\n", time.Now().Format("15:04:05"), round+1, k.name, told, unknown, h.gap().Round(time.Millisecond), hash, revision)
	}
	if *keep {
		fmt.Println("logs are in", dir)
	} else {
		fail(os.RemoveAll(dir))
	}
	fmt.Printf("ok: %d rounds, %d answers, all linearizable\n", *rounds, answered)
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}
