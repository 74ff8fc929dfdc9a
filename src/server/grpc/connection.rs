//! One HTTP/2 connection and its task.
//!
//! A turn of the task, as measured to cost least:
//!
//! ```text
//!   1  what has arrived is read; requests are collected
//!   2  each request whose message is whole is answered on the spot, by a plain call of its handler
//!      (others get a task: a body in several reads, a stream); its answer is written at once
//!   3  nothing more to do: one send, unless all there is to send can wait for an answer, and sleep
//! ```
//!
//! A turn ends early after [`TURN_TIME`] or 256 KB read, so that a hot connection does not own the core. While more
//! than [`CONNECTION_UNSENT_MAX`](crate::server::http2::account::CONNECTION_UNSENT_MAX) bytes of answers wait for a
//! client that does not read, its further requests wait too.
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::calls::{Call, Client};
use super::head::{Head, Metadata, examine};
use super::keepalive::{Action, Keepalive, Strikes};
use super::pongs::Waits;
use super::reader::Reader;
use super::shared::{PartialBytes, Shared};
use super::{Core, answer, stream};
use crate::server::call::method::{Kind, Method, unknown};
use crate::server::call::status::{Code, Status};
use crate::server::gzip;
use crate::server::http2::{Field, Http2, Reason, RequestHead, Stream};
use crate::server::io::clock;
use crate::server::io::idle::IdleClient;
use crate::server::io::stop::{Membership, Phase};
use crate::server::io::task::{self, Alarm};
use crate::server::io::turns::Priority;
use crate::server::io::wire::{ByteStream, Wire};
use crate::stdx::time::{Duration, Instant};

/// How long requests are dispatched before other tasks of the core run.
const TURN_TIME: Duration = Duration::from_millis(1);
/// Answers of a turn up to which a connection that only reads goes ahead of others.
const LITTLE_BYTES: usize = 16 * 1024;
/// How long a connection that we end may take to receive our last words.
const LINGER: Duration = Duration::from_secs(1);
/// What a client may take to send a unary request's message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Serves one client until it goes, misbehaves, or the core stops. `first` are the bytes already read.
pub async fn serve<S: ByteStream>(
    core: Rc<Core>,
    stream: S,
    first: Bytes,
    client: Client,
    membership: Membership,
    priority: Priority,
    unasked: IdleClient,
) {
    let shared = Shared::new(core.clone(), client);
    core.counters.opened.add(1);
    let mut connection = Box::new(Connection {
        http2: Http2::new(core.settings.limits(), core.memory.clone()),
        wire: Wire::new(stream, first),
        shared: shared.clone(),
        membership,
        priority,
        waits: Waits::default(),
        strikes: Strikes::new(core.settings.ping_interval_min),
        keepalive: Keepalive::new(core.settings.ping_after, core.settings.ping_timeout),
        alarm: None,
        draining: false,
        unfinished: None,
        unasked: Some(unasked),
    });
    connection.note_unfinished();
    poll_fn(|cx| connection.poll(cx)).await;
    connection.http2.close();
    shared.abandon();
    task::until(clock::now() + LINGER, connection.linger()).await;
    core.counters.closed.add(1);
}

struct Connection<S> {
    http2: Rc<Http2>,
    wire: Wire<S>,
    shared: Rc<Shared>,
    membership: Membership,
    priority: Priority,
    waits: Waits,
    strikes: Strikes,
    keepalive: Keepalive,
    alarm: Option<Alarm>,
    draining: bool,
    /// What the client has begun to say and not finished, and since when.
    unfinished: Option<(u64, Instant)>,
    /// The client has asked for nothing yet, and may have to leave to let others in.
    unasked: Option<IdleClient>,
}

impl<S: ByteStream> Connection<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wire.begin_turn();
        self.http2.begin_turn(cx.waker());
        let polled = self.turn(cx);
        self.http2.end_turn();
        polled
    }

    /// One turn. Ready when the connection is over.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.set_task(cx.waker());
        if let Some(entry) = &self.unasked
            && entry.is_over(cx.waker())
        {
            self.http2.abort(Reason::NoError, b"");
            return Poll::Ready(());
        }
        match self.membership.watch(cx.waker()) {
            Phase::Running => {}
            Phase::Draining if self.draining => {}
            Phase::Draining => {
                self.draining = true;
                self.http2.shut_down();
            }
            Phase::Closed => return Poll::Ready(()),
        }
        let mut end = None;
        loop {
            if self.dispatch(cx, &mut end) {
                task::wake_later(cx.waker());
                return self.send(cx);
            }
            if self.http2.is_clogged() {
                match self.write(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(()), // the client has gone
                    Poll::Pending => return self.on_time(cx),
                }
            }
            // Also while answers wait: it may be the client's word that it takes more.
            match self.wire.poll_read(cx, |bytes| self.http2.receive(bytes)) {
                Poll::Ready(Ok(Some(Ok(())))) => {}
                Poll::Ready(_) => return Poll::Ready(()), // the client has gone, or is sent away
                Poll::Pending if self.on_time(cx).is_ready() => return Poll::Ready(()),
                Poll::Pending => return self.send(cx),
            }
            self.note_unfinished();
            let pings = self.http2.take_pings();
            if pings > 0 && self.are_too_many(pings) {
                return Poll::Ready(());
            }
        }
    }

    /// Answers the requests that came, or starts what will, while the client takes answers. True once the turn has
    /// lasted too long, which `end` says when it has begun: the clock is read between two requests, and not behind
    /// the last.
    fn dispatch(&mut self, cx: &mut Context<'_>, end: &mut Option<Instant>) -> bool {
        if !self.http2.has_requests() {
            return false;
        }
        let mut now = clock::now();
        let end = *end.get_or_insert(now + TURN_TIME);
        self.shared.writes.set(false);
        while !self.shared.account.is_full()
            && !self.http2.is_clogged()
            && let Some((mut head, stream)) = self.http2.next_request()
        {
            self.unasked = None;
            dispatch(&self.shared, cx, now, &mut head, stream);
            if self.http2.has_requests() {
                now = clock::now();
                if now >= end {
                    return true;
                }
            }
        }
        if self.shared.account.is_full() && self.http2.has_requests() {
            self.shared.account.wake_when_free(cx.waker());
        }
        now >= end
    }

    /// Remembers since when the client has owed us the end of what it says.
    fn note_unfinished(&mut self) {
        let (unfinished, before) = (self.http2.unfinished(), self.unfinished);
        if before.map(|(what, _)| what) != unfinished {
            self.unfinished = unfinished.map(|what| (what, self.wire.last_read()));
        }
    }

    /// Ends a turn: sends what it has written.
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.priority.set(!self.shared.writes.get() && self.http2.wrote() <= LITTLE_BYTES);
        let asked = self.http2.take_data_seen();
        if asked
            && self.http2.holds_only_pongs()
            && self.shared.core.pongs.hold_back(&mut self.waits, cx.waker())
        {
            return Poll::Pending;
        }
        self.waits.end();
        match self.write(cx) {
            Poll::Ready(Err(_)) => return Poll::Ready(()), // the client has gone
            Poll::Ready(Ok(())) if self.http2.is_done() => return Poll::Ready(()),
            // Sending may have made room for the answers to requests that waited.
            Poll::Ready(Ok(())) if self.http2.has_requests() && !self.shared.account.is_full() => {
                task::wake_later(cx.waker());
            }
            _ => {}
        }
        Poll::Pending
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.http2.poll_send(|slices| self.wire.poll_write(cx, slices))
    }

    /// Says what is left to say, and closes.
    async fn linger(&mut self) {
        if poll_fn(|cx| self.write(cx)).await.is_ok() {
            self.wire.linger().await;
        }
    }

    fn are_too_many(&mut self, pings: u32) -> bool {
        let wrote = self.shared.account.take_wrote();
        let calls_open = self.http2.has_streams();
        if !self.strikes.on_pings(pings, clock::now(), wrote, calls_open) {
            return false;
        }
        // The debug data is what grpc clients look for.
        self.http2.abort(Reason::EnhanceYourCalm, b"too_many_pings");
        true
    }

    /// Looks after deadlines and silence, and sleeps no longer than until the next of them. Ready when the client is
    /// dead.
    fn on_time(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let keepalive = self.keepalive.due(self.wire.last_read());
            let unfinished =
                self.unfinished.map(|(_, since)| since + self.shared.core.settings.unfinished_after);
            let due =
                [self.shared.next_deadline(), unfinished].into_iter().flatten().fold(keepalive, Ord::min);
            // An alarm that rings too early is set anew then: each read moves the keepalive's instant.
            let alarm = self.alarm.take().filter(|alarm| alarm.due() <= due);
            let alarm = self.alarm.insert(alarm.unwrap_or_else(|| Alarm::at(due)));
            if alarm.poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.alarm = None;
            let now = clock::now();
            self.shared.expire(now);
            if unfinished.is_some_and(|end| end <= now) {
                self.http2.abort(Reason::EnhanceYourCalm, b"");
                return Poll::Ready(());
            }
            match self.keepalive.on_time(now, self.wire.last_read()) {
                Action::Wait => {}
                Action::Ping => self.http2.ping(),
                Action::Close => {
                    self.http2.abort(Reason::NoError, b"");
                    return Poll::Ready(());
                }
            }
        }
    }
}

/// Answers a request on the spot if its message is whole, or starts what will.
fn dispatch(
    shared: &Rc<Shared>,
    cx: &mut Context<'_>,
    now: Instant,
    request: &mut RequestHead,
    stream: Stream,
) {
    let core = &shared.core;
    let Head { deadline, encoding } = match examine(request, now) {
        Ok(head) => head,
        Err((http, status)) => {
            // An error here and below says that the client has gone.
            let _ = stream.refuse(&answer::refusal(http, &status));
            return;
        }
    };
    let path = String::from_utf8_lossy(request.path.as_ref().map_or(&[][..], Field::value));
    let Some(method) = Method::from_path(&path) else {
        let status = Status::new(Code::Unimplemented, unknown(&path));
        let _ = stream.refuse(&answer::refusal(answer::HTTP_OK, &status));
        return;
    };
    core.counters.of(method).started.add(1);
    let call = Call { method, metadata: Metadata::of(request), deadline, client: shared.client.clone() };
    if let Some(encoding) = &encoding
        && **encoding != *gzip::NAME
    {
        return shared.refuse(method, &stream, None, &super::frame::not_installed(encoding));
    }
    if !method.is_read() {
        shared.writes.set(true);
    }
    if method.kind() != Kind::Unary {
        let (incoming, outgoing, state) = stream::halves(shared, method, encoding, stream);
        if let Some(at) = deadline {
            shared.expire_stream_at(at, &state);
        }
        return core.api.stream(call, incoming, outgoing);
    }
    let packs = encoding.is_some();
    let mut reader = Reader::new(stream.clone(), encoding, shared.clone(), Code::Unknown);
    // A packed message is unpacked in a task of its own, in turn with others.
    match if packs { Poll::Pending } else { reader.poll_message(cx) } {
        Poll::Ready(message) => answer(shared, call, message, stream, packs),
        Poll::Pending => match reader.hold_head(call.metadata.bytes()) {
            Ok(()) => task::spawn(answer_later(shared.clone(), call, reader, stream, packs)),
            Err(status) => shared.refuse(method, &stream, None, &status),
        },
    }
}

/// Waits for the rest of a unary request, and until its connection may answer.
async fn answer_later(shared: Rc<Shared>, call: Call, mut reader: Reader, stream: Stream, packs: bool) {
    let slowest = clock::now() + MESSAGE_TIMEOUT;
    let deadline = call.deadline.map_or(slowest, |deadline| deadline.min(slowest));
    let waiting = async {
        let message = poll_fn(|cx| reader.poll_message(cx)).await;
        // What a message has become counts on while it waits: a few bytes may have been unpacked to millions.
        let length = message.as_ref().map_or(0, |message| message.as_ref().map_or(0, Bytes::len));
        let whole = PartialBytes::count(&*shared, length);
        let place = match &message {
            // `whole` counts the bytes of the message already.
            Some(Ok(_)) => shared.answerable(0).await,
            _ => None,
        };
        (message, place, Some(whole))
    };
    let expired = || (Some(Err(Status::deadline_exceeded())), None, None);
    let (message, place, whole) = task::until(deadline, waiting).await.unwrap_or_else(expired);
    drop(reader);
    // Many of these may become ready at once: together they are no shorter than a turn of a connection. Their streams
    // may be gone, and others be opened, long before their turn comes.
    let outstanding = shared.account.outstanding();
    task::make_room().await;
    drop((outstanding, whole));
    answer(&shared, call, message, stream, packs);
    drop(place);
}

/// Hands a unary request to its handler once its message, or the lack of one, is known.
fn answer(
    shared: &Rc<Shared>,
    call: Call,
    message: Option<Result<Bytes, Status>>,
    stream: Stream,
    packs: bool,
) {
    match message {
        // What comes behind the message is not looked at, as in grpc-go.
        Some(Ok(message)) => shared.dispatch(call, message, stream, packs),
        Some(Err(status)) => shared.refuse(call.method, &stream, None, &status),
        // When even the head of a request ends its stream, etcd never answers.
        None => shared.refuse(call.method, &stream, None, &Status::new(Code::Unknown, "EOF")),
    }
}
