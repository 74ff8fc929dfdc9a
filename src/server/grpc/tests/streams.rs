//! Answers of many messages, and answers in slices.

use super::*;

#[test]
fn streams_echo_until_the_client_ends_its_side() {
    let server = Server::start(Settings::default());
    with_client(&server, async |client| {
        let mut client = client.ready().await.unwrap();
        let (response, mut stream) = client.send_request(request(ECHO_STREAM, &[]), false).unwrap();
        stream.send_data([message(b"a"), message(b"bc")].concat().into(), false).unwrap();
        let response = response.await.unwrap();
        let mut body = response.into_body();
        let mut got = BytesMut::new();
        while got.len() < 13 {
            got.extend_from_slice(&body.data().await.unwrap().unwrap());
        }
        assert_eq!(got, [message(b"a"), message(b"bc")].concat());
        stream.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
}

#[test]
fn a_long_answer_waits_for_a_slow_client() {
    let server = Server::start(Settings::default());
    with_client(&server, async |client| {
        let path = LONG_ANSWER;
        let total = 20_000_000;
        let whole = call(&client, request(path, &[]), message(total.to_string().as_bytes())).await.unwrap();
        assert_eq!((whole.code.as_str(), whole.body.len()), ("0", total + 5));
        server.seen.written.store(0, Ordering::SeqCst);
        let mut client = client.ready().await.unwrap();
        let (response, mut stream) = client.send_request(request(path, &[]), false).unwrap();
        stream.send_data(message(b"1000000000"), true).unwrap();
        let body = response.await.unwrap().into_body();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let written = server.seen.written.load(Ordering::SeqCst);
        assert!(written < 1_000_000, "{written} bytes written for a client that does not read");
        drop(body);
        drop(stream);
        eventually(|| server.seen.canceled.load(Ordering::SeqCst) == 1).await;
    });
}

#[test]
fn an_answer_that_cannot_be_sent_is_an_error_of_its_call() {
    let server = Server::start(Settings::default());
    with_client(&server, async |client| {
        let path = "/etcdserverpb.Lease/LeaseLeases";
        for (total, text) in [
            ("2147483648", "grpc: trying to send message larger than max (2147483648 vs. 2147483647)"),
            ("4294967296", "grpc: message too large (4294967296 bytes)"),
        ] {
            let refused = call(&client, request(path, &[]), message(total.as_bytes())).await.unwrap();
            assert_eq!((refused.code.as_str(), refused.text.as_str()), ("8", text));
        }
        assert_eq!(call(&client, request(RANGE, &[]), message(b"hi")).await.unwrap(), ok(b"hi"));
    });
}

#[test]
fn a_client_that_never_reads_costs_a_bounded_amount() {
    let server = Server::start(Settings::default());
    let mut window_zero = h2::client::Builder::new();
    window_zero.initial_window_size(0);
    with_client_built(&server, &window_zero, async |client| {
        let mut client = client.ready().await.unwrap();
        let (stream, _end) = client.send_request(request(ENDLESS_STREAM, &[]), true).unwrap();
        let mut held = vec![stream];
        eventually(|| server.seen.written.load(Ordering::SeqCst) >= 256_000).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let written = server.seen.written.load(Ordering::SeqCst);
        assert!(written < 300_000, "{written}");
        // Unary answers of a megabyte each: after four of them its requests wait.
        for _ in 0..20 {
            let (response, mut stream) = client.send_request(request(RANGE, &[]), false).unwrap();
            stream.send_data(message(&[0; 1_000_000]), true).unwrap();
            held.push(response);
        }
        let handled = || counters::sum(std::slice::from_ref(&server.counters), Method::Range).handled[0];
        eventually(|| handled() >= 4).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(handled() <= 6, "{} answers wait in memory", handled());
    });
    with_client(&server, async |client| {
        assert_eq!(call(&client, request(RANGE, &[]), message(b"hi")).await.unwrap(), ok(b"hi"));
    });
}
