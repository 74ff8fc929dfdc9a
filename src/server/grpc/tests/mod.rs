//! The transport from outside: an executor with an echoing [`Api`] behind a real listener, clients of the h2
//! crate, and raw sockets that misbehave.
//!
//! [`calls`] has what is asked and answered, [`streams`] what is answered in many messages or in slices, [`endings`]
//! how calls and connections end before their answers, [`pings`] the signs of life, [`turns`] how clients share a
//! core, and [`hostile`] what no honest client sends. This page has the server, the clients, and frames by hand.
#![forbid(unsafe_code)]

mod calls;
mod endings;
mod hostile;
mod pings;
mod streams;
mod turns;

use std::cell::RefCell;
use std::future::poll_fn;
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
use crate::server::gzip;
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
                        let Ok(room) = poll_fn(|cx| answer.poll_room(cx)).await else { break };
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
                while poll_fn(|cx| outgoing.poll_room(cx)).await.is_ok() {
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
                let services = Services {
                    grpc: Some(core),
                    admin: None,
                    stop: stop.clone(),
                    turns: Turns::start(),
                    security: None,
                };
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

/// Waits until something holds; the test's time limit is the bound.
async fn eventually(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
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
