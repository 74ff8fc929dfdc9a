//! What one session core shares between its connections: its way into the store, the requests it waits for, its
//! watchers, and the lane to the replica. Lives on one core; nothing in it is locked.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Member;
use super::holds::{OwnReader, Pin};
use super::requests::Requests;
use crate::btree::{Read, Reader, Readers, Snapshot};
use crate::limits::SORTED_BYTES_MAX;
use crate::mvcc::View;
use crate::mvcc::leaf_counts::LeafCounts;
use crate::mvcc::pin::PinSlot;
use crate::mvcc::remembered::PlanMemory;
use crate::replica::port::Input;
use crate::replica::read_gate::ReadGate;
use crate::response::Header;
use crate::server::grpc::counters::Counters;
use crate::server::mesh::Sender;
use crate::server::metrics;
use crate::server::session::gathering::Gathering;
use crate::server::session::line::Line;
use crate::server::session::streams::Streams;
use crate::server::session::watches::Watches;
use crate::stdx::waker::WakerCell;

/// What all long answers of a core may remember of their plans together: the pairs of forty lists of 100 000.
const PLAN_BYTES_MAX: usize = 16 << 20;

/// One session core.
pub struct Session {
    /// Facts about the member.
    pub member: Arc<Member>,
    /// This core's number.
    pub core: u16,
    /// This core's watch streams.
    pub watches: Watches,
    /// This core's other long streams.
    pub streams: Streams,
    /// This core's answers that are gathered before they are sent.
    pub gathering: Rc<Gathering>,
    /// What this core's snapshots have copied before they are sent: apart from other answers, as they take so long.
    pub copies: Rc<Gathering>,
    /// Long transactions that this core decodes, which takes much memory: one after the other.
    pub long_txns: Rc<Line>,
    /// Calls of Hash and HashKV, each of which may read the whole store: one after the other.
    pub digests: Rc<Line>,
    /// This core's counts of gRPC calls.
    pub counters: Arc<Counters>,
    /// This core's other counts.
    pub metrics: Arc<metrics::Core>,
    readers: RefCell<Readers>,
    reader: RefCell<Reader>,
    /// The compaction revision of the store that took the place of another one last: what was pinned below it in the
    /// other store is gone. -1 before there was any.
    pub(super) lost_below: Cell<i64>,
    pub(super) pins: RefCell<PinSlot>,
    plan_memory: PlanMemory,
    leaf_counts: LeafCounts,
    pub(super) requests: Requests,
    gate: Arc<ReadGate>,
    /// Someone asked for a turn of the session loop.
    called: Cell<bool>,
    loop_task: WakerCell,
    /// The task that runs timers, while none is armed.
    timers_task: WakerCell,
}

/// The parts that a core is made of.
pub struct Parts {
    /// Facts about the member.
    pub member: Arc<Member>,
    /// This core's number, and the distance between its request ids.
    pub core: (u16, u16),
    /// The way into the store.
    pub readers: Readers,
    /// This core's pins.
    pub pins: PinSlot,
    /// The lane to the replica.
    pub replica: Sender<Input>,
    /// Whether reads need a round.
    pub gate: Arc<ReadGate>,
    /// Where request ids begin; the same on all cores.
    pub first_id: u64,
    /// Seed of what must not be guessed or synchronised (jitter, hash secrets).
    pub seed: u64,
    /// This core's counts.
    pub metrics: Arc<metrics::Core>,
    /// This core's counts of gRPC calls.
    pub counters: Arc<Counters>,
}

impl Session {
    /// A core without connections.
    pub fn new(parts: Parts) -> Rc<Self> {
        let mut reader = parts.readers.register();
        let revision = reader.snapshot().applied().revision;
        let (core, id_step) = parts.core;
        let ids = (parts.first_id + u64::from(core), u64::from(id_step));
        let watches = Watches::new(&parts.member, revision, parts.seed);
        Rc::new(Self {
            watches,
            streams: Streams::default(),
            gathering: Rc::default(),
            copies: Rc::default(),
            long_txns: Rc::default(),
            digests: Rc::default(),
            core,
            counters: parts.counters,
            metrics: parts.metrics,
            readers: RefCell::new(parts.readers),
            lost_below: Cell::new(-1),
            reader: RefCell::new(reader),
            pins: RefCell::new(parts.pins),
            plan_memory: PlanMemory::bounded(PLAN_BYTES_MAX, SORTED_BYTES_MAX),
            leaf_counts: LeafCounts::default(),
            requests: Requests::new(core, parts.member.request_timeout, parts.replica, ids),
            gate: parts.gate,
            called: Cell::new(false),
            loop_task: WakerCell::default(),
            timers_task: WakerCell::default(),
            member: parts.member,
        })
    }

    /// The header that this member's answers carry now.
    pub fn header(&self) -> Header {
        Header {
            cluster_id: self.member.cluster_id,
            member_id: self.member.member_id,
            raft_term: self.gate.term(),
        }
    }

    /// Shows `look` the newest published state. Not to be held across an await: nothing can be.
    pub fn view<T>(&self, look: impl FnOnce(&View<'_, Snapshot<'_>>) -> T) -> T {
        let mut reader = self.reader.borrow_mut();
        let snapshot = reader.snapshot();
        look(&View::new(&snapshot).counting_with(&self.leaf_counts))
    }

    /// Another store has taken the place of the one that was read so far. It has the same history, but for what was
    /// compacted.
    pub fn install(&self, readers: Readers) {
        let mut reader = readers.register();
        self.lost_below.set(reader.snapshot().applied().compact_revision);
        self.leaf_counts.forget();
        self.reader.replace(reader);
        self.readers.replace(readers);
    }

    /// A reader of its own for a task that gathers an answer from one state, in slices: pages of that state are not
    /// used again meanwhile, so one such task of a core runs at a time, and waits for no client.
    pub fn reader(self: &Rc<Self>) -> OwnReader {
        self.metrics.store_readers.add(1);
        OwnReader { session: self.clone(), reader: self.readers.borrow().register() }
    }

    /// What long answers of this core may remember of their plans.
    pub fn plan_memory(&self) -> &PlanMemory {
        &self.plan_memory
    }

    /// What decides whether a read needs a ReadIndex round, and the state of raft that clients are told.
    pub fn gate(&self) -> &ReadGate {
        &self.gate
    }

    /// Something has begun that has a timeout or an interval.
    pub fn arm_timers(&self) {
        self.timers_task.wake();
    }

    /// Ready while something has a timeout or an interval; registers the task that runs timers otherwise.
    pub fn poll_timers_armed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting() > 0 || self.watches.is_open() {
            return Poll::Ready(());
        }
        self.timers_task.keep(cx.waker());
        Poll::Pending
    }

    /// Requests that wait for the replica.
    pub fn waiting(&self) -> usize {
        self.requests.len()
    }

    /// Asks for a turn of the session loop.
    pub fn wake_loop(&self) {
        self.called.set(true);
        self.loop_task.wake();
    }

    /// Ready when a turn was asked for; registers the loop's task otherwise.
    pub fn poll_called(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.called.take() {
            return Poll::Ready(());
        }
        self.loop_task.keep(cx.waker());
        Poll::Pending
    }

    /// Keeps what is readable at `revision` until the guard goes. None if it is compacted meanwhile.
    pub fn pin(self: &Rc<Self>, revision: i64) -> Option<Pin> {
        let mut pins = self.pins.borrow_mut();
        let holds = pins.pin(revision, || self.reader.borrow_mut().snapshot().applied().compact_revision);
        holds.then(|| {
            self.metrics.store_readers.add(1);
            Pin { session: self.clone(), revision }
        })
    }
}
