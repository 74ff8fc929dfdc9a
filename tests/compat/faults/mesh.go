package main

import (
	"bytes"
	"net"
	"strconv"
	"sync"
)

// mesh is what members reach one another through: a proxy before each. A direction that is cut loses nothing and passes nothing,
// as a network does whose packets are dropped and sent again: connections stay open, and what was under way arrives once the
// cut has healed.
type mesh struct {
	lock    sync.Mutex
	changed *sync.Cond
	severed map[direction]bool
	numbers map[uint64]int // of members, by their ids
}

type direction struct{ from, to int }

// unknown is who dials without saying who it is: requests for versions and leases, which are never cut.
const unknown = -1

// serverFrom is the header by which members say who they are in requests of raft.
const serverFrom = "x-server-from: "

func newMesh() *mesh {
	m := &mesh{severed: map[direction]bool{}, numbers: map[uint64]int{}}
	m.changed = sync.NewCond(&m.lock)
	return m
}

// before listens for what is meant for a member, and returns where.
func (m *mesh) before(number int, address string) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go m.carry(conn, number, address)
		}
	}()
	return listener.Addr().String(), nil
}

func (m *mesh) knows(id uint64, number int) {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.numbers[id] = number
}

func (m *mesh) cut(from, to int) {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.severed[direction{from, to}] = true
}

func (m *mesh) heal() {
	m.lock.Lock()
	defer m.lock.Unlock()
	clear(m.severed)
	m.changed.Broadcast()
}

// wait returns once a direction is not cut.
func (m *mesh) wait(from, to int) {
	m.lock.Lock()
	defer m.lock.Unlock()
	for m.severed[direction{from, to}] {
		m.changed.Wait()
	}
}

// carry takes bytes from one connection to a member, and back, until both ends have closed.
func (m *mesh) carry(dialled net.Conn, to int, address string) {
	defer dialled.Close()
	member, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer member.Close()
	from := make(chan int, 1)
	var ways sync.WaitGroup
	ways.Go(func() {
		buffer := make([]byte, 64<<10)
		read, _ := dialled.Read(buffer)
		who := m.sender(buffer[:read])
		from <- who
		m.copy(member, dialled, buffer, read, who, to)
	})
	ways.Go(func() {
		who := <-from
		m.copy(dialled, member, make([]byte, 64<<10), 0, to, who)
	})
	ways.Wait()
}

// copy writes what was read already, and then what comes, while the direction is not cut. Then neither connection is used any more.
func (m *mesh) copy(out, in net.Conn, buffer []byte, read, from, to int) {
	defer out.Close()
	defer in.Close()
	for {
		m.wait(from, to)
		if _, err := out.Write(buffer[:read]); err != nil {
			return
		}
		var err error
		if read, err = in.Read(buffer); err != nil {
			m.wait(from, to)
			return
		}
	}
}

// sender is the member that a request comes from.
func (m *mesh) sender(request []byte) int {
	lower := bytes.ToLower(request)
	at := bytes.Index(lower, []byte(serverFrom))
	if at < 0 {
		return unknown
	}
	text, _, _ := bytes.Cut(lower[at+len(serverFrom):], []byte("\r\n"))
	id, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 16, 64)
	m.lock.Lock()
	defer m.lock.Unlock()
	if number, known := m.numbers[id]; err == nil && known {
		return number
	}
	return unknown
}
