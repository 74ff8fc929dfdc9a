package main

import "syscall"

// kind is something that is done to the members, and undone; cuts of the network are undone behind each round.
type kind struct {
	name string
	harm func(c *cluster, leader int)
	heal func(c *cluster)
}

var kinds = []kind{
	{"the leader is killed", func(c *cluster, leader int) { c.members[leader].Kill() }, restart},
	{"a follower is killed", func(c *cluster, leader int) { c.members[after(leader, 1)].Kill() }, restart},
	{"two members are killed, the leader one of them", func(c *cluster, leader int) {
		c.members[leader].Kill()
		c.members[after(leader, 1)].Kill()
	}, restart},
	{"all members are killed", func(c *cluster, leader int) {
		for _, m := range c.members {
			m.Kill()
		}
	}, restart},
	{"the leader is paused", func(c *cluster, leader int) { c.signal(leader, syscall.SIGSTOP) }, resume},
	{"a follower is paused", func(c *cluster, leader int) { c.signal(after(leader, 1), syscall.SIGSTOP) }, resume},
	{"both followers are paused", func(c *cluster, leader int) {
		c.signal(after(leader, 1), syscall.SIGSTOP)
		c.signal(after(leader, 2), syscall.SIGSTOP)
	}, resume},
	{"the leader is cut off", func(c *cluster, leader int) {
		for other := 1; other < size; other++ {
			c.mesh.cut(leader, after(leader, other))
			c.mesh.cut(after(leader, other), leader)
		}
	}, nothing},
	{"a follower is cut off", func(c *cluster, leader int) {
		for other := 1; other < size; other++ {
			c.mesh.cut(after(leader, 1), after(leader, 1+other))
			c.mesh.cut(after(leader, 1+other), after(leader, 1))
		}
	}, nothing},
	{"the leader and one follower do not reach each other", func(c *cluster, leader int) {
		c.mesh.cut(leader, after(leader, 1))
		c.mesh.cut(after(leader, 1), leader)
	}, nothing},
	{"the leader hears nobody", func(c *cluster, leader int) {
		c.mesh.cut(after(leader, 1), leader)
		c.mesh.cut(after(leader, 2), leader)
	}, nothing},
	{"nobody hears the leader", func(c *cluster, leader int) {
		c.mesh.cut(leader, after(leader, 1))
		c.mesh.cut(leader, after(leader, 2))
	}, nothing},
	{"the leader is cut off, and killed", func(c *cluster, leader int) {
		c.mesh.cut(leader, after(leader, 1))
		c.mesh.cut(leader, after(leader, 2))
		c.members[leader].Kill()
	}, restart},
}

// after is another member: the next one, or the one behind it.
func after(member, steps int) int { return (member + steps) % size }

// restart launches every member that does not run.
func restart(c *cluster) {
	for _, m := range c.members {
		if !m.Running() {
			fail(m.Launch())
		}
	}
}

func resume(c *cluster) {
	for n := range c.members {
		c.signal(n, syscall.SIGCONT)
	}
}

func nothing(*cluster) {}
