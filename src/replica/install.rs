//! A snapshot of the leader takes the place of this member's store and log.
//!
//! ```text
//!   Input::Snapshot ──▶ waits ──▶ raft takes it? ──▶ placing ──▶ placed ──▶ logging ──▶ done
//!                       for a     └─ no: refused     the world    the new    the log begins
//!                       quiet                        renames      store is   anew behind it
//!                       store                        the file     published
//! ```
//!
//! The store of the snapshot is whole and durable in a file of its own before the replica hears of it. The world then
//! gives that file the store file's name, which is the one step by which the old state becomes the new one: a start
//! finds either. The log follows. A start that finds the new store with the old log knows by a note in the store
//! (`snapshot::installed`) that the log has to begin anew, and does that first.
//!
//! While the file is placed, nothing else is done: what raft wants after it has taken the snapshot belongs to the new
//! store. Members are told of the snapshot when the log is durable, as raft sends nothing earlier.
#![forbid(unsafe_code)]

use raft::eraftpb::{Message, Snapshot};

use super::apply::State;
use super::arrival::Arrival;
use super::log_writes::LogWrite;
use super::messages::is_far;
use super::port::{Output, Outputs};
use super::replica::Replica;
use crate::btree::Store;
use crate::stdx::time::Instant;
use crate::wal::SnapshotMark;

/// How far a snapshot has come.
#[derive(Default)]
pub(super) enum Installing {
    /// There is none.
    #[default]
    Nothing,
    /// It waits until no entry and no checkpoint is under way.
    Waiting(Box<Arrival>),
    /// Raft has taken it; the world gives its file the store file's name.
    Placing(Box<Arrival>),
    /// The file has the name.
    Placed(Box<Arrival>),
    /// It is published. The log begins anew behind the entry `index` in the write of raft's ready `number`.
    Logging { number: u64, index: u64 },
}

/// What a snapshot has taken the place of. To be dropped where that may take its time.
pub struct Replaced {
    /// The store. Readers may still look at it.
    pub store: Store,
    /// What was in memory of it.
    pub state: State,
}

impl Replica {
    /// A snapshot has come.
    pub(super) fn on_snapshot(&mut self, arrival: Box<Arrival>) {
        match &self.installing {
            Installing::Nothing => self.installing = Installing::Waiting(arrival),
            // The world sends one at a time; one too many counts as never sent.
            _ => self.refused_arrivals.push(*arrival),
        }
    }

    /// The file of the snapshot has the store file's name, durably.
    pub(super) fn on_snapshot_placed(&mut self) {
        match std::mem::take(&mut self.installing) {
            Installing::Placing(arrival) => self.installing = Installing::Placed(arrival),
            other => self.installing = other,
        }
    }

    /// Whether a snapshot waits, so that nothing new is to be begun on the store.
    pub(super) fn awaits_quiet(&self) -> bool {
        matches!(self.installing, Installing::Waiting(_))
    }

    /// Goes on with a snapshot. False while nothing else may be done.
    pub(super) fn install(&mut self, now: Instant, outputs: &mut Outputs) -> bool {
        let refused = self.refused_arrivals.drain(..).map(Box::new);
        outputs.extend(refused.map(Output::RefuseSnapshot));
        let is_quiet = self.executing.is_none()
            && !self.store.is_suspended()
            && !self.spill.is_under_way()
            && !self.marks.is_under_way();
        match std::mem::take(&mut self.installing) {
            Installing::Waiting(arrival) if is_quiet => self.offer_to_raft(arrival, outputs),
            Installing::Placed(arrival) => self.take_in(now, *arrival, outputs),
            other => self.installing = other,
        }
        !matches!(self.installing, Installing::Placing(_))
    }

    /// Raft takes the snapshot if it is of the leader, and has what this member lacks.
    fn offer_to_raft(&mut self, arrival: Box<Arrival>, outputs: &mut Outputs) {
        // raft says by its pending snapshot what it has come to.
        if !is_far(self.node.raft.term, arrival.message.term) {
            let _ = self.node.step((*arrival.message).clone());
        }
        let index = arrival.index();
        let takes = |snapshot: &Snapshot| snapshot.get_metadata().index == index;
        let is_taken = self.node.snap().is_some_and(takes);
        if !is_taken {
            return outputs.push(Output::RefuseSnapshot(arrival));
        }
        // The snapshot has what these would do. Who waits for one of them is answered when the time is over.
        self.committed.clear();
        self.installing = Installing::Placing(arrival);
        outputs.push(Output::PlaceSnapshot);
    }

    /// Publishes the new store. What raft has to say of the snapshot is in its next ready.
    fn take_in(&mut self, now: Instant, arrival: Arrival, outputs: &mut Outputs) {
        let Arrival { store, state, .. } = arrival;
        let applied = store.applied();
        let store = std::mem::replace(&mut self.store, store);
        let state = std::mem::replace(&mut self.state, state);
        self.marks.install(applied.index);
        self.checkpoints.begin(now);
        self.heavy.begin_checkpoint();
        self.spill.end_draft();
        self.sweep.install(applied);
        self.digests.install();
        self.node.mut_store().restart((applied.index, applied.term), self.state.cluster.conf_state());
        let readers = self.store.readers();
        let replaced = Box::new(Replaced { store, state });
        outputs.push(Output::Installed { readers, revision: applied.revision, replaced });
        // This turn may end before it shows what raft says, and whoever reads the new store goes by that.
        self.show_gate();
    }

    /// The log begins anew behind `mark`, in the write of raft's ready `number`.
    pub(super) fn restart_log(
        &mut self,
        number: u64,
        mark: &SnapshotMark,
        persisted: Vec<Message>,
        outputs: &mut Outputs,
    ) {
        let buffer = self.writes.take_buffer();
        let state = self.node.raft.hard_state();
        let write = self.log.restart(mark, &state, buffer);
        let (mark, segment, commit) = (Some(mark.index), write.segment, self.log.state().commit);
        self.writes.begin(LogWrite { number, persisted, mark, segment, commit, promise: true });
        outputs.push(Output::AppendWal { ready: number, write });
    }

    /// Raft's ready `number` has the snapshot that was published.
    pub(super) fn log_snapshot(
        &mut self,
        number: u64,
        snapshot: &Snapshot,
        persisted: Vec<Message>,
        outputs: &mut Outputs,
    ) {
        let metadata = snapshot.get_metadata();
        let mark = SnapshotMark {
            index: metadata.index,
            term: metadata.term,
            conf_state: Some(self.state.cluster.conf_state()),
        };
        self.installing = Installing::Logging { number, index: mark.index };
        self.restart_log(number, &mark, persisted, outputs);
    }

    /// The log is durable as far as raft's ready `durable`.
    pub(super) fn end_install(&mut self, durable: u64) {
        if let Installing::Logging { number, index } = self.installing
            && durable >= number
        {
            self.installing = Installing::Nothing;
            self.node.advance_apply_to(index);
        }
    }
}
