//! How clients share a core.

use super::*;

#[test]
fn a_connection_that_asks_for_much_leaves_the_core_to_others_in_between() {
    const CALLS: u32 = 200;
    let server = Server::start(Settings::default());
    let mut socket = server.raw();
    let asked = (0..CALLS).flat_map(|n| {
        let stream = 1 + 2 * n;
        [headers(stream, WORKS, 0, &[]), frame(0, 1, stream, &message(b""))].concat()
    });
    socket.write_all(&asked.collect::<Vec<u8>>()).unwrap();
    let handled = || counters::sum(std::slice::from_ref(&server.counters), Method::MemberList).handled[0];
    let begin = Instant::now();
    while handled() < u64::from(CALLS) && begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(handled(), u64::from(CALLS));
    let longest = server.seen.longest_streak.load(Ordering::SeqCst);
    assert!(longest <= 40, "{longest} calls were answered while a timer of 2 ms waited to ring");
}

#[test]
fn calls_that_become_whole_together_leave_the_core_to_others_in_between() {
    const CALLS: u32 = 200;
    let server = Server::start(Settings::default());
    let mut socket = server.raw();
    let heads = (0..CALLS).flat_map(|n| headers(1 + 2 * n, WORKS, 0, &[])).collect::<Vec<u8>>();
    let bodies = (0..CALLS).flat_map(|n| frame(0, 1, 1 + 2 * n, &message(b""))).collect::<Vec<u8>>();
    socket.write_all(&heads).unwrap();
    let sum = || counters::sum(std::slice::from_ref(&server.counters), Method::MemberList);
    let begin = Instant::now();
    while sum().started < u64::from(CALLS) && begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    socket.write_all(&bodies).unwrap();
    while sum().handled[0] < u64::from(CALLS) && begin.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(sum().handled[0], u64::from(CALLS));
    let longest = server.seen.longest_streak.load(Ordering::SeqCst);
    assert!(longest <= 40, "{longest} calls were answered while a timer of 2 ms waited to ring");
}

#[test]
fn slow_and_idle_clients_hurt_nobody() {
    let server = Server::start(Settings::default());
    let mut slow: Vec<_> = (0..200).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    for (n, socket) in slow.iter_mut().enumerate() {
        socket.write_all(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..n % 20]).unwrap();
    }
    let _idle: Vec<_> = (0..200).map(|_| server.raw()).collect();
    with_client(&server, async |client| {
        for _ in 0..100 {
            assert_eq!(call(&client, request(RANGE, &[]), message(b"hi")).await.unwrap(), ok(b"hi"));
        }
    });
}

#[test]
fn clients_that_ask_for_nothing_leave_when_the_process_is_full() {
    let server = Server::start_with(Settings::default(), Admission::with_places(20));
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    let greeting: Vec<_> = (0..20).map(|_| server.raw()).collect();
    with_client(&server, async |client| {
        assert_eq!(call(&client, request(RANGE, &[]), message(b"hi")).await.unwrap(), ok(b"hi"));
    });
    drop((silent, greeting));
}
