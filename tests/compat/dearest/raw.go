package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
)

// raw is an HTTP/2 connection without manners: it gives no window, reads nothing, or sends what no library would.
type raw struct {
	net.Conn
	mu     sync.Mutex // one frame after the other, from whoever sends
	framer *http2.Framer
	block  bytes.Buffer
	coder  *hpack.Encoder
	next   uint32
}

// dialRaw opens a connection whose streams may send `window` bytes each.
func dialRaw(address string, window uint32) (*raw, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	r := &raw{Conn: conn, framer: http2.NewFramer(conn, conn), next: 1}
	r.coder = hpack.NewEncoder(&r.block)
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		return nil, err
	}
	return r, r.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
}

// head opens a stream and returns its number; the call is not complete before its message is sent.
func (r *raw) head(method string) (uint32, error) {
	r.block.Reset()
	for _, field := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", "member"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		if err := r.coder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			return 0, err
		}
	}
	id := r.next
	r.next += 2
	return id, r.write(func() error {
		return r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: r.block.Bytes(), EndHeaders: true})
	})
}

// call sends a whole call.
func (r *raw) call(method string, request proto.Message) error {
	id, err := r.head(method)
	if err != nil {
		return err
	}
	message, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return r.write(func() error { return r.framer.WriteData(id, true, append(body, message...)) })
}

func (r *raw) write(frame func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return frame()
}

// drain reads and drops until the time is over, acknowledging pings and settings. Nothing is written any more after that.
func (r *raw) drain(until time.Time) {
	r.SetDeadline(until)
	for {
		frame, err := r.framer.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.PingFrame:
			if !frame.IsAck() {
				r.write(func() error { return r.framer.WritePing(true, frame.Data) })
			}
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				r.write(r.framer.WriteSettingsAck)
			}
		case *http2.GoAwayFrame:
			return
		}
	}
}

// innermost is the error without the addresses that are told with it.
func innermost(err error) error {
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err
}

// stalled opens calls whose answers are not taken, and holds them.
func (s *sender) stalled(calls int, method string, request proto.Message) {
	r, err := dialRaw(s.address, 0)
	fail(err)
	defer r.Close()
	go func() {
		for range calls {
			err := r.call(method, request)
			if s.over() {
				return // the connection was closed here
			}
			if err != nil {
				s.count("refused: " + innermost(err).Error())
				return
			}
			s.count("sent")
		}
	}()
	r.drain(s.until)
}
