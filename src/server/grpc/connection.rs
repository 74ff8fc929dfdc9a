//! One HTTP/2 connection and its task.
//!
//! A turn of the task, as measured to cost least:
//!
//! ```text
//!   1  h2 reads everything that has arrived; requests are collected
//!   2  each request whose message is whole is answered on the spot, by a plain call of its handler
//!      (others get a task: a body in several reads, a stream)
//!   3  h2 writes the answers into the wire's buffer, and frames that other tasks queued in the meantime
//!   4  nothing more to do: one send, unless all there is to send can wait for an answer, and sleep
//! ```
//!
//! A turn ends early after [`TURN_REQUESTS_MAX`] requests or 256 KB read, so that a hot connection does not own
//! the core. While more than [`CONNECTION_UNSENT_MAX`](super::account::CONNECTION_UNSENT_MAX) bytes of answers wait for a client that does not read, its
//! further requests wait too.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection as H2, SendResponse};
use http::Request;

use super::calls::{Call, Shared};
use super::frame::Frame;
use super::head::{Head, Metadata, Refusal, examine};
use super::keepalive::{Action, Keepalive, Strikes};
use super::method::{Kind, Method, unknown};
use super::pongs::Waits;
use super::reader::Reader;
use super::status::{Code, Status};
use super::{Core, stream};
use crate::server::io::clock;
use crate::server::io::stop::{Membership, Phase};
use crate::server::io::task::{self, Alarm};
use crate::server::io::turns::Standing;
use crate::server::io::wire::{ByteStream, Wire};
use crate::stdx::time::{Duration, Instant};

/// Requests dispatched before other tasks of the core run.
const TURN_REQUESTS_MAX: usize = 256;
/// Answers of a turn up to which a connection that only reads goes ahead of others.
const LITTLE_BYTES: usize = 16 * 1024;
/// How long a connection that we end may take to receive our last words.
const LINGER: Duration = Duration::from_secs(1);
const CARDINALITY: &str =
    "cardinality violation: received multiple request messages for non-client-streaming RPC";

type Accepted = (Request<RecvStream>, SendResponse<Frame>);

/// Serves one client until it goes, misbehaves, or the core stops. `first` are the bytes already read.
pub async fn serve<S: ByteStream>(
    core: Rc<Core>,
    stream: S,
    first: Bytes,
    peer: std::net::SocketAddr,
    membership: Membership,
    standing: Standing,
) {
    let wire = Wire::new(stream, first);
    let shared = Shared::new(core.clone(), peer);
    core.counters.opened.add(1);
    // Only fails when the client goes in the middle of it: the preface is in `first` already.
    if let Ok(h2) = Box::pin(core.settings.builder().handshake(wire.clone())).await {
        let mut connection = Box::new(Connection {
            h2,
            wire: wire.clone(),
            shared: shared.clone(),
            membership,
            queue: Vec::with_capacity(8),
            standing,
            waits: Waits::default(),
            strikes: Strikes::new(core.settings.ping_interval_min),
            keepalive: Keepalive::new(core.settings.ping_after, core.settings.ping_timeout),
            pings: None,
            alarm: None,
            draining: false,
            last_stream: 0,
        });
        poll_fn(|cx| connection.poll(cx)).await;
    }
    shared.abandon();
    task::until(clock::now() + LINGER, wire.linger()).await;
    core.counters.closed.add(1);
}

struct Connection<S> {
    h2: H2<Wire<S>, Frame>,
    wire: Wire<S>,
    shared: Rc<Shared>,
    membership: Membership,
    /// Requests of this turn; empty between turns.
    queue: Vec<Accepted>,
    standing: Standing,
    waits: Waits,
    strikes: Strikes,
    keepalive: Keepalive,
    pings: Option<h2::PingPong>,
    alarm: Option<Alarm>,
    draining: bool,
    /// The last stream we worked on, for our own GOAWAY.
    last_stream: u32,
}

impl<S: ByteStream> Connection<S> {
    /// One turn. Ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wire.begin_turn();
        self.shared.set_task(cx.waker());
        match self.membership.watch(cx.waker()) {
            Phase::Running => {}
            Phase::Draining if self.draining => {}
            Phase::Draining => {
                self.draining = true;
                self.h2.graceful_shutdown();
            }
            Phase::Closed => return Poll::Ready(()),
        }
        let mut dispatched = 0;
        loop {
            let full = self.shared.account.is_full();
            if self.collect(cx, full).is_ready() {
                return Poll::Ready(());
            }
            let pings = self.wire.take_pings();
            if pings > 0 && self.are_too_many(pings) {
                return Poll::Ready(());
            }
            if self.queue.is_empty() {
                // Frames written during `collect` may have made room for requests that waited.
                if full && !self.shared.account.is_full() {
                    continue;
                }
                if !self.on_time(cx) {
                    continue;
                }
                return self.send(cx);
            }
            dispatched += self.queue.len();
            let mut queue = std::mem::take(&mut self.queue);
            let now = clock::now();
            self.shared.writes.set(false);
            for (request, respond) in queue.drain(..) {
                self.last_stream = respond.stream_id().as_u32();
                dispatch(&self.shared, cx, now, request, respond);
            }
            self.queue = queue;
            if dispatched >= TURN_REQUESTS_MAX {
                task::wake_later(cx.waker());
                // h2 still has to write the answers: with the queue full this accepts nothing.
                if self.collect(cx, true).is_ready() {
                    return Poll::Ready(());
                }
                return self.send(cx);
            }
        }
    }

    /// Lets h2 read and write, and collects requests unless the connection is full. Ready when it is over.
    fn collect(&mut self, cx: &mut Context<'_>, full: bool) -> Poll<()> {
        if full {
            return self.h2.poll_closed(cx).map(|_| ());
        }
        while self.queue.len() < TURN_REQUESTS_MAX {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok(accepted))) => self.queue.push(accepted),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }

    /// Sends what this turn has written.
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.standing.set(!self.shared.writes.get() && self.wire.wrote() <= LITTLE_BYTES);
        let asked = self.wire.take_data_seen();
        if asked
            && self.wire.holds_only_pongs()
            && self.shared.core.pongs.may_wait(&mut self.waits, cx.waker())
        {
            return Poll::Pending;
        }
        self.waits.end();
        match self.wire.push(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()), // the client has gone
            _ => Poll::Pending,
        }
    }

    fn are_too_many(&mut self, pings: u32) -> bool {
        let wrote = self.shared.account.take_wrote();
        let calls_open = self.h2.has_streams();
        if !self.strikes.on_pings(pings, clock::now(), wrote, calls_open) {
            return false;
        }
        self.wire.append(&too_many_pings(self.last_stream));
        true
    }

    /// Looks after deadlines and silence, and sleeps no longer than until the next of them. False when h2 was
    /// given something to write.
    fn on_time(&mut self, cx: &mut Context<'_>) -> bool {
        let keepalive = self.keepalive.due(self.wire.last_read());
        let due = self.shared.next_deadline().map_or(keepalive, |deadline| deadline.min(keepalive));
        // An alarm that rings too early is set anew then: each read moves the keepalive's instant.
        match &mut self.alarm {
            Some(alarm) if alarm.due() <= due => {}
            stale => *stale = Some(Alarm::at(due)),
        }
        if self.alarm.as_mut().expect("just set").poll(cx).is_pending() {
            return true;
        }
        self.alarm = None;
        let now = clock::now();
        self.shared.expire(now);
        match self.keepalive.on_time(now, self.wire.last_read()) {
            Action::Wait => {}
            Action::Ping => self.ping(cx),
            Action::Close => self.h2.abrupt_shutdown(h2::Reason::NO_ERROR),
        }
        false
    }

    fn ping(&mut self, cx: &mut Context<'_>) {
        if self.pings.is_none() {
            self.pings = self.h2.ping_pong();
        }
        let pings = self.pings.as_mut().expect("taken once, kept since");
        // The pong to the last ping, if any: only then another may be sent. That a client is alive shows in
        // what it sends, whatever it is.
        let _ = pings.poll_pong(cx);
        let _ = pings.send_ping(h2::Ping::opaque());
    }
}

/// GOAWAY with ENHANCE_YOUR_CALM and the debug data that grpc clients look for, which h2 has no way to send.
fn too_many_pings(last_stream: u32) -> Vec<u8> {
    const REASON: &[u8] = b"too_many_pings";
    const ENHANCE_YOUR_CALM: u32 = 0xb;
    const GOAWAY: u8 = 7;
    let mut frame = vec![0, 0, 8 + REASON.len() as u8, GOAWAY, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&last_stream.to_be_bytes());
    frame.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    frame.extend_from_slice(REASON);
    frame
}

/// Answers a request on the spot if its message is whole, or starts what will.
fn dispatch(
    shared: &Rc<Shared>,
    cx: &mut Context<'_>,
    now: Instant,
    request: Request<RecvStream>,
    mut respond: SendResponse<Frame>,
) {
    let (parts, body) = request.into_parts();
    let core = &shared.core;
    let Head { deadline, encoding } = match examine(&parts, now) {
        Ok(head) => head,
        Err(Refusal::Reset) => return respond.send_reset(h2::Reason::PROTOCOL_ERROR),
        Err(Refusal::Answer(http, status)) => {
            // An error here and below says that the client has gone.
            let _ = respond.send_response(core.templates.refusal(http, &status), true);
            return;
        }
    };
    let Some(method) = Method::from_path(parts.uri.path()) else {
        let status = Status::new(Code::Unimplemented, unknown(parts.uri.path()));
        let _ = respond.send_response(core.templates.refusal(http::StatusCode::OK, &status), true);
        return;
    };
    core.counters.of(method).started.add(1);
    let metadata = Metadata::new(parts.headers);
    let call = Call { method, metadata, deadline, peer: shared.peer };
    if let Some(encoding) = &encoding {
        return shared.refuse(method, respond, &super::frame::not_installed(encoding));
    }
    if !method.is_read() {
        shared.writes.set(true);
    }
    if method.kind() != Kind::Unary {
        let (incoming, outgoing, state) = stream::halves(shared, method, (body, encoding), respond);
        if let Some(at) = deadline {
            shared.expire_stream_at(at, &state);
        }
        return core.api.stream(call, incoming, outgoing);
    }
    let mut reader = Reader::new(body, encoding, shared.clone());
    match reader.poll_message(cx) {
        Poll::Ready(message) => answer(shared, call, &reader, message, respond),
        Poll::Pending => {
            task::spawn(answer_later(shared.clone(), call, reader, respond));
        }
    }
}

/// Waits for the rest of a unary request, and until its connection may answer.
async fn answer_later(shared: Rc<Shared>, call: Call, mut reader: Reader, respond: SendResponse<Frame>) {
    let deadline = call.deadline;
    let waiting = async {
        let message = poll_fn(|cx| reader.poll_message(cx)).await;
        if let Some(Ok(message)) = &message {
            shared.answerable(message.len()).await;
        }
        message
    };
    let message = match deadline {
        None => waiting.await,
        Some(at) => task::until(at, waiting).await.unwrap_or(Some(Err(Status::deadline_exceeded()))),
    };
    answer(&shared, call, &reader, message, respond);
}

/// Hands a unary request to its handler once its message, or the lack of one, is known.
fn answer(
    shared: &Rc<Shared>,
    call: Call,
    reader: &Reader,
    message: Option<Result<Bytes, Status>>,
    respond: SendResponse<Frame>,
) {
    match message {
        Some(Ok(_)) if reader.has_more() => {
            shared.refuse(call.method, respond, &Status::new(Code::Internal, CARDINALITY));
        }
        Some(Ok(message)) => shared.dispatch(call, message, respond),
        Some(Err(status)) => shared.refuse(call.method, respond, &status),
        None => {
            // etcd never answers this one.
            let text = "cardinality violation: received no request message from non-client-streaming RPC";
            shared.refuse(call.method, respond, &Status::new(Code::Internal, text));
        }
    }
}
