package main

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// srv is what an SRV record names.
type srv struct {
	target string
	port   uint16
}

// fault is what a name server does instead of answering.
type fault int

const (
	none fault = iota
	silent
	serverFailure
	refused
	cut  // over UDP; over TCP the answer is whole
	lame // a referral to nowhere
)

// zone is a name server on loopback and what it knows. A name that it does not know does not exist.
type zone struct {
	mu        sync.Mutex
	services  map[string][]srv
	hosts     map[string]net.IP
	fault     fault
	questions int
	udp       net.PacketConn
	tcp       net.Listener
}

func newZone() *zone {
	z := &zone{services: map[string][]srv{}, hosts: map[string]net.IP{}}
	for n := 1; n <= members; n++ {
		z.hosts[host(n)+"."] = net.ParseIP(address(n))
	}
	return z
}

// set takes another content.
func (z *zone) set(services map[string][]srv, f fault) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.services, z.fault, z.questions = services, f, 0
}

// asked tells how many questions have come since the content was set.
func (z *zone) asked() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.questions
}

func (z *zone) open() {
	var err error
	z.udp, err = net.ListenPacket("udp", nameServer)
	fail(err)
	z.tcp, err = net.Listen("tcp", nameServer)
	fail(err)
	go z.serveDatagrams(z.udp)
	go z.serveConnections(z.tcp)
}

func (z *zone) close() {
	z.udp.Close()
	z.tcp.Close()
}

func (z *zone) serveDatagrams(socket net.PacketConn) {
	buffer := make([]byte, 4096)
	for {
		n, from, err := socket.ReadFrom(buffer)
		if err != nil {
			return
		}
		if answer := z.answer(buffer[:n], true); answer != nil {
			socket.WriteTo(answer, from)
		}
	}
}

func (z *zone) serveConnections(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			var head [2]byte
			if _, err := io.ReadFull(conn, head[:]); err != nil {
				return
			}
			question := make([]byte, binary.BigEndian.Uint16(head[:]))
			if _, err := io.ReadFull(conn, question); err != nil {
				return
			}
			if answer := z.answer(question, false); answer != nil {
				conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
			}
		}()
	}
}

func (z *zone) answer(question []byte, isDatagram bool) []byte {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.questions++
	var parser dnsmessage.Parser
	header, err := parser.Start(question)
	if err != nil {
		return nil
	}
	asked, err := parser.Question()
	if err != nil {
		return nil
	}
	name := strings.ToLower(asked.Name.String())
	isService := strings.HasPrefix(name, "_")
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, RecursionDesired: true, RecursionAvailable: true},
		Questions: []dnsmessage.Question{asked},
	}
	about := dnsmessage.ResourceHeader{Name: asked.Name, Class: dnsmessage.ClassINET, TTL: 1}
	switch records, known := z.services[name], false; {
	case isService && z.fault == silent:
		return nil
	case isService && z.fault == serverFailure:
		reply.RCode = dnsmessage.RCodeServerFailure
	case isService && z.fault == refused:
		reply.RCode = dnsmessage.RCodeRefused
	case isService && z.fault == lame:
		reply.RecursionAvailable = false
	case isService && z.fault == cut && isDatagram:
		reply.Truncated = true
	case isService:
		for _, r := range records {
			known = true
			target := dnsmessage.MustNewName(r.target)
			reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: about, Body: &dnsmessage.SRVResource{Port: r.port, Target: target}})
		}
		if !known {
			reply.RCode = dnsmessage.RCodeNameError
		}
	default:
		ip, known := z.hosts[name]
		if !known {
			reply.RCode = dnsmessage.RCodeNameError
		}
		if known && asked.Type == dnsmessage.TypeA {
			reply.Answers = []dnsmessage.Resource{{Header: about, Body: &dnsmessage.AResource{A: [4]byte(ip.To4())}}}
		}
	}
	packed, err := reply.Pack()
	if err != nil {
		return nil
	}
	return packed
}
