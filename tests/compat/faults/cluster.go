package main

import (
	"context"
	"fmt"
	"math/rand"
	"sync"
	"syscall"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	size       = 3
	clients    = 9 // three on each member
	callWithin = time.Second
	pauseMax   = 10 * time.Millisecond
)

// cluster is three members that reach one another through proxies, and clients' ways to them, which nothing cuts.
type cluster struct {
	members []*member.Member
	conns   []*grpc.ClientConn
	mesh    *mesh
	stale   bool // whether reads are serializable
}

func found(server, dir string) *cluster {
	c := &cluster{mesh: newMesh()}
	for n := range size {
		m, err := member.New(server, fmt.Sprintf("m%d", n+1), dir)
		fail(err)
		proxy, err := c.mesh.before(n, m.Peer)
		fail(err)
		m.Behind(proxy)
		conn, err := member.Dial(m.Client, grpc.WithConnectParams(member.Quickly))
		fail(err)
		c.members, c.conns = append(c.members, m), append(c.conns, conn)
	}
	fail(member.Found(c.members...))
	for n := range c.members {
		ctx, cancel := context.WithTimeout(context.Background(), callWithin)
		status, err := pb.NewMaintenanceClient(c.conns[n]).Status(ctx, &pb.StatusRequest{})
		cancel()
		fail(err)
		c.mesh.knows(status.Header.MemberId, n)
	}
	// Connections from before the ids were known belong to nobody and would not be cut.
	for _, m := range c.members {
		m.Kill()
	}
	restart(c)
	for _, m := range c.members {
		fail(m.Ready())
	}
	return c
}

func (c *cluster) kill() {
	for _, m := range c.members {
		m.Kill()
	}
}

func (c *cluster) signal(number int, signal syscall.Signal) {
	if c.members[number].Running() {
		fail(syscall.Kill(c.members[number].Pid(), signal))
	}
}

// load is clients at work.
type load struct {
	cancel  context.CancelFunc
	working sync.WaitGroup
}

func (c *cluster) load(h *history, seed int64) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for client := range clients {
		dice := rand.New(rand.NewSource(seed + int64(client)))
		l.working.Go(func() {
			for number := 0; ctx.Err() == nil; number++ {
				c.act(h, client, number, dice)
				time.Sleep(time.Duration(dice.Int63n(int64(pauseMax))))
			}
		})
	}
	return l
}

// stop returns once the calls under way have ended.
func (l *load) stop() {
	l.cancel()
	l.working.Wait()
}

// act makes one call: a put, a read, or a put that depends on what was read last.
func (c *cluster) act(h *history, client, number int, dice *rand.Rand) {
	key := h.keys[dice.Intn(len(h.keys))]
	value := fmt.Sprintf("%d/%d", client, number)
	switch dice.Intn(4) {
	case 0:
		c.put(h, client, key, value)
	case 1:
		if read, found := c.read(h, client, key); found {
			c.swap(h, client, key, read, value)
		}
	default:
		c.read(h, client, key)
	}
}

func (c *cluster) kv(client int) pb.KVClient { return pb.NewKVClient(c.conns[client%size]) }

func (c *cluster) put(h *history, client int, key, value string) {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	call := h.begin(client, input{op: put, key: key, value: value})
	_, err := c.kv(client).Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	h.end(call, output{}, err)
}

func (c *cluster) read(h *history, client int, key string) (string, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	call := h.begin(client, input{op: read, key: key})
	answer, err := c.kv(client).Range(ctx, &pb.RangeRequest{Key: []byte(key), Serializable: c.stale})
	var out output
	if err == nil && len(answer.Kvs) > 0 {
		out.value = string(answer.Kvs[0].Value)
	}
	h.end(call, out, err)
	return out.value, err == nil && out.value != ""
}

func (c *cluster) swap(h *history, client int, key, expected, value string) {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	call := h.begin(client, input{op: swap, key: key, expected: expected, value: value})
	answer, err := c.kv(client).Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte(key), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte(expected)}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}},
	})
	var out output
	if err == nil {
		out.swapped = answer.Succeeded
		for _, kv := range answer.Responses[0].GetResponseRange().GetKvs() {
			out.value = string(kv.Value)
		}
	}
	h.end(call, out, err)
}

// readAll reads each key through each member, as the last calls of a history.
func (c *cluster) readAll(h *history) {
	for client := range size {
		for _, key := range h.keys {
			c.read(h, client, key)
		}
	}
}
