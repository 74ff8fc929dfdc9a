//! Signs of life, on both sides.

use super::*;

#[test]
fn what_a_stream_says_forgives_pings() {
    let server = Server::start(Settings::default());
    let mut socket = server.raw();
    socket.write_all(&headers(1, ECHO_STREAM, 0, &[])).unwrap();
    let mut received = Vec::new();
    for round in 1..=10 {
        // The ping comes when the echo has left: clients measure bandwidth so.
        let echo = frame(0, 0, 1, &message(b"x"));
        for (said, expected) in [(&echo, &echo), (&frame(6, 0, 0, &[round; 8]), &frame(6, 1, 0, &[round; 8]))]
        {
            socket.write_all(said).unwrap();
            while !received.windows(expected.len()).any(|window| window == expected) {
                let mut buffer = [0; 1024];
                let n = socket.read(&mut buffer).expect("an answer comes in time");
                assert!(n > 0, "sent away in round {round}");
                received.extend_from_slice(&buffer[..n]);
            }
        }
        received.clear();
    }
}

#[test]
fn pings_are_acknowledged_although_an_answer_is_outstanding() {
    let server = Server::start(Settings::default());
    let mut socket = server.raw();
    // Nobody ever answers this method.
    let asking = |stream: u32| {
        let mut bytes = headers(stream, NO_ANSWER, 4, &[]);
        bytes.extend(frame(0, 1, stream, b"\0\0\0\0\0"));
        bytes
    };
    let ping = |byte: u8| frame(6, 0, 0, &[byte; 8]);
    let pong = |byte: u8| frame(6, 1, 0, &[byte; 8]);
    let mut received = Vec::new();
    let mut until_pong = |socket: &mut TcpStream, byte: u8| {
        while !received.windows(17).any(|window| window == pong(byte)) {
            let mut buffer = [0; 1024];
            let n = socket.read(&mut buffer).expect("an acknowledgement comes in time");
            received.extend_from_slice(&buffer[..n]);
        }
    };
    socket.write_all(&[asking(1), ping(1)].concat()).unwrap();
    until_pong(&mut socket, 1);
    // Nor does a client wait that never stops asking.
    let mut more = socket.try_clone().unwrap();
    let (stop, stopped) = std::sync::mpsc::channel();
    let flood = std::thread::spawn(move || {
        for stream in 1.. {
            more.write_all(&asking(1 + 2 * stream)).unwrap();
            if stopped.recv_timeout(Duration::from_millis(1)).is_ok() {
                return;
            }
        }
    });
    socket.write_all(&ping(2)).unwrap();
    until_pong(&mut socket, 2);
    stop.send(()).unwrap();
    flood.join().unwrap();
}

#[test]
fn silence_is_answered_by_a_ping_and_then_the_end() {
    let quick = Settings {
        ping_after: Duration::from_millis(50),
        ping_timeout: Duration::from_millis(50),
        ..Settings::default()
    };
    let server = Server::start(quick);
    let mut silent = server.raw();
    let mut bytes = Vec::new();
    silent.read_to_end(&mut bytes).unwrap();
    assert!(bytes.windows(5).any(|window| window == [0, 0, 8, 6, 0]), "a PING was sent");
    with_client(&server, async |client| {
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(call(&client, request(RANGE, &[]), message(b"hi")).await.unwrap(), ok(b"hi"));
    });
}
