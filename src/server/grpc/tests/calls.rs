//! What is asked, and what is answered.

use super::*;

#[test]
fn unary_calls_are_answered_at_once_or_later() {
    let server = Server::start(Settings::default());
    with_client(&server, async |client| {
        assert_eq!(call(&client, request(RANGE, &[]), message(b"hi")).await.unwrap(), ok(b"hi"));
        let put = ECHO_LATER;
        assert_eq!(call(&client, request(put, &[]), message(b"")).await.unwrap(), ok(b""));
        let big = vec![7; 2_000_000];
        assert_eq!(call(&client, request(RANGE, &[]), message(&big)).await.unwrap(), ok(&big));
        let many = (0..500u32).map(|n| {
            let client = client.clone();
            async move {
                let (path, body) = (if n % 3 == 0 { put } else { RANGE }, n.to_be_bytes());
                assert_eq!(call(&client, request(path, &[]), message(&body)).await.unwrap(), ok(&body));
            }
        });
        futures::future::join_all(many).await;
    });
    let sum = counters::sum(std::slice::from_ref(&server.counters), Method::Range);
    assert_eq!((sum.started, sum.received, sum.sent), (335, 335, 335));
    assert_eq!(sum.handled[0], 335);
}

#[test]
fn packed_requests_get_packed_answers() {
    let server = Server::start(Settings { message_bytes_max: 300_000, ..Settings::default() });
    let packed = |bytes: &[u8]| {
        let mut message = message(&gzip::pack([bytes]).unwrap()).to_vec();
        message[0] = 1;
        Bytes::from(message)
    };
    let unpacked = |mut body: Bytes| {
        let mut plain = Vec::new();
        while !body.is_empty() {
            let head = body.split_to(frame::HEAD_BYTES);
            let message = body.split_to(u32::from_be_bytes(head[1..].try_into().unwrap()) as usize);
            match head[0] {
                0 => plain.extend_from_slice(&message),
                _ => drop(flate2::read::MultiGzDecoder::new(&message[..]).read_to_end(&mut plain).unwrap()),
            }
        }
        plain
    };
    with_client(&server, async |client| {
        let gzip = [("grpc-encoding", "gzip")];
        // In one read, in several, longer than what is packed, and plain in a call that names gzip.
        for (path, length) in [(RANGE, 5), (RANGE, 60_000), (RANGE, 300_000), (ECHO_LATER, 100)] {
            let plain: Vec<u8> =
                (0..length).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            for body in [packed(&plain), message(&plain)] {
                let reply = call(&client, request(path, &gzip), body).await.unwrap();
                assert_eq!((reply.code.as_str(), reply.body[0]), ("0", u8::from(length < 300_000)));
                assert_eq!(unpacked(reply.body), plain);
            }
        }
        let watch = ECHO_STREAM;
        let body = [packed(b"one"), message(b"two"), packed(&[b'3'; 100_000])].concat().into();
        let reply = call(&client, request(watch, &gzip), body).await.unwrap();
        assert_eq!((reply.code.as_str(), reply.body[0]), ("0", 1));
        assert_eq!(unpacked(reply.body), [&b"onetwo"[..], &[b'3'; 100_000]].concat());
        // More than a message may be long, from few bytes.
        let bomb = packed(&vec![0; 50_000_000]);
        assert!(bomb.len() < 300_000);
        let text = "grpc: received message after decompression larger than max 300000";
        for path in [RANGE, watch] {
            let refused = call(&client, request(path, &gzip), bomb.clone()).await.unwrap();
            assert_eq!(refused, Reply::error(200, Code::ResourceExhausted, text));
        }
        let mut garbage = message(b"nonsense").to_vec();
        garbage[0] = 1;
        let text = "grpc: failed to decompress the message: unexpected EOF";
        let refused = call(&client, request(RANGE, &gzip), garbage.into()).await.unwrap();
        assert_eq!(refused, Reply::error(200, Code::Internal, text));
    });
}

#[test]
fn what_a_client_has_begun_to_say_it_has_to_finish() {
    let quick = Settings { unfinished_after: Duration::from_millis(50), ..Settings::default() };
    let server = Server::start(quick);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let greeted = [&preface[..], &frame(4, 0, 0, &[])].concat();
    for half in [
        preface.to_vec(),
        [&greeted[..], &[0, 0, 8, 6]].concat(),
        [&greeted[..], &frame(1, 0, 1, &[0x82])].concat(),
    ] {
        let mut socket = TcpStream::connect(server.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.write_all(&half).unwrap();
        assert_eq!(goaway(&mut socket).map(|(reason, _)| reason), Some(0xb), "{half:?}");
    }
    with_client(&server, async |client| {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(call(&client, request(RANGE, &[]), message(b"hi")).await.unwrap(), ok(b"hi"));
    });
}

#[test]
fn bodies_may_come_in_pieces() {
    let server = Server::start(Settings::default());
    with_client(&server, async |client| {
        let mut client = client.ready().await.unwrap();
        let (response, mut stream) = client.send_request(request(RANGE, &[]), false).unwrap();
        for byte in &message(b"slow")[..] {
            stream.send_data(Bytes::copy_from_slice(&[*byte]), false).unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        // The answer comes without the end of our side, as grpc-go's does.
        assert_eq!(receive(response).await.unwrap(), ok(b"slow"));
        let (response, mut stream) = client.send_request(request(RANGE, &[]), false).unwrap();
        stream.send_data(message(b"x"), false).unwrap();
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(receive(response).await.unwrap(), ok(b"x"));
    });
}

#[test]
fn errors_are_those_of_grpc_go() {
    let server = Server::start(Settings { message_bytes_max: 1000, ..Settings::default() });
    with_client(&server, async |client| {
        let unary = async |path: &str, headers: &[(&'static str, &str)], body: Bytes| {
            call(&client, request(path, headers), body).await.unwrap()
        };
        let m = || message(b"x");
        let internal = |text: &str| Reply::error(200, Code::Internal, text);
        assert_eq!(unary(FAILS, &[], m()).await, Reply::error(200, Code::NotFound, "nothing%0Ahere"));
        assert_eq!(
            unary("/a.B/C", &[], m()).await,
            Reply::error(200, Code::Unimplemented, "unknown service a.B")
        );
        assert_eq!(
            unary("/etcdserverpb.KV/C", &[], m()).await,
            Reply::error(200, Code::Unimplemented, "unknown method C for service etcdserverpb.KV")
        );
        assert_eq!(
            unary(RANGE, &[], message(&[0; 1001])).await,
            Reply::error(
                200,
                Code::ResourceExhausted,
                "grpc: received message larger than max (1001 vs. 1000)"
            )
        );
        assert_eq!(unary(RANGE, &[], message(&[0; 1000])).await, ok(&[0; 1000]));
        assert_eq!(
            unary(RANGE, &[("grpc-encoding", "snappy")], m()).await,
            Reply::error(
                200,
                Code::Unimplemented,
                "grpc: Decompressor is not installed for grpc-encoding \"snappy\""
            )
        );
        let unknown = |text: &str| Reply::error(200, Code::Unknown, text);
        let cut = Bytes::from_static(b"\0\0\0\0\x09abc");
        assert_eq!(unary(RANGE, &[], cut.clone()).await, unknown("unexpected EOF"));
        assert_eq!(unary(ECHO_STREAM, &[], cut).await, internal("unexpected EOF"));
        for nothing in [&b"\0\0"[..], b""] {
            assert_eq!(unary(RANGE, &[], Bytes::from_static(nothing)).await, unknown("EOF"));
        }
        assert_eq!(
            unary(RANGE, &[], Bytes::from_static(b"\x01\0\0\0\x01x")).await,
            internal("grpc: compressed flag set with identity or empty encoding")
        );
        for behind in [&m()[..], b"\0\0\0", &[0xff; 100]] {
            assert_eq!(unary(RANGE, &[], [&m()[..], behind].concat().into()).await, ok(b"x"), "is not read");
        }
        assert_eq!(
            unary(RANGE, &[("grpc-timeout", "x")], m()).await,
            Reply::error(
                400,
                Code::Internal,
                "malformed grpc-timeout: transport: timeout string is too short: \"x\""
            )
        );
        let plain =
            Request::post("http://localhost/x").header("content-type", "text/plain").body(()).unwrap();
        let text = "invalid gRPC request content-type \"text/plain\"";
        assert_eq!(call(&client, plain, m()).await.unwrap(), Reply::error(415, Code::InvalidArgument, text));
        let mut get = request(RANGE, &[]);
        *get.method_mut() = http::Method::GET;
        let text = "Received a HEADERS frame with :method \"GET\" which should be POST";
        assert_eq!(call(&client, get, m()).await.unwrap(), Reply::error(405, Code::Internal, text));
    });
    // A unary call whose stream ends with its HEADERS frame: etcd never answers.
    with_client(&server, async |client| {
        let (response, _) = client.ready().await.unwrap().send_request(request(RANGE, &[]), true).unwrap();
        assert_eq!(receive(response).await.unwrap(), Reply::error(200, Code::Unknown, "EOF"));
    });
}
