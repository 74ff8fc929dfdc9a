//! Questions on their way to name servers and back. Errors are in the words of Go.
#![forbid(unsafe_code)]

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::message::{DATAGRAM_BYTES_MAX, Question, Record, Reply, is_name};
use super::settings::Settings;

/// Where the name servers are told.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where the kernel tells this machine's name.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// The SRV records of a name, such as `_etcd-server._tcp.example.com`. Blocks, as long as the system's settings say.
///
/// # Errors
/// When no server has any, in the words of Go.
pub fn records(name: &str) -> Result<Vec<Record>, String> {
    let text =
        |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    look_up(name, &Settings::read(&text(RESOLV_CONF), &text(HOST_NAME)))
}

fn look_up(name: &str, settings: &Settings) -> Result<Vec<Record>, String> {
    let mut error = format!("lookup {name}: no such host");
    if !is_name(name) {
        return Err(error);
    }
    for (at, whole) in settings.names(name).iter().enumerate() {
        let first = if settings.rotates { at } else { 0 };
        match ask_all(whole, settings, first) {
            Ok(records) => return checked(name, records),
            Err((server, why)) => error = format!("lookup {name} on {server}: {why}"),
        }
    }
    Err(error)
}

/// Records of which one names no host are all doubtful.
fn checked(name: &str, records: Vec<Record>) -> Result<Vec<Record>, String> {
    if records.iter().all(|record| is_name(&record.target)) {
        return Ok(records);
    }
    let domain = name.splitn(3, '.').nth(2).unwrap_or(name);
    Err(format!("lookup {domain}: DNS response contained records which contain invalid names"))
}

/// Asks each server as often as is said, until one has an answer. What the last one said, otherwise.
fn ask_all(whole: &str, settings: &Settings, first: usize) -> Result<Vec<Record>, (String, String)> {
    let servers = &settings.servers;
    let mut last = (String::new(), String::new());
    for _ in 0..settings.attempts {
        for at in 0..servers.len() {
            let server = servers[(first + at) % servers.len()];
            match ask(server, whole, settings) {
                Ok(Some(records)) => return Ok(records),
                // A name that does not exist has no records at another server either.
                Ok(None) => return Err((server.to_string(), "no such host".to_owned())),
                Err(why) => last = (server.to_string(), why),
            }
        }
    }
    Err(last)
}

/// The records that a server has; none where it says that there are none.
fn ask(server: SocketAddr, whole: &str, settings: &Settings) -> Result<Option<Vec<Record>>, String> {
    const UNASKED: &str = "cannot marshal DNS message";
    let id = RandomState::new().build_hasher().finish() as u16;
    let question = Question::new(id, whole, settings.asks_authentic).ok_or(UNASKED)?;
    let bytes = question.bytes().ok_or(UNASKED)?;
    let mut reply = Reply::Cut;
    if !settings.only_tcp {
        reply = by_datagram(server, &question, &bytes, settings.timeout)?;
    }
    if reply == Reply::Cut {
        reply = by_connection(server, &question, &bytes, settings.timeout)?;
    }
    match reply {
        Reply::Records(records) => Ok(Some(records)),
        Reply::Nothing => Ok(None),
        Reply::Useless(why) => Err(why.to_owned()),
        Reply::Foreign | Reply::Cut => Err("invalid DNS response".to_owned()),
    }
}

fn by_datagram(
    server: SocketAddr,
    question: &Question,
    bytes: &[u8],
    timeout: Duration,
) -> Result<Reply, String> {
    let deadline = Instant::now() + timeout;
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let dialled = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(server).map(|()| socket));
    let socket = dialled.map_err(|error| format!("dial udp {server}: connect: {}", go_text(&error)))?;
    let own = socket.local_addr().map(|address| address.to_string()).unwrap_or_default();
    let failed =
        |verb: &str, error: &io::Error| format!("{verb} udp {own}->{server}: {}", failure(verb, error));
    socket.send(bytes).map_err(|error| failed("write", &error))?;
    let mut buffer = vec![0; usize::from(DATAGRAM_BYTES_MAX)];
    loop {
        let received = uninterrupted(deadline, |left| {
            socket.set_read_timeout(Some(left))?;
            socket.recv(&mut buffer)
        });
        let length = received.map_err(|error| failed("read", &error))?;
        let reply = question.read(&buffer[..length], true);
        // Anybody can send a datagram: the right one may still come.
        if reply != Reply::Foreign {
            return Ok(reply);
        }
    }
}

fn by_connection(
    server: SocketAddr,
    question: &Question,
    bytes: &[u8],
    timeout: Duration,
) -> Result<Reply, String> {
    let deadline = Instant::now() + timeout;
    let dialled = TcpStream::connect_timeout(&server, timeout);
    let mut stream = dialled.map_err(|error| format!("dial tcp {server}: {}", failure("connect", &error)))?;
    let own = stream.local_addr().map(|address| address.to_string()).unwrap_or_default();
    let failed =
        |verb: &str, error: &io::Error| format!("{verb} tcp {own}->{server}: {}", failure(verb, error));
    let length = u16::try_from(bytes.len()).map_err(|_| "cannot marshal DNS message")?;
    let framed = [&length.to_be_bytes()[..], bytes].concat();
    let written = stream.set_write_timeout(Some(timeout)).and_then(|()| stream.write_all(&framed));
    written.map_err(|error| failed("write", &error))?;
    let mut head = [0; 2];
    read_exactly(&mut stream, &mut head, deadline).map_err(|error| failed("read", &error))?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(head))];
    read_exactly(&mut stream, &mut answer, deadline).map_err(|error| failed("read", &error))?;
    Ok(question.read(&answer, false))
}

fn read_exactly(stream: &mut TcpStream, mut into: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !into.is_empty() {
        let read = uninterrupted(deadline, |left| {
            stream.set_read_timeout(Some(left))?;
            stream.read(into)
        });
        match read? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => into = &mut into[length..],
        }
    }
    Ok(())
}

/// Receives until something has come, also where a signal comes first: a debugger's, or one that stops and continues.
fn uninterrupted(
    deadline: Instant,
    mut receive: impl FnMut(Duration) -> io::Result<usize>,
) -> io::Result<usize> {
    loop {
        match left(deadline).and_then(&mut receive) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}

/// The time that is left; never nothing.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// What follows the addresses: the verb again, where the kernel has said what is wrong.
fn failure(verb: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        _ => format!("{verb}: {}", go_text(error)),
    }
}

fn go_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::answer_to;
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    const NAME: &str = "_etcd-server._tcp.example.com";

    fn settings(servers: Vec<SocketAddr>) -> Settings {
        let mut settings = Settings::read("options attempts:1", "");
        (settings.servers, settings.timeout) = (servers, Duration::from_millis(300));
        settings
    }

    /// A server that answers one question with these datagrams.
    fn server(answers: fn(&[u8]) -> Vec<Vec<u8>>) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut question = [0; 512];
            let (length, from) = socket.recv_from(&mut question).unwrap();
            for answer in answers(&question[..length]) {
                socket.send_to(&answer, from).unwrap();
            }
        });
        address
    }

    fn target(found: Result<Vec<Record>, String>) -> String {
        found.map_or_else(|why| why, |records| records[0].target.clone())
    }

    #[test]
    fn datagrams_of_others_are_waited_past() {
        let answers = |question: &[u8]| {
            let good = answer_to(question, "a.example.com.", false);
            let mut foreign = good.clone();
            foreign[0] ^= 1;
            vec![vec![7; 3], foreign, good]
        };
        assert_eq!(target(look_up(NAME, &settings(vec![server(answers)]))), "a.example.com.");
    }

    #[test]
    fn an_answer_that_was_cut_is_asked_for_again_over_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(address).unwrap();
        let serving = thread::spawn(move || {
            let mut question = [0; 512];
            let (length, from) = socket.recv_from(&mut question).unwrap();
            socket.send_to(&answer_to(&question[..length], "cut.", true), from).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let length = stream.read(&mut question).unwrap();
            let answer = answer_to(&question[2..length], "whole.", false);
            let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
            let (first, rest) = framed.split_at(20);
            stream.write_all(first).unwrap();
            stream.write_all(rest).unwrap();
        });
        assert_eq!(target(look_up(NAME, &settings(vec![address]))), "whole.");
        serving.join().unwrap();
    }

    #[test]
    fn a_server_that_does_not_answer_is_followed_by_the_next_one() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let silent_at = silent.local_addr().unwrap();
        let good = server(|question| vec![answer_to(question, "good.", false)]);
        assert_eq!(target(look_up(NAME, &settings(vec![gone, silent_at, good]))), "good.");
        let why = look_up(NAME, &settings(vec![silent_at])).unwrap_err();
        let begins = format!("lookup {NAME} on {silent_at}: read udp 127.0.0.1:");
        assert!(why.starts_with(&begins) && why.ends_with(&format!("->{silent_at}: i/o timeout")), "{why}");
        let why = look_up(NAME, &settings(vec![gone])).unwrap_err();
        assert!(why.ends_with(&format!("->{gone}: read: connection refused")), "{why}");
        let mut only_tcp = settings(vec![gone]);
        only_tcp.only_tcp = true;
        let refused = format!("lookup {NAME} on {gone}: dial tcp {gone}: connect: connection refused");
        assert_eq!(look_up(NAME, &only_tcp), Err(refused));
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        let nobody = settings(vec![UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()]);
        assert_eq!(look_up("a b", &nobody), Err("lookup a b: no such host".to_owned()));
        let odd = server(|question| vec![answer_to(question, "a\\032b.", false)]);
        let why = "lookup example.com: DNS response contained records which contain invalid names";
        assert_eq!(look_up(NAME, &settings(vec![odd])), Err(why.to_owned()));
    }
}
