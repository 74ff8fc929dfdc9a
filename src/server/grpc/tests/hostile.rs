//! What no honest client sends.

use super::*;

#[test]
fn nonsense_ends_its_connection_and_no_other() {
    let server = Server::start(Settings::default());
    let mut slow = server.raw();
    let garbage: [Vec<u8>; 6] = [
        b"\x16\x03\x01\x02\x00 no tls here".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), vec![255; 1000]].concat(),
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[1, 2, 3])].concat(),
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), frame(1, 4, 1, &[0xff; 40])]
            .concat(),
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), frame(0, 0, 9, b"data")].concat(),
    ];
    for bytes in garbage {
        let mut socket = TcpStream::connect(server.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.write_all(&bytes).unwrap();
        let mut rest = Vec::new();
        let ended = socket.read_to_end(&mut rest);
        let timed_out = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "{bytes:?} is still connected");
    }
    slow.write_all(&headers(1, RANGE, 0, &[])).unwrap();
    slow.write_all(&frame(0, 1, 1, &message(b"x"))).unwrap();
    let mut answer = [0; 64];
    assert!(slow.read(&mut answer).unwrap() > 0, "the others are still served");
}

#[test]
fn oversized_headers_are_refused() {
    let server = Server::start(Settings::default());
    with_client(&server, async |client| {
        let long = "x".repeat(64_000);
        assert_eq!(
            call(&client, request(RANGE, &[("token", &long)]), message(b"a")).await.unwrap(),
            ok(b"a"),
            "64 KB are fine"
        );
    });
    // Fields of 160 KB.
    let mut socket = server.raw();
    let field = [&[0, 1, b'a', 0x7f, 0xf1, 0x77][..], &[b'x'; 15_472]].concat();
    socket.write_all(&frame(1, 0, 1, &field)).unwrap();
    for n in 0..10 {
        let _ = socket.write_all(&frame(9, if n == 9 { 4 } else { 0 }, 1, &field));
    }
    assert_eq!(goaway(&mut socket).map(|(reason, _)| reason), Some(0xb));
    // CONTINUATION without an end.
    let mut socket = server.raw();
    socket.write_all(&frame(1, 0, 1, &[0, 1, b'a', 1, b'b'])).unwrap();
    let endless = frame(9, 0, 1, &[0, 1, b'a', 1, b'b']);
    let broken = (0..100_000).any(|_| socket.write_all(&endless).is_err());
    assert!(broken || goaway(&mut socket).is_some());
}

#[test]
fn floods_end_their_connection() {
    let server = Server::start(Settings { streams_max: 100, ..Settings::default() });
    // PING: the third too early is one too many.
    let mut pings = server.raw();
    for _ in 0..4 {
        pings.write_all(&frame(6, 0, 0, &[7; 8])).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(goaway(&mut pings), Some((0xb, b"too_many_pings".to_vec())));
    // HEADERS and RST_STREAM in pairs, a million of them or until we are thrown out.
    let mut resets = server.raw();
    let mut thrown_out = false;
    'flood: for n in 0..10_000 {
        let mut batch = Vec::new();
        for m in 0..100 {
            let stream = 1 + 2 * (n * 100 + m);
            batch.extend(headers(stream, RANGE, 0, &[]));
            batch.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
        }
        if resets.write_all(&batch).is_err() {
            thrown_out = true;
            break 'flood;
        }
    }
    assert!(thrown_out || goaway(&mut resets).is_some_and(|(reason, _)| reason == 0xb));
    with_client(&server, async |client| {
        assert_eq!(call(&client, request(RANGE, &[]), message(b"hi")).await.unwrap(), ok(b"hi"));
    });
}

#[test]
fn a_client_that_cancels_all_its_calls_at_once_is_no_attacker() {
    let server = Server::start(Settings::default());
    let mut socket = server.raw();
    let calls = |n: u32| (0..1000).map(move |m| 1 + 2 * (1000 * n + m));
    for round in 0..3 {
        let asked = calls(round).flat_map(|stream| headers(stream, NO_ANSWER, 0, &[]));
        let taken_back = calls(round).flat_map(|stream| frame(3, 0, stream, &8u32.to_be_bytes()));
        socket.write_all(&asked.chain(taken_back).collect::<Vec<u8>>()).unwrap();
    }
    socket.write_all(&[headers(9001, RANGE, 0, &[]), frame(0, 1, 9001, &message(b"hi"))].concat()).unwrap();
    let (echo, mut received) = (frame(0, 0, 9001, &message(b"hi")), Vec::new());
    while !received.windows(echo.len()).any(|window| window == echo) {
        let mut buffer = [0; 4096];
        let n = socket.read(&mut buffer).expect("an answer comes in time");
        assert!(n > 0, "sent away");
        received.extend_from_slice(&buffer[..n]);
    }
}

#[test]
fn more_streams_than_allowed_are_refused() {
    let server = Server::start(Settings { streams_max: 3, ..Settings::default() });
    let mut socket = server.raw();
    for n in 0..4 {
        socket.write_all(&headers(1 + 2 * n, ECHO_STREAM, 0, &[])).unwrap();
    }
    let refused = frame(3, 0, 7, &7u32.to_be_bytes());
    let mut bytes = vec![0; 4096];
    let mut have = 0;
    while !bytes[..have].windows(refused.len()).any(|window| window == refused) {
        let n = socket.read(&mut bytes[have..]).unwrap();
        assert!(n > 0);
        have += n;
    }
}
