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
use std::sync::Arc;
use std::task::Poll;

use futures::StreamExt;
use futures::channel::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::session_loop::FromReplica;
use crate::mvcc::compact_hash::CompactionDigest;
use crate::page::CheckpointJob;
use crate::replica::Replica;
use crate::replica::port::{Input, Output, Outputs};
use crate::server::io::wal_dir::WalDir;
use crate::server::io::wal_file::{OnFounded, WalFile};
use crate::server::io::{clock, task};
use crate::server::log::lines;
use crate::server::mesh::{Outbox, Receiver};
use crate::server::metrics::{self, replica};
use crate::session::core_of;
use crate::stdx::time::Duration;
use crate::wal::Write;

/// Inputs stepped before the replica is drained.
const TURN_INPUTS_MAX: usize = 4096;

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
    pub checkpoints: std::sync::mpsc::Sender<CheckpointJob>,
    /// The digester's jobs.
    pub digests: std::sync::mpsc::Sender<Box<CompactionDigest>>,
    /// The log's folder.
    pub wal_dir: WalDir,
    /// What has to be done when a new log's first write is durable.
    pub founded: Option<OnFounded>,
    /// One raft tick.
    pub tick: Duration,
    /// This core's counts.
    pub metrics: Arc<metrics::Core>,
    /// A turn that takes longer is logged; zero logs none.
    pub slow_apply: Duration,
}

impl ReplicaCore {
    /// Runs until `stopping` says that no session needs the replica any more; then waits for a last checkpoint.
    pub async fn run(mut self, stopping: impl Fn() -> bool) {
        let mut inputs = VecDeque::with_capacity(TURN_INPUTS_MAX);
        let mut outputs = Outputs::default();
        let mut next_tick = clock::now() + self.tick;
        let mut alarm = task::Alarm::at(next_tick);
        let wal = WalFile::new(self.wal_dir.clone(), self.founded.take())
            .unwrap_or_else(|error| panic!("cannot prepare the log: {error}"));
        let releaser = wal.releaser();
        let (writes, to_write) = mpsc::unbounded();
        let (durable, mut written) = mpsc::unbounded();
        task::spawn(write_log(wal, to_write, durable));
        // Log writes on their way.
        let mut writing = 0;
        let mut ticked = false;
        let mut turns = replica::Turns::default();
        loop {
            let now = clock::now();
            // A session core that is far behind must catch up before there is more for it to hear.
            if !self.sessions.iter().any(Outbox::is_backed_up) {
                self.lane.take(TURN_INPUTS_MAX, &mut inputs);
            }
            for input in inputs.drain(..) {
                self.replica.step(input);
            }
            if now >= next_tick || ticked {
                ticked = false;
                self.replica.step(Input::Tick);
                next_tick = now + self.tick;
                alarm = task::Alarm::at(next_tick);
            }
            let more = self.replica.drain(now, &mut outputs);
            let took = clock::now().since(now);
            replica::turn(&self.metrics, &mut turns, self.replica.tally(), now, took, self.slow_apply);
            replica::replica(&self.metrics, &self.replica);
            for output in outputs.drain(..) {
                match output {
                    Output::AppendWal { ready, write } => {
                        writing += 1;
                        writes
                            .unbounded_send((ready, write))
                            .expect("the log's writer runs as long as this loop");
                    }
                    Output::WriteCheckpoint(job) => {
                        self.checkpoints.send(job).expect("the checkpointer outlives the replica");
                    }
                    Output::DigestCompaction(job) => {
                        self.digests.send(job).expect("the digester outlives the replica");
                    }
                    Output::Reply { ticket, result } => {
                        self.sessions[core_of(ticket)].push(FromReplica::Reply(ticket, result));
                    }
                    Output::ReadReady { ticket } => {
                        self.sessions[core_of(ticket)].push(FromReplica::ReadReady(ticket));
                    }
                    Output::Publish(batch) => {
                        for session in &mut self.sessions {
                            session.push(FromReplica::Publish(batch.clone()));
                        }
                    }
                    Output::ReleaseWal { segments } => releaser.release(segments),
                    Output::Compacted { revision, removed } => {
                        let store = self.replica.store_stats();
                        replica::compacted(&self.metrics, &mut turns, store, revision, removed);
                    }
                    // There is nobody to carry it: to raft it is a message that the network lost.
                    Output::Send { .. } => {}
                }
            }
            let mut flushed = true;
            for session in &mut self.sessions {
                flushed &= session.flush();
            }
            if stopping() && writing == 0 && self.replica.settle(&mut outputs) {
                if outputs.is_empty() {
                    return;
                }
                continue;
            }
            if more || !self.lane.is_empty() || !flushed {
                task::yield_now().await;
            }
            let mut ready = pin!(self.lane.ready());
            let done = poll_fn(|cx| {
                if let Poll::Ready(done) = written.poll_next_unpin(cx) {
                    return Poll::Ready(Some(done.expect("the log's writer runs as long as this loop")));
                }
                ticked |= alarm.poll(cx).is_ready();
                if ready.as_mut().poll(cx).is_ready() || ticked || !flushed || more {
                    return Poll::Ready(None);
                }
                Poll::Pending
            })
            .await;
            if let Some(written) = done {
                writing -= 1;
                on_written(&self.metrics, &mut self.replica, written);
            }
        }
    }
}

fn on_written(metrics: &metrics::Core, replica: &mut Replica, Written { ready, buffer, took }: Written) {
    // One call hands the bytes to the disk and makes them durable.
    metrics.wal_wrote(buffer.len() as u64, took);
    metrics.wal_fsync(took);
    if took > SLOW_SYNC {
        lines::slow_sync(took, SLOW_SYNC);
    }
    replica.step(Input::WalSynced { ready, buffer });
}

/// A log write that is durable.
struct Written {
    ready: u64,
    buffer: Vec<u8>,
    took: Duration,
}

/// Does log writes one after the other. A task of its own, because the loop turns many times while one is on its
/// way, and glommio keeps a waker for every time that a write is polled.
async fn write_log(
    mut file: WalFile,
    mut writes: UnboundedReceiver<(u64, Write)>,
    written: UnboundedSender<Written>,
) {
    while let Some((ready, write)) = writes.next().await {
        let began = clock::now();
        let buffer = file.write(write).await;
        let took = clock::now().since(began);
        if written.unbounded_send(Written { ready, buffer, took }).is_err() {
            return; // the member has stopped
        }
    }
}
