//! The loop of the replica core: steps the replica with all that has arrived, and does what it says.
//!
//! ```text
//!   lane ─┐                        ┌─▶ WAL write (one at a time; its end is an input)
//!   tick ─┼─▶ step … step, drain ──┼─▶ checkpointer thread
//!   WAL  ─┘                        └─▶ replies, events: one lane turn per session core
//! ```
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::checkpointer::Checkpointer;
use super::log_task::{Log, Written};
use super::session_loop::{self, FromReplica};
use crate::error::Error;
use crate::limits::FAREWELL;
use crate::mvcc::compact_hash::CompactionDigest;
use crate::replica::Replica;
use crate::replica::port::{Input, Output, Outputs};
use crate::server::io::wal_dir::WalDir;
use crate::server::io::wal_file::{OnFounded, WalFile};
use crate::server::io::wal_prepare::{Prepared, Releaser};
use crate::server::io::{clock, task};
use crate::server::log::lines;
use crate::server::mesh::{Outbox, Receiver};
use crate::server::metrics::{self, replica};
use crate::server::peers::{self, Switchboard};
use crate::session::core_of;
use crate::stdx::time::{Duration, Instant};

/// Inputs stepped before the replica is drained.
const TURN_INPUTS_MAX: usize = 4096;

/// Log writes on their way from which on no more inputs are taken: what waits for the disk waits in the lanes, which
/// are bounded, and not in the log's queue.
const WRITES_MAX: usize = 1024;

/// A member that finds at its start that it was removed goes on for so many election timeouts more: the others may have
/// lost their leader before they have heard of the removal, and need one more vote to elect another leader.
const ELECTIONS: u32 = 2;

/// A log write that takes longer is logged.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// The replica and everything it reaches.
pub struct ReplicaCore {
    /// What decides: it takes inputs and says what is to be done.
    pub replica: Replica,
    /// What the sessions and the checkpointer send.
    pub lane: Receiver<Input>,
    /// The session cores, by number.
    pub sessions: Vec<Outbox<FromReplica>>,
    /// The checkpointer's jobs.
    pub checkpoints: Checkpointer,
    /// The digester's jobs.
    pub digests: std::sync::mpsc::Sender<Box<CompactionDigest>>,
    /// The log's folder.
    pub wal_dir: WalDir,
    /// Segments of the log, made ready by a thread.
    pub prepared: Prepared,
    /// What has to be done when a new log's first write is durable.
    pub founded: Option<OnFounded>,
    /// One raft tick.
    pub tick: Duration,
    /// This core's counts.
    pub metrics: Arc<metrics::Core>,
    /// A turn that takes longer is logged; zero logs none.
    pub slow_apply: Duration,
    /// What the ways to other members begin with.
    pub peers: peers::Beginning,
    /// Where the member cannot go on: hears why, and has the sessions end.
    pub halt: Halt,
}

/// Why a member stops by itself.
pub enum Why {
    /// It cannot go on; for this reason.
    Halted(String),
    /// It was removed from its cluster for good.
    Removed,
}

/// What stops a member that cannot go on.
pub type Halt = Box<dyn Fn(Why) + Send>;

impl ReplicaCore {
    /// Runs until `stopping` says that no session needs the replica any more; then waits for a last checkpoint, unless
    /// the disk has no room. All that was acknowledged is in the log.
    pub async fn run(self, stopping: impl Fn() -> bool) {
        let mut running = Running::new(self);
        loop {
            let turn = running.turn();
            // Another member leads before this one goes, if that can be.
            if stopping() && !running.replica.is_leaving() {
                running.threads.checkpoints.stop();
                if running.lacks_room() {
                    return running.give_up().await;
                }
                if running.settle() {
                    if running.outputs.is_empty() {
                        return;
                    }
                    continue;
                }
            }
            running.wait(turn).await;
        }
    }
}

/// The loop's own state.
struct Running {
    replica: Replica,
    lane: Receiver<Input>,
    sessions: Vec<Outbox<FromReplica>>,
    threads: Threads,
    log: Log,
    ticker: Ticker,
    /// Rings when a sweep that rests goes on.
    sweep_alarm: Option<task::Alarm>,
    /// What has arrived, during a turn; empty between turns.
    inputs: VecDeque<Input>,
    /// What is to be done, during a turn; between turns it has what a last checkpoint asks for.
    outputs: Outputs,
    counts: Counts,
    halt: Halt,
    /// When a member that was removed stops.
    farewell: Option<Instant>,
    /// The earliest moment for that.
    farewell_min: Instant,
    /// It has been told to stop.
    is_dismissed: bool,
    /// When the other members were asked for their versions.
    versions: peers::Asked,
    /// The replica's count when the cluster was last looked at.
    cluster_changes: u64,
    peers: Rc<Switchboard>,
}

/// What threads do for the replica.
struct Threads {
    checkpoints: Checkpointer,
    digests: std::sync::mpsc::Sender<Box<CompactionDigest>>,
    segments: Releaser,
}

/// What is counted.
struct Counts {
    metrics: Arc<metrics::Core>,
    turns: replica::Turns,
    slow_apply: Duration,
}

/// What a turn leaves to be done.
struct TurnEnd {
    /// The replica has more to do at once.
    more: bool,
    /// Every lane to a session core has taken what was for it.
    flushed: bool,
    /// Inputs may be taken.
    open: bool,
}

impl Running {
    fn new(core: ReplicaCore) -> Self {
        let segments = core.prepared.releaser();
        let farewell_min = clock::now() + FAREWELL + ELECTIONS * core.replica.election_timeout();
        let ReplicaCore { replica, lane, sessions, checkpoints, digests, metrics, slow_apply, halt, .. } =
            core;
        Self {
            replica,
            lane,
            sessions,
            threads: Threads { checkpoints, digests, segments },
            log: Log::start(WalFile::new(core.wal_dir, core.prepared, core.founded)),
            ticker: Ticker::new(core.tick),
            sweep_alarm: None,
            inputs: VecDeque::with_capacity(TURN_INPUTS_MAX),
            outputs: Outputs::default(),
            counts: Counts { metrics, turns: replica::Turns::default(), slow_apply },
            halt,
            farewell: None,
            farewell_min,
            is_dismissed: false,
            versions: peers::Asked::default(),
            cluster_changes: 0,
            peers: Switchboard::start(core.peers),
        }
    }

    /// Steps the replica with what has arrived, and does what it says.
    fn turn(&mut self) -> TurnEnd {
        let now = clock::now();
        let open = self.is_open();
        if self.hears_peers() {
            self.peers.inbox().take(TURN_INPUTS_MAX, &mut self.inputs);
        }
        if open {
            self.lane.take(TURN_INPUTS_MAX, &mut self.inputs);
        }
        for input in self.inputs.drain(..) {
            self.replica.step(input);
        }
        let ticks = self.ticker.is_due(now);
        if ticks {
            self.replica.step(Input::Tick);
        }
        let more = self.replica.drain(now, &mut self.outputs);
        self.set_sweep_alarm(now);
        self.counts.turn(&self.replica, now);
        self.counts.metrics.wal_lacks_room.set(i64::from(self.log.lacks_room()));
        self.counts.metrics.store_lacks_room.set(i64::from(self.replica.store_lacks_room()));
        let changes = self.replica.cluster_changes();
        if std::mem::replace(&mut self.cluster_changes, changes) != changes {
            // Whoever is told of a change may ask for the members at the peer port at once.
            self.peers.follow(self.replica.cluster());
        }
        if let Some(term) = self.replica.held_term()
            && self.peers.has_peers()
            && self.versions.is_due(term, now)
        {
            self.peers.ask_versions();
        }
        let mut outputs = std::mem::take(&mut self.outputs);
        outputs.drain(..).for_each(|output| self.perform(output));
        self.outputs = outputs;
        self.hand_on_answers();
        if ticks {
            self.look_at_cluster(now);
        }
        let mut flushed = true;
        for session in &mut self.sessions {
            flushed &= session.flush();
        }
        TurnEnd { more, flushed, open }
    }

    /// Has the next turn begin when a sweep that rests goes on, if it goes on before the next tick.
    fn set_sweep_alarm(&mut self, now: Instant) {
        let next = self.replica.next_sweep().filter(|&next| now < next && next < self.ticker.next);
        if self.sweep_alarm.as_ref().map(task::Alarm::due) != next {
            self.sweep_alarm = next.map(task::Alarm::at);
        }
    }

    /// A session core that is far behind must catch up before there is more for it to hear, and so must the disk.
    fn is_open(&self) -> bool {
        !self.sessions.iter().any(Outbox::is_backed_up) && self.log.writing() < WRITES_MAX
    }

    /// What other members say is raft's own business, which waits for no session core.
    fn hears_peers(&self) -> bool {
        self.log.writing() < WRITES_MAX
    }

    /// Hands the leader's answers to the session cores.
    fn hand_on_answers(&mut self) {
        if self.peers.inbox().is_empty() {
            return;
        }
        for (ticket, result) in self.peers.take_answers() {
            session_loop::reply(&mut self.sessions[core_of(ticket)], ticket, result);
        }
    }

    /// Follows who belongs to the cluster.
    fn look_at_cluster(&mut self, now: Instant) {
        self.peers.follow(self.replica.cluster());
        let is_over = self.farewell.is_some_and(|farewell| farewell <= now) || self.peers.was_removed();
        if is_over && !std::mem::replace(&mut self.is_dismissed, true) {
            (self.halt)(Why::Removed);
        }
    }

    /// Does one thing that the replica says.
    fn perform(&mut self, output: Output) {
        match output {
            Output::AppendWal { ready, write } => self.log.append(ready, write),
            Output::WriteCheckpoint(job) => self.threads.checkpoints.write(job),
            Output::DigestCompaction(job) => {
                let taken = self.threads.digests.send(job);
                assert!(taken.is_ok(), "the digester outlives the replica");
            }
            Output::Reply { ticket, result } => match self.sessions.get_mut(core_of(ticket)) {
                Some(session) => session_loop::reply(session, ticket, result),
                None => self.peers.on_reply(ticket, result),
            },
            Output::AskLessor { ticket, call, revision, .. } => match self.sessions.get(core_of(ticket)) {
                Some(_) => self.peers.forward(ticket, call, revision),
                // Another member took this one for the leader; it may ask again.
                None => self.peers.on_reply(ticket, Err(Error::NoLeader)),
            },
            Output::ReadReady { ticket } => {
                self.sessions[core_of(ticket)].push(FromReplica::ReadReady(ticket));
            }
            Output::Publish(batch) => {
                for session in &mut self.sessions {
                    session.push(FromReplica::Publish(batch.clone()));
                }
            }
            Output::ReleaseWal { segments } => self.threads.segments.release(segments),
            Output::Compacted { revision, removed } => {
                let store = self.replica.store_stats();
                replica::compacted(&self.counts.metrics, &mut self.counts.turns, store, revision, removed);
            }
            Output::Send { to, message } => self.peers.send(to, message),
            Output::AskPromotion { ticket, id } => match self.sessions.get(core_of(ticket)) {
                Some(_) => self.peers.forward_promotion(ticket, id),
                None => self.peers.on_reply(ticket, Err(Error::NotLeader)),
            },
            Output::Removed => {
                self.farewell = Some(self.farewell_min.max(clock::now() + self.replica.farewell()))
            }
            Output::SendSnapshot { to, message } => self.peers.send_snapshot(to, message),
            Output::PlaceSnapshot => {
                self.counts.metrics.snapshots_applying.set(1);
                self.peers.place_snapshot();
            }
            Output::RefuseSnapshot(arrival) => self.peers.refuse_snapshot(arrival),
            Output::Installed { readers, revision, replaced } => {
                for session in &mut self.sessions {
                    session.push(FromReplica::Installed(readers.clone(), revision));
                }
                self.counts.metrics.snapshots_applying.set(0);
                self.peers.on_installed(readers, revision, replaced);
            }
            Output::Halt { reason } => (self.halt)(Why::Halted(reason)),
            Output::Unsound { from, why } => lines::unsound(from, &why),
        }
    }

    /// Whether a last checkpoint is written, once the log is quiet; what it asks for is in `outputs`.
    fn settle(&mut self) -> bool {
        self.log.writing() == 0 && self.replica.settle(&mut self.outputs)
    }

    /// Whether the disk has no room for what a member that stops has to write.
    fn lacks_room(&self) -> bool {
        self.log.lacks_room() || self.threads.checkpoints.gave_up()
    }

    /// Ends without a last checkpoint, and without the log writes of which nothing was acknowledged.
    async fn give_up(self) {
        lines::no_last_checkpoint(self.replica.unstored());
        self.log.give_up().await;
    }

    /// Waits until there is something for a turn.
    async fn wait(&mut self, turn: TurnEnd) {
        let TurnEnd { more, flushed, open } = turn;
        let hears = self.hears_peers();
        if more || (open && !self.lane.is_empty()) || !flushed || (hears && !self.peers.inbox().is_empty()) {
            task::yield_now().await;
        }
        let mut ready = pin!(self.lane.ready());
        let written = poll_fn(|cx| {
            if let Poll::Ready(written) = self.log.poll_written(cx) {
                return Poll::Ready(Some(written));
            }
            let ticked = self.ticker.poll(cx);
            let rested = self.sweep_alarm.as_mut().is_some_and(|alarm| alarm.poll(cx).is_ready());
            let heard = hears && self.peers.poll(cx).is_ready();
            if (open && ready.as_mut().poll(cx).is_ready()) || heard || ticked || rested || !flushed || more {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await;
        if let Some(written) = written {
            self.counts.written(&written);
            let Written { ready, buffer, took } = written;
            self.replica.step(Input::WalSynced { ready, buffer, took });
        }
    }
}

impl Counts {
    fn turn(&mut self, replica: &Replica, began: Instant) {
        let took = clock::now().since(began);
        replica::turn(&self.metrics, &mut self.turns, replica.tally(), began, took, self.slow_apply);
        replica::replica(&self.metrics, replica);
    }

    fn written(&self, written: &Written) {
        // One call hands the bytes to the disk and makes them durable.
        self.metrics.wal_wrote(written.buffer.len() as u64, written.took);
        self.metrics.wal_fsync(written.took);
        if written.took > SLOW_SYNC {
            lines::slow_sync(written.took, SLOW_SYNC);
        }
    }
}

/// Raft's ticks.
struct Ticker {
    every: Duration,
    next: Instant,
    alarm: task::Alarm,
    /// The alarm went off since the last tick.
    is_over: bool,
}

impl Ticker {
    fn new(every: Duration) -> Self {
        let next = clock::now() + every;
        Self { every, next, alarm: task::Alarm::at(next), is_over: false }
    }

    /// Whether a tick is due. The next one is due a whole interval later, however late this one is.
    fn is_due(&mut self, now: Instant) -> bool {
        if now < self.next && !self.is_over {
            return false;
        }
        self.is_over = false;
        self.next = now + self.every;
        self.alarm = task::Alarm::at(self.next);
        true
    }

    /// Whether the alarm went off.
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_over |= self.alarm.poll(cx).is_ready();
        self.is_over
    }
}
