//! The transport from outside: an executor with an echoing [`Api`] behind a real listener, clients of the h2
//! crate, and raw sockets that misbehave.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request};

use super::*;
use crate::server::boot::listener::{self, Desk, Services};
use crate::server::io::accept::Admission;
use crate::server::io::stop::{Phase, Stop};
use crate::server::io::turns::Turns;
use crate::server::io::{clock, socket, task};

/// Methods by what [`Echo`] does with a call of theirs.
///
/// Answers with the message it got.
const RANGE: &str = "/etcdserverpb.KV/Range";
/// Answers with the message it got, a little later.
const ECHO_LATER: &str = "/etcdserverpb.KV/Put";
/// Never answers.
const NO_ANSWER: &str = "/etcdserverpb.KV/Compact";
/// Never answers, and notes when the client takes the call back.
const NOTES_CANCEL: &str = "/v3lockpb.Lock/Lock";
/// Answers with as many bytes as the message says, in slices.
const LONG_ANSWER: &str = "/etcdserverpb.Lease/LeaseLeases";
/// Answers with an error.
const FAILS: &str = "/etcdserverpb.KV/Txn";
/// Keeps its core for a while and answers with the message it got.
const WORKS: &str = "/etcdserverpb.Cluster/MemberList";
/// Sends every message back.
const ECHO_STREAM: &str = "/etcdserverpb.Watch/Watch";
/// Sends without an end.
const ENDLESS_STREAM: &str = "/etcdserverpb.KV/RangeStream";

/// How long [`WORKS`] does.
const WORK: Duration = Duration::from_micros(300);

/// Answers each method as its name above says.
struct Echo {
    held: RefCell<Vec<Responder>>,
    seen: Arc<Seen>,
}

/// What the handlers saw, for tests to look at.
#[derive(Default)]
struct Seen {
    canceled: AtomicUsize,
    written: AtomicU64,
    stream_ends: AtomicUsize,
    /// Calls that kept the core since a timer of that core last rang, and the most of them.
    streak: AtomicUsize,
    longest_streak: AtomicUsize,
}

impl Api for Echo {
    fn unary(&self, call: Call, message: Bytes, reply: Responder) {
        match call.method {
            Method::Range => reply.send(Ok(message)),
            Method::Put => task::spawn(async move {
                task::sleep(Duration::from_millis(5)).await;
                reply.send(Ok(message));
            }),
            Method::MemberList => {
                let end = clock::now() + WORK;
                while clock::now() < end {}
                let streak = self.seen.streak.fetch_add(1, Ordering::SeqCst) + 1;
                self.seen.longest_streak.fetch_max(streak, Ordering::SeqCst);
                reply.send(Ok(message));
            }
            Method::Compact => self.held.borrow_mut().push(reply),
            Method::Lock => {
                let seen = self.seen.clone();
                task::spawn(async move {
                    while reply.is_wanted() {
                        task::sleep(Duration::from_millis(1)).await;
                    }
                    seen.canceled.fetch_add(1, Ordering::SeqCst);
                });
            }
            Method::LeaseLeases => {
                let total = std::str::from_utf8(&message).unwrap().parse().unwrap();
                let Some(mut answer) = reply.stream(total) else { return };
                let seen = self.seen.clone();
                task::spawn(async move {
                    while answer.left() > 0 {
                        let Ok(room) = answer.has_room().await else { break };
                        let slice = vec![b'x'; room.min(answer.left()).min(64 * 1024)];
                        seen.written.fetch_add(slice.len() as u64, Ordering::SeqCst);
                        answer.write(slice.into());
                        task::yield_now().await;
                    }
                    if answer.left() == 0 {
                        answer.finish();
                    } else {
                        seen.canceled.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            _ => reply.fail(&Status::new(Code::NotFound, "nothing\nhere")),
        }
    }

    fn stream(&self, call: Call, mut incoming: Incoming, mut outgoing: Outgoing) {
        let seen = self.seen.clone();
        task::spawn(async move {
            let mut end = Ok(());
            if call.method == Method::RangeStream {
                while outgoing.has_room().await.is_ok() {
                    seen.written.fetch_add(1000, Ordering::SeqCst);
                    if outgoing.send(vec![b'y'; 1000].into()).is_err() {
                        break;
                    }
                }
            } else {
                while let Some(message) = incoming.next().await {
                    match message {
                        Ok(message) => drop(outgoing.send(message)),
                        Err(status) => {
                            end = Err(status);
                            break;
                        }
                    }
                }
            }
            outgoing.finish(end);
            seen.stream_ends.fetch_add(1, Ordering::SeqCst);
        });
    }
}

/// A serving core on a thread of its own.
struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
    counters: Arc<counters::Counters>,
    phase: Arc<AtomicU8>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(settings: Settings) -> Self {
        Self::start_with(settings, Admission::from_descriptor_limit())
    }

    fn start_with(settings: Settings, admission: Arc<Admission>) -> Self {
        let socket = socket::listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = socket.local_addr().unwrap();
        let (seen, counters, phase) = (Arc::<Seen>::default(), Counters::new(), Arc::new(AtomicU8::new(0)));
        let (seen2, seen3) = (seen.clone(), seen.clone());
        let (counters2, phase2) = (counters.clone(), phase.clone());
        let (started, wait) = std::sync::mpsc::channel();
        let run = move || {
            let builder = glommio::LocalExecutorBuilder::default().io_memory(64 << 10).ring_depth(128);
            let executor = builder.make().unwrap();
            executor.run(async move {
                let api = Rc::new(Echo { held: RefCell::default(), seen: seen2 });
                let core = Core::new(api, settings, counters2);
                let stop = Stop::new();
                let services =
                    Services { grpc: Some(core), admin: None, stop: stop.clone(), turns: Turns::start() };
                let listener = socket::accept_on(socket);
                task::spawn(listener::listen(listener, admission, stop.clone(), Desk::new(services)));
                started.send(()).unwrap();
                loop {
                    seen3.streak.store(0, Ordering::SeqCst);
                    match phase2.load(Ordering::SeqCst) {
                        0 => task::sleep(Duration::from_millis(2)).await,
                        1 => {
                            stop.advance(Phase::Draining);
                            stop.drained().await;
                            return;
                        }
                        _ => {
                            stop.advance(Phase::Closed);
                            stop.drained().await;
                            return;
                        }
                    }
                }
            });
        };
        let thread = Some(std::thread::spawn(run));
        wait.recv().unwrap();
        Self { address, seen, counters, phase, thread }
    }

    fn stop(&mut self, phase: u8) {
        self.phase.fetch_max(phase, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }

    /// A socket that has sent the preface and empty SETTINGS.
    fn raw(&self) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        socket.write_all(&frame(4, 0, 0, &[])).unwrap();
        socket
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop(2);
        }
    }
}

use counters::Counters;

type Client = h2::client::SendRequest<Bytes>;

/// Runs a client test against `server`.
fn with_client<F: Future>(server: &Server, test: impl FnOnce(Client) -> F) -> F::Output {
    let mut builder = h2::client::Builder::new();
    builder.data_frame_budget(1 << 20); // h2's own client would take many small answers for an attack
    with_client_built(server, &builder, test)
}

fn with_client_built<F: Future>(
    server: &Server,
    builder: &h2::client::Builder,
    test: impl FnOnce(Client) -> F,
) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (client, connection) = builder.handshake::<_, Bytes>(socket).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        tokio::time::timeout(Duration::from_secs(20), test(client)).await.expect("the test ends in time")
    })
}

fn request(path: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn message(bytes: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(bytes.len() as u32);
    message.put_slice(bytes);
    message.freeze()
}

#[derive(Debug, PartialEq)]
struct Reply {
    http: u16,
    code: String,
    text: String,
    body: Bytes,
}

impl Reply {
    fn error(http: u16, code: Code, text: &str) -> Self {
        Self { http, code: code.digits().into(), text: text.into(), body: Bytes::new() }
    }
}

async fn receive(response: h2::client::ResponseFuture) -> Result<Reply, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len()).unwrap();
        bytes.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    let find = |name: &str| {
        let get = |map: &HeaderMap| map.get(name).map(|value| value.to_str().unwrap().to_owned());
        get(&trailers).or_else(|| get(&head.headers)).unwrap_or_default()
    };
    Ok(Reply {
        http: head.status.as_u16(),
        code: find("grpc-status"),
        text: find("grpc-message"),
        body: bytes.freeze(),
    })
}

async fn call(client: &Client, request: Request<()>, body: Bytes) -> Result<Reply, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, mut stream) = client.send_request(request, false)?;
    stream.send_data(body, true)?;
    receive(response).await
}

fn ok(body: &[u8]) -> Reply {
    Reply { http: 200, code: "0".into(), text: String::new(), body: message(body) }
}

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

/// Waits until something holds; the test's time limit is the bound.
async fn eventually(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

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

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Reads to the end and returns the reason and debug data of the GOAWAY frame, if there was one.
fn goaway(socket: &mut TcpStream) -> Option<(u32, Vec<u8>)> {
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes);
    let (mut rest, mut last) = (&bytes[..], None);
    while rest.len() >= 9 {
        let length = usize::from(rest[1]) << 8 | usize::from(rest[2]);
        let (head, after) = rest.split_at(9);
        let (payload, after) = after.split_at(length.min(after.len()));
        if head[3] == 7 {
            last = Some((u32::from_be_bytes(payload[4..8].try_into().unwrap()), payload[8..].to_vec()));
        }
        rest = after;
    }
    last
}

/// HEADERS of a POST, all fields literal.
fn headers(stream: u32, path: &str, flags: u8, extra: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let base = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "h"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in base.iter().chain(extra) {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "one byte of length");
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(1, flags | 4, stream, &block)
}

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
