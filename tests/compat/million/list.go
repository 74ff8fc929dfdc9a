package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"google.golang.org/protobuf/proto"
)

// listAll asks for every key in one Range and throws the answer away as it comes, `rate` bytes a second if that is not
// zero. HTTP/2 is spoken directly: a gRPC client would hold the whole answer.
func listAll(address string, rate int) (int, error) {
	request, err := proto.Marshal(&pb.RangeRequest{Key: []byte("million/"), RangeEnd: []byte("million0"), Serializable: true})
	if err != nil {
		return 0, err
	}
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request)))
	transport := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	post, err := http.NewRequest("POST", "http://"+address+"/etcdserverpb.KV/Range", bytes.NewReader(append(body, request...)))
	if err != nil {
		return 0, err
	}
	post.Header.Set("content-type", "application/grpc")
	post.Header.Set("te", "trailers")
	response, err := transport.RoundTrip(post)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	buffer, total, start := make([]byte, 64<<10), 0, time.Now()
	for {
		n, err := response.Body.Read(buffer)
		total += n
		if err == io.EOF {
			break
		}
		if err != nil {
			return total, err
		}
		if rate > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(total) * time.Second / time.Duration(rate))))
		}
	}
	if status := response.Trailer.Get("grpc-status"); status != "0" {
		return total, fmt.Errorf("LIST ended with status %q %s", status, response.Trailer.Get("grpc-message"))
	}
	return total, nil
}
