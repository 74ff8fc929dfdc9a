//! Calls and connections that end before their answers.

use super::*;

#[test]
fn deadlines_end_calls_that_nobody_answers() {
    let server = Server::start(Settings::default());
    with_client(&server, async |client| {
        let begin = Instant::now();
        let expired = Reply::error(200, Code::DeadlineExceeded, "context deadline exceeded");
        let timeout = |text| [("grpc-timeout", text)];
        let (held, watch, range) = (NO_ANSWER, ECHO_STREAM, RANGE);
        assert_eq!(call(&client, request(held, &timeout("60m")), message(b"")).await.unwrap(), expired);
        assert!(begin.elapsed() >= Duration::from_millis(60));
        // A body that never becomes whole, and a stream that idles.
        for path in [range, watch] {
            let mut client = client.clone().ready().await.unwrap();
            let (response, mut stream) = client.send_request(request(path, &timeout("50m")), false).unwrap();
            stream.send_data(Bytes::from_static(b"\0\0"), false).unwrap();
            assert_eq!(receive(response).await.unwrap(), expired);
        }
        assert_eq!(call(&client, request(RANGE, &timeout("5S")), message(b"a")).await.unwrap(), ok(b"a"));
    });
}

#[test]
fn a_client_that_cancels_is_noticed() {
    let server = Server::start(Settings::default());
    with_client(&server, async |client| {
        let mut client = client.ready().await.unwrap();
        let (lock, mut send) = client.send_request(request(NOTES_CANCEL, &[]), false).unwrap();
        send.send_data(message(b""), true).unwrap();
        let (watch, mut stream) = client.send_request(request(ECHO_STREAM, &[]), false).unwrap();
        stream.send_data(message(b"1"), false).unwrap();
        drop(watch.await.unwrap());
        stream.send_reset(h2::Reason::CANCEL);
        send.send_reset(h2::Reason::CANCEL);
        drop(lock);
        eventually(|| server.seen.canceled.load(Ordering::SeqCst) == 1).await;
        eventually(|| server.seen.stream_ends.load(Ordering::SeqCst) == 1).await;
    });
    let watch = counters::sum(std::slice::from_ref(&server.counters), Method::Watch);
    assert_eq!(watch.handled[Code::Canceled as usize], 1);
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    let server = Server::start(Settings::default());
    let mut socket = server.raw();
    let whole = |stream: u32, path: &str, body: &[u8]| {
        [headers(stream, path, 0, &[]), frame(0, 1, stream, &message(body))].concat()
    };
    // A watch, a call that waits, an answer too long for the client's window, a stream that fills it, half a message.
    socket.write_all(&headers(1, ECHO_STREAM, 0, &[])).unwrap();
    socket.write_all(&whole(3, NOTES_CANCEL, b"")).unwrap();
    socket.write_all(&whole(5, LONG_ANSWER, b"100000000")).unwrap();
    socket.write_all(&whole(7, ENDLESS_STREAM, b"")).unwrap();
    socket.write_all(&headers(9, RANGE, 0, &[])).unwrap();
    socket.write_all(&frame(0, 0, 9, b"\0\0\0\0\x09abc")).unwrap();
    let started = |method| counters::sum(std::slice::from_ref(&server.counters), method).started;
    let begin = Instant::now();
    while started(Method::Range) == 0 && begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(socket);
    let seen =
        || (server.seen.canceled.load(Ordering::SeqCst), server.seen.stream_ends.load(Ordering::SeqCst));
    while seen() != (2, 2) && begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(seen(), (2, 2), "calls and streams that learned it");
    let counters = server.counters.clone();
    drop(server);
    for method in [Method::Watch, Method::Lock, Method::LeaseLeases, Method::Range] {
        let handled = counters::sum(std::slice::from_ref(&counters), method).handled;
        assert_eq!(handled.iter().sum::<u64>(), 1, "{method:?}");
        assert_eq!(handled[Code::Canceled as usize], 1, "{method:?}");
    }
}

#[test]
fn stopping_answers_what_is_in_flight() {
    let mut server = Server::start(Settings::default());
    let address = server.address;
    let phase = server.phase.clone();
    with_client(&server, async |client| {
        let mut sender = client.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request(ECHO_LATER, &[]), false).unwrap();
        stream.send_data(Bytes::from_static(b"\0\0\0\0"), false).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        phase.store(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.send_data(Bytes::from_static(b"\x01z"), true).unwrap();
        assert_eq!(receive(response).await.unwrap(), ok(b"z"));
        assert!(call(&client, request(RANGE, &[]), message(b"late")).await.is_err());
    });
    server.stop(1);
    assert!(TcpStream::connect(address).is_err());
}
