// Drill fills a store up to its quota and makes room again, in the two ways that operators know: by etcd's procedure
// (compact, defragment, disarm), and by compaction alone while a trickle of writes goes on. In both, the bytes in use must
// fall within seconds, the alarm must be cleared by one disarm, and it must stay away while the same keys are overwritten.
//
//	go run ./drill -server PATH
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"kevel/compat/member"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	valueBytes = 1 << 20
	keys       = 2
	// A member with two values of 1 MiB has no use for more than this.
	liveMax = 6 << 20
	// How soon a compaction must have freed what it left.
	freedWithin = 10 * time.Second
	trickle     = 2 * time.Second
	callWithin  = 30 * time.Second
)

func main() {
	server := flag.String("server", "", "the server's binary")
	flag.Parse()
	failed := false
	for _, mebibytes := range []int{16, 48} {
		for _, drill := range []struct {
			name string
			run  func(*trial) error
		}{{"compact, defragment, disarm", (*trial).procedure}, {"compact alone, under a trickle of writes", (*trial).compactAlone}} {
			began := time.Now()
			err := run(*server, mebibytes, drill.run)
			fmt.Printf("quota %d MiB, %s: %v\n", mebibytes, drill.name, verdict(err, time.Since(began)))
			failed = failed || err != nil
		}
	}
	if failed {
		os.Exit(1)
	}
}

func verdict(err error, took time.Duration) string {
	if err != nil {
		return "BROKEN: " + err.Error()
	}
	return fmt.Sprintf("there is room again (%v)", took.Round(100*time.Millisecond))
}

// trial is one member that is filled and emptied.
type trial struct {
	kv          pb.KVClient
	maintenance pb.MaintenanceClient
	quota       int64
	revision    int64
}

func run(server string, mebibytes int, drill func(*trial) error) error {
	dir, err := os.MkdirTemp("", "drill-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	quota := int64(mebibytes) << 20
	m, err := member.New(server, "full", dir, fmt.Sprintf("--quota-backend-bytes=%d", quota))
	if err != nil {
		return err
	}
	if err := m.Start(); err != nil {
		return err
	}
	defer m.Kill()
	conn, err := member.Dial(m.Client)
	if err != nil {
		return err
	}
	defer conn.Close()
	t := &trial{kv: pb.NewKVClient(conn), maintenance: pb.NewMaintenanceClient(conn), quota: quota}
	// Twice: what the first round left behind must not spoil the second.
	for round := range 2 {
		if err := t.fill(); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if err := drill(t); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	return nil
}

// fill overwrites the keys until the quota refuses.
func (t *trial) fill() error {
	for n := range 2 * int(t.quota) / valueBytes {
		switch err := t.put(n%keys, valueBytes); {
		case errors.Is(err, rpctypes.ErrGRPCNoSpace):
			if n < int(t.quota)/valueBytes/2 {
				return fmt.Errorf("refused after %d values", n)
			}
			return t.raised(true)
		case err != nil:
			return err
		}
	}
	return errors.New("twice the quota was taken")
}

func (t *trial) put(key, size int) error {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	response, err := t.kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "key-%d", key), Value: bytes.Repeat([]byte{'v'}, size)})
	if err == nil {
		t.revision = response.Header.Revision
	}
	return err
}

// procedure is what etcd's documentation tells an operator to do.
func (t *trial) procedure() error {
	if err := t.compact(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	if _, err := t.maintenance.Defragment(ctx, &pb.DefragmentRequest{}); err != nil {
		return fmt.Errorf("defragment: %w", err)
	}
	status, err := t.maintenance.Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return err
	}
	if status.DbSizeInUse > liveMax {
		return fmt.Errorf("%d bytes in use after the defragmentation", status.DbSizeInUse)
	}
	return t.reopen()
}

// compactAlone leaves everything to the member, which is never idle meanwhile.
func (t *trial) compactAlone() error {
	if err := t.compact(); err != nil {
		return err
	}
	for began := time.Now(); ; time.Sleep(trickle) {
		ctx, cancel := context.WithTimeout(context.Background(), callWithin)
		status, err := t.maintenance.Status(ctx, &pb.StatusRequest{})
		cancel()
		if err != nil {
			return err
		}
		if status.DbSizeInUse <= liveMax {
			break
		}
		if time.Since(began) > freedWithin {
			return fmt.Errorf("%d bytes in use %v after the compaction", status.DbSizeInUse, time.Since(began).Round(time.Second))
		}
		// Refused while the alarm stands, but applied: it is what keeps a member from being idle.
		if err := t.put(keys, 1); err != nil && !errors.Is(err, rpctypes.ErrGRPCNoSpace) {
			return err
		}
	}
	return t.reopen()
}

func (t *trial) compact() error {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	if _, err := t.kv.Compact(ctx, &pb.CompactionRequest{Revision: t.revision}); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	return nil
}

// reopen clears the alarm and overwrites the keys with compactions in between, as a cluster's own components do. What is
// written in all passes the quota twice.
func (t *trial) reopen() error {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	alarms, err := t.maintenance.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
	if err != nil {
		return err
	}
	for _, alarm := range alarms.Alarms {
		clear := &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: alarm.MemberID, Alarm: alarm.Alarm}
		if _, err := t.maintenance.Alarm(ctx, clear); err != nil {
			return fmt.Errorf("disarm: %w", err)
		}
	}
	for n := range 2 * int(t.quota) / valueBytes {
		if err := t.put(n%keys, valueBytes); err != nil {
			return fmt.Errorf("put %d after the disarm: %w", n, err)
		}
		if n%8 == 7 {
			if err := t.compact(); err != nil {
				return err
			}
			if err := t.settle(); err != nil {
				return err
			}
		}
	}
	return t.raised(false)
}

// settle waits until a compaction has freed what it left.
func (t *trial) settle() error {
	for began := time.Now(); time.Since(began) < freedWithin; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), callWithin)
		status, err := t.maintenance.Status(ctx, &pb.StatusRequest{})
		cancel()
		if err != nil {
			return err
		}
		if status.DbSizeInUse <= liveMax {
			return nil
		}
	}
	return errors.New("a compaction freed nothing")
}

func (t *trial) raised(wanted bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	response, err := t.maintenance.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
	if err != nil {
		return err
	}
	if raised := len(response.Alarms) > 0; raised != wanted {
		return fmt.Errorf("alarms: %v", response.Alarms)
	}
	return nil
}
