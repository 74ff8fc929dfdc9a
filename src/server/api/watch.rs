//! The Watch service: streams of this core's connections in front of its [`Hub`].
//!
//! ```text
//!   task of a stream: reads requests ──▶ Hub ──▶ pump ──▶ Outgoing of each stream, as far as there is room
//!   session loop:     publishes batches ──▶ Hub ──▶ pump
//! ```
//!
//! The hub knows how much room each stream has and parks the watchers of one that has none; the stream's task waits
//! for room and tells the hub.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::decode::decode;
use crate::proto::etcdserverpb::WatchRequest;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::server::grpc::frame::unsendable;
use crate::server::grpc::{Code, Incoming, Messages, Outgoing, Status};
use crate::server::io::{clock, task};
use crate::server::session::{Member, Session};
use crate::session::{self, Transport};
use crate::stdx::prng::Prng;
use crate::stdx::time::{Duration, Instant};
use crate::watch::encode::Identity;
use crate::watch::hub::RESPONSE_BYTES_MAX;
use crate::watch::{Budget, Hub, HubConfig, HubStats, Output, StreamId};

/// The shortest progress interval.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How much of the past is read in one turn for all watchers that catch up.
const CATCH_UP: Budget = Budget { revisions: 1000, bytes: 1 << 20 };
/// How long one stream's requests may keep other tasks of the core waiting.
const TURN_TIME_MAX: Duration = Duration::from_millis(1);

/// Responses are sent in pieces of about this many bytes: two DATA frames.
pub const PIECE_BYTES: usize = 32 * 1024;

/// The watch streams of one session core.
pub struct Watches {
    core: RefCell<session::Watches>,
    outlets: RefCell<Outlets>,
    jitter: RefCell<Prng>,
    interval: Duration,
}

/// The gRPC streams of a core's watches.
#[derive(Default)]
struct Outlets(HashMap<StreamId, Rc<Stream>>);

struct Stream {
    id: StreamId,
    outgoing: RefCell<Option<Outgoing>>,
    /// The stream has no room: its task must wait for some.
    blocked: Cell<bool>,
    task: RefCell<Option<Waker>>,
    /// Responses to be sent together when the stream is flushed.
    collected: RefCell<Messages>,
}

impl Transport for Outlets {
    fn send(&mut self, output: Output) {
        // Nobody is left to tell when the stream was closed meanwhile.
        if let Some(stream) = self.0.get(&output.stream) {
            stream.collect(&output.head, output.body);
        }
    }

    fn end_too_long(&mut self, stream: StreamId, bytes: usize) {
        let Some(stream) = self.0.remove(&stream) else { return };
        stream.send(None);
        if let Some(outgoing) = stream.outgoing.borrow_mut().take() {
            outgoing.finish(Err(unsendable(bytes, RESPONSE_BYTES_MAX, true)));
        }
        stream.wake();
    }

    fn flush(&mut self, stream: StreamId) -> usize {
        let Some(stream) = self.0.get(&stream) else { return 0 };
        stream.send(None);
        let room = stream.outgoing.borrow().as_ref().map_or(0, Outgoing::room);
        if room == 0 && !stream.blocked.replace(true) {
            stream.wake();
        }
        room
    }
}

impl Watches {
    /// No streams; every batch after `revision` will be published.
    pub fn new(member: &Member, revision: i64, seed: u64) -> Self {
        let mut jitter = Prng::new(seed);
        let identity = Identity { cluster_id: member.cluster_id, member_id: member.member_id, raft_term: 0 };
        let config = HubConfig {
            identity,
            max_request_bytes: member.max_request_bytes,
            response_bytes_max: RESPONSE_BYTES_MAX,
            seed: jitter.next_u64(),
            ..HubConfig::default()
        };
        Self {
            core: RefCell::new(session::Watches::new(config, revision, CATCH_UP)),
            outlets: RefCell::default(),
            jitter: RefCell::new(jitter),
            interval: member.progress_interval.max(PROGRESS_INTERVAL_MIN),
        }
    }

    /// Shows the deterministic part and the way to the streams.
    pub fn with<T>(&self, step: impl FnOnce(&mut session::Watches, &mut dyn Transport) -> T) -> T {
        step(&mut self.core.borrow_mut(), &mut *self.outlets.borrow_mut())
    }

    fn with_hub<T>(&self, step: impl FnOnce(&mut Hub) -> T) -> T {
        step(self.core.borrow_mut().hub())
    }

    /// The term that headers carry from now on.
    pub fn set_term(&self, term: u64) {
        self.with_hub(|hub| hub.set_term(term));
    }

    /// Sends the progress notifications that are due. True if the session loop must have a turn.
    #[must_use = "nobody else sees to the watchers that are behind"]
    pub fn tick(&self, now: Instant) -> bool {
        self.with_hub(|hub| hub.tick(now));
        self.pump()
    }

    /// Whether there are streams.
    pub fn is_open(&self) -> bool {
        !self.outlets.borrow().0.is_empty()
    }

    /// Counts, for metrics.
    pub fn stats(&self) -> HubStats {
        self.with_hub(|hub| hub.stats())
    }

    /// Sends what the hub has to say. True if the session loop must have a turn.
    #[must_use = "nobody else sees to the watchers that are behind"]
    pub fn pump(&self) -> bool {
        self.with(|watches, transport| watches.pump(transport))
    }

    /// Ends all streams: the member stops.
    pub fn close_all(&self) {
        let streams: Vec<Rc<Stream>> = self.outlets.borrow().0.values().cloned().collect();
        for stream in streams {
            self.close(&stream, Status::stopped());
            stream.wake();
        }
    }

    fn open(&self, outgoing: Outgoing) -> Rc<Stream> {
        let tenth = u64::try_from(self.interval.as_nanos() / 10).unwrap_or(u64::MAX).max(1);
        let interval = self.interval + Duration::from_nanos(self.jitter.borrow_mut().below(tenth));
        let id = self.with_hub(|hub| hub.open(clock::now(), interval, outgoing.room()));
        let stream = Rc::new(Stream {
            id,
            outgoing: RefCell::new(Some(outgoing)),
            blocked: Cell::new(false),
            task: RefCell::new(None),
            collected: RefCell::new(Messages::default()),
        });
        self.outlets.borrow_mut().0.insert(id, stream.clone());
        stream
    }

    fn close(&self, stream: &Stream, status: Status) {
        self.with_hub(|hub| hub.close(stream.id));
        self.outlets.borrow_mut().0.remove(&stream.id);
        if let Some(outgoing) = stream.outgoing.borrow_mut().take() {
            outgoing.finish(Err(status));
        }
    }
}

impl Stream {
    /// Takes a response to the others that will go out together.
    fn collect(&self, head: &[u8], body: Bytes) {
        let rest = self.collected.borrow_mut().push(head, body);
        if rest.is_some() || self.collected.borrow().len() >= PIECE_BYTES {
            self.send(rest);
        }
    }

    /// Sends what was collected, and the body of the last response if it was left out.
    fn send(&self, rest: Option<Bytes>) {
        let mut collected = self.collected.borrow_mut();
        if let (false, Some(outgoing)) = (collected.is_empty(), &mut *self.outgoing.borrow_mut()) {
            // The stream's task learns of a client that has gone from its own polling.
            let _ = outgoing.send_messages(&mut collected, rest);
        }
    }

    fn wake(&self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.wake();
        }
    }

    /// Ready when the client has gone, or with room after there was none.
    fn poll_outgoing(&self, cx: &mut Context<'_>) -> Poll<Result<usize, Status>> {
        *self.task.borrow_mut() = Some(cx.waker().clone());
        let mut outgoing = self.outgoing.borrow_mut();
        let Some(outgoing) = &mut *outgoing else { return Poll::Ready(Err(Status::canceled())) };
        if self.blocked.get() {
            return outgoing.poll_room(cx);
        }
        outgoing.poll_gone(cx).map(Err)
    }
}

enum Event {
    Message(Bytes),
    HalfClosed,
    Room(usize),
    Over(Status),
}

/// Serves one watch stream until its client goes. A half-close is no end: the JSON gateway depends on it.
pub fn serve(session: &Rc<Session>, mut incoming: Incoming, outgoing: Outgoing) {
    let session = session.clone();
    let stream = session.watches.open(outgoing);
    session.stir();
    task::spawn(async move {
        let mut half_closed = false;
        let mut turn_began = None;
        let status = loop {
            let now = clock::now();
            if now.since(*turn_began.get_or_insert(now)) > TURN_TIME_MAX {
                task::yield_now().await;
                turn_began = None;
            }
            let mut poll_event = |cx: &mut Context<'_>| {
                match stream.poll_outgoing(cx) {
                    Poll::Ready(Err(status)) => return Poll::Ready(Event::Over(status)),
                    Poll::Ready(Ok(room)) => return Poll::Ready(Event::Room(room)),
                    Poll::Pending => {}
                }
                // A stream without room is not read: what it asks for would pile up.
                if half_closed || stream.blocked.get() {
                    return Poll::Pending;
                }
                incoming.poll_next(cx).map(|message| match message {
                    Some(Ok(message)) => Event::Message(message),
                    Some(Err(status)) => Event::Over(status),
                    None => Event::HalfClosed,
                })
            };
            let event = poll_fn(|cx| {
                let event = poll_event(cx);
                if event.is_pending() {
                    // The others have their turn.
                    turn_began = None;
                }
                event
            });
            match event.await {
                Event::Message(message) => match decode(message) {
                    Ok(request) => on_request(&session, stream.id, &request),
                    Err(status) => break status,
                },
                Event::HalfClosed => half_closed = true,
                Event::Room(room) => {
                    stream.blocked.set(false);
                    session.watches.with_hub(|hub| hub.on_window(stream.id, room));
                }
                Event::Over(status) => break status,
            }
            if session.watches.pump() {
                session.wake_loop();
            }
        };
        // etcd's words for a client that takes its stream back.
        let status = if status.code == Code::Canceled {
            Status::new(Code::Canceled, "etcdserver: watch canceled")
        } else {
            status
        };
        session.watches.close(&stream, status);
    });
}

fn on_request(session: &Rc<Session>, id: StreamId, request: &WatchRequest) {
    let term = session.gate().term();
    session.watches.with_hub(|hub| {
        hub.set_term(term);
        match &request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                session.view(|view| hub.create(clock::now(), id, create, view));
            }
            Some(RequestUnion::CancelRequest(cancel)) => hub.cancel(id, cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => session.view(|view| hub.progress(id, view)),
            // A kind of request that a newer client knows.
            None => {}
        }
    });
}
