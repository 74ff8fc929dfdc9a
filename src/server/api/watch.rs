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
use crate::btree::Snapshot;
use crate::mvcc::View;
use crate::proto::etcdserverpb::WatchRequest;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::server::grpc::{Code, Incoming, Messages, Outgoing, Status};
use crate::server::io::{clock, task};
use crate::server::session::{Member, Session};
use crate::stdx::prng::Prng;
use crate::stdx::time::{Duration, Instant};
use crate::watch::encode::Identity;
use crate::watch::{Budget, EventBatch, Hub, HubConfig, HubStats, StreamId};

/// The shortest progress interval.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How much of the past is read in one turn for all watchers that catch up.
const CATCH_UP: Budget = Budget { revisions: 1000, bytes: 1 << 20 };

/// Responses are sent in pieces of about this many bytes: two DATA frames.
pub const PIECE_BYTES: usize = 32 * 1024;

/// The watch streams of one session core.
pub struct Watches {
    hub: RefCell<Hub>,
    streams: RefCell<HashMap<StreamId, Rc<Stream>>>,
    jitter: RefCell<Prng>,
    interval: Duration,
    /// Streams written to since the last pump, to be asked how much room is left.
    touched: RefCell<Vec<Rc<Stream>>>,
}

struct Stream {
    id: StreamId,
    outgoing: RefCell<Option<Outgoing>>,
    /// The stream has no room: its task must wait for some.
    blocked: Cell<bool>,
    touched: Cell<bool>,
    task: RefCell<Option<Waker>>,
    /// Responses to be sent together at the end of the pump's round.
    collected: RefCell<Messages>,
}

impl Watches {
    /// No streams; every batch after `revision` will be published.
    pub fn new(member: &Member, revision: i64, seed: u64) -> Self {
        let mut jitter = Prng::new(seed);
        let identity = Identity { cluster_id: member.cluster_id, member_id: member.member_id, raft_term: 0 };
        let config =
            HubConfig { identity, max_request_bytes: member.max_request_bytes, seed: jitter.next_u64() };
        Self {
            hub: RefCell::new(Hub::new(config, revision)),
            streams: RefCell::new(HashMap::new()),
            jitter: RefCell::new(jitter),
            interval: member.progress_interval.max(PROGRESS_INTERVAL_MIN),
            touched: RefCell::new(Vec::new()),
        }
    }

    /// The events of one revision, in the order of revisions.
    pub fn publish(&self, batch: &EventBatch, view: &View<'_, Snapshot<'_>>) {
        self.hub.borrow_mut().on_publish(batch, view);
    }

    /// The term that headers carry from now on.
    pub fn set_term(&self, term: u64) {
        self.hub.borrow_mut().set_term(term);
    }

    /// Reads a slice of the past for watchers that catch up.
    pub fn catch_up(&self, view: &View<'_, Snapshot<'_>>) {
        self.hub.borrow_mut().catch_up(view, CATCH_UP);
    }

    /// Whether watchers wait for a slice of the past, and have room for it.
    pub fn needs_catch_up(&self) -> bool {
        self.hub.borrow().needs_catch_up()
    }

    /// Sends the progress notifications that are due.
    pub fn tick(&self, now: Instant) {
        self.hub.borrow_mut().tick(now);
    }

    /// Whether there are streams.
    pub fn is_open(&self) -> bool {
        !self.streams.borrow().is_empty()
    }

    /// Counts, for metrics.
    pub fn stats(&self) -> HubStats {
        self.hub.borrow().stats()
    }

    /// Writes what the hub has to say, and tells it how much room is left. True if watchers then wait for a slice of
    /// the past, perhaps only since now, for this very room: the session loop must have a turn.
    #[must_use = "nobody else will see to the watchers that are behind"]
    pub fn pump(&self) -> bool {
        let mut hub = self.hub.borrow_mut();
        let streams = self.streams.borrow();
        let mut touched = self.touched.borrow_mut();
        loop {
            while let Some(output) = hub.poll_output() {
                let Some(stream) = streams.get(&output.stream) else { continue };
                stream.collect(&output.head, output.body);
                if !stream.touched.replace(true) {
                    touched.push(stream.clone());
                }
            }
            if touched.is_empty() {
                return hub.needs_catch_up();
            }
            for stream in touched.drain(..) {
                stream.touched.set(false);
                stream.send(None);
                let room = stream.outgoing.borrow().as_ref().map_or(0, Outgoing::room);
                hub.on_window(stream.id, room);
                if room == 0 && !stream.blocked.replace(true) {
                    stream.wake();
                }
            }
        }
    }

    /// Ends all streams: the member stops.
    pub fn close_all(&self) {
        let streams: Vec<Rc<Stream>> = self.streams.borrow().values().cloned().collect();
        for stream in streams {
            self.close(&stream, Status::stopped());
            stream.wake();
        }
    }

    fn open(&self, outgoing: Outgoing) -> Rc<Stream> {
        let tenth = u64::try_from(self.interval.as_nanos() / 10).unwrap_or(u64::MAX).max(1);
        let interval = self.interval + Duration::from_nanos(self.jitter.borrow_mut().below(tenth));
        let id = self.hub.borrow_mut().open(clock::now(), interval, outgoing.room());
        let stream = Rc::new(Stream {
            id,
            outgoing: RefCell::new(Some(outgoing)),
            blocked: Cell::new(false),
            touched: Cell::new(false),
            task: RefCell::new(None),
            collected: RefCell::new(Messages::default()),
        });
        self.streams.borrow_mut().insert(id, stream.clone());
        stream
    }

    fn close(&self, stream: &Stream, status: Status) {
        self.hub.borrow_mut().close(stream.id);
        self.streams.borrow_mut().remove(&stream.id);
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
        let status = loop {
            let event = poll_fn(|cx| {
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
            });
            match event.await {
                Event::Message(message) => match decode(message) {
                    Ok(request) => on_request(&session, stream.id, &request),
                    Err(status) => break status,
                },
                Event::HalfClosed => half_closed = true,
                Event::Room(room) => {
                    stream.blocked.set(false);
                    session.watches.hub.borrow_mut().on_window(stream.id, room);
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
    let mut hub = session.watches.hub.borrow_mut();
    hub.set_term(session.gate().term());
    match &request.request_union {
        Some(RequestUnion::CreateRequest(create)) => {
            session.view(|view| hub.create(clock::now(), id, create, view));
        }
        Some(RequestUnion::CancelRequest(cancel)) => hub.cancel(id, cancel.watch_id),
        Some(RequestUnion::ProgressRequest(_)) => session.view(|view| hub.progress(id, view)),
        // A kind of request that a newer client knows.
        None => {}
    }
}
