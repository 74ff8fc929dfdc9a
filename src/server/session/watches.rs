//! The watch streams of one session core: the hub together with the gRPC streams that its responses go to.
//!
//! ```text
//!   task of a stream: reads requests ──▶ Hub ──▶ pump ──▶ Outgoing of each stream, as far as there is room
//!   session loop:     publishes batches ──▶ Hub ──▶ pump
//! ```
//!
//! The hub knows how much room each stream has and parks the watchers of one that has none; the stream's task waits
//! for room and tells the hub. What comes from clients is read by `server/api/watch`.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::Member;
use crate::error::Error;
use crate::server::grpc::frame::unsendable;
use crate::server::grpc::{Code, Messages, Outgoing, Status};
use crate::server::io::clock;
use crate::session::{self, Transport};
use crate::stdx::prng::Prng;
use crate::stdx::time::{Duration, Instant};
use crate::stdx::waker::WakerCell;
use crate::watch::encode::Identity;
use crate::watch::hub::RESPONSE_BYTES_MAX;
use crate::watch::{Budget, Fault, Hub, HubConfig, HubStats, Output, Part, StreamId};

/// How much is handed out in one piece of work, and how much of the past is read for all watchers that catch up.
const CATCH_UP: Budget = Budget { revisions: 1000, bytes: 256 << 10, looks: 1 << 14 };

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
struct Outlets {
    streams: HashMap<StreamId, Rc<Stream>>,
    /// One of them that was looked up last: the next response is likely to go there too.
    last: Option<Rc<Stream>>,
}

/// One stream and its client.
pub struct Stream {
    id: StreamId,
    outgoing: RefCell<Option<Outgoing>>,
    /// Its client wants none of a member that knows no leader.
    requires_leader: bool,
    /// The stream has no room: its task must wait for some.
    blocked: Cell<bool>,
    /// The stream's task reads no requests until a large revision is sent.
    held: Cell<bool>,
    task: WakerCell,
    /// Responses to be sent together when the stream is flushed.
    collected: RefCell<Messages>,
}

impl Transport for Outlets {
    fn send(&mut self, output: Output) {
        // Nobody is left to tell when the stream was closed meanwhile.
        let Some(stream) = self.find(output.stream) else { return };
        match output.part {
            Part::Whole => stream.collect(&output.head, output.body),
            Part::First { total } => stream.send_slice(Some(total), Bytes::copy_from_slice(&output.head)),
            Part::Rest => stream.send_slice(None, output.body),
            Part::End(fault) => self.end(output.stream, fault),
        }
    }

    fn flush(&mut self, stream: StreamId) -> usize {
        let Some(stream) = self.find(stream) else { return 0 };
        stream.send(None);
        let room = stream.outgoing.borrow().as_ref().map_or(0, Outgoing::room);
        let was_held = stream.held.take();
        if (room == 0 && !stream.blocked.replace(true)) || was_held {
            stream.wake();
        }
        room
    }
}

impl Outlets {
    fn find(&mut self, id: StreamId) -> Option<&Stream> {
        if self.last.as_ref().is_none_or(|last| last.id != id) {
            self.last = Some(self.streams.get(&id)?.clone());
        }
        self.last.as_deref()
    }

    fn remove(&mut self, id: StreamId) -> Option<Rc<Stream>> {
        self.last = None;
        self.streams.remove(&id)
    }

    /// A stream that cannot go on.
    fn end(&mut self, id: StreamId, fault: Fault) {
        let Some(stream) = self.remove(id) else { return };
        stream.send(None);
        if let Some(outgoing) = stream.outgoing.borrow_mut().take() {
            outgoing.finish(Err(fault.into()));
        }
        stream.wake();
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLarge { bytes } => {
                unsendable(usize::try_from(bytes).unwrap_or(usize::MAX), RESPONSE_BYTES_MAX, true)
            }
            // The client comes back, and is told that the revision is compacted.
            Fault::Interrupted => {
                Status::new(Code::Unavailable, "etcdserver: mvcc: required revision has been compacted")
            }
        }
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
            interval: member.progress_interval,
        }
    }

    /// Shows the deterministic part and the way to the streams.
    pub fn with<T>(&self, step: impl FnOnce(&mut session::Watches, &mut dyn Transport) -> T) -> T {
        step(&mut self.core.borrow_mut(), &mut *self.outlets.borrow_mut())
    }

    /// Shows the hub.
    pub fn with_hub<T>(&self, step: impl FnOnce(&mut Hub) -> T) -> T {
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
        !self.outlets.borrow().streams.is_empty()
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
        let streams: Vec<Rc<Stream>> = self.outlets.borrow().streams.values().cloned().collect();
        for stream in streams {
            self.close(&stream, Status::stopped());
            stream.wake();
        }
    }

    /// No leader has been known for so long that the streams end whose clients want one.
    pub fn close_leaderless(&self) {
        let all = self.outlets.borrow();
        let streams: Vec<Rc<Stream>> =
            all.streams.values().filter(|stream| stream.requires_leader).cloned().collect();
        drop(all);
        for stream in streams {
            self.close(&stream, Error::NoLeader.into());
            stream.wake();
        }
    }

    /// Takes over a stream. `requires_leader` says that its client wants none of a member that knows no leader.
    pub fn open(&self, outgoing: Outgoing, requires_leader: bool) -> Rc<Stream> {
        let tenth = u64::try_from(self.interval.as_nanos() / 10).unwrap_or(u64::MAX).max(1);
        let interval = self.interval + Duration::from_nanos(self.jitter.borrow_mut().below(tenth));
        let id = self.with_hub(|hub| hub.open(clock::now(), interval, outgoing.room()));
        let stream = Rc::new(Stream {
            id,
            outgoing: RefCell::new(Some(outgoing)),
            requires_leader,
            blocked: Cell::new(false),
            held: Cell::new(false),
            task: WakerCell::default(),
            collected: RefCell::new(Messages::default()),
        });
        self.outlets.borrow_mut().streams.insert(id, stream.clone());
        stream
    }

    /// Ends a stream with a status.
    pub fn close(&self, stream: &Stream, status: Status) {
        self.with_hub(|hub| hub.close(stream.id));
        self.outlets.borrow_mut().remove(stream.id);
        if let Some(outgoing) = stream.outgoing.borrow_mut().take() {
            outgoing.finish(Err(status));
        }
    }
}

impl Stream {
    /// The hub's name for it.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Whether the stream waits for room. One that does is not read: what it asks for would pile up.
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Whether requests are to wait: answers would pile up behind a large revision. What sends its last piece wakes
    /// the stream's task.
    pub fn is_held(&self, watches: &Watches) -> bool {
        let held = !watches.with_hub(|hub| hub.takes_requests(self.id));
        self.held.set(held);
        held
    }

    /// The client has taken enough that there is room again.
    pub fn unblock(&self) {
        self.blocked.set(false);
    }

    /// Takes a response to the others that will go out together.
    fn collect(&self, head: &[u8], body: Bytes) {
        let rest = self.collected.borrow_mut().push(head, body);
        if rest.is_some() || self.collected.borrow().len() >= PIECE_BYTES {
            self.send(rest);
        }
    }

    /// Sends a slice of a response that comes in parts, the first with the length of all of it.
    fn send_slice(&self, begins: Option<usize>, slice: Bytes) {
        self.send(None);
        if let Some(outgoing) = &mut *self.outgoing.borrow_mut() {
            // The stream's task learns of a client that has gone from its own polling.
            let _ = outgoing.send_slice(begins, slice);
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
        self.task.wake();
    }

    /// Ready when the client has gone, or with room after there was none.
    pub fn poll_outgoing(&self, cx: &mut Context<'_>) -> Poll<Result<usize, Status>> {
        self.task.keep(cx.waker());
        let mut outgoing = self.outgoing.borrow_mut();
        let Some(outgoing) = &mut *outgoing else { return Poll::Ready(Err(Status::canceled())) };
        if self.blocked.get() {
            return outgoing.poll_room(cx);
        }
        outgoing.poll_gone(cx).map(Err)
    }
}
