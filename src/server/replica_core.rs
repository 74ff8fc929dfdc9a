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
use std::pin::{Pin, pin};
use std::sync::mpsc;
use std::task::Poll;

use super::io::wal_dir::WalDir;
use super::io::wal_file::WalFile;
use super::io::{clock, task};
use super::log::lines;
use super::mesh::{Outbox, Receiver};
use super::session_core::FromReplica;
use super::tickets::core_of;
use super::{counting, metrics};
use crate::page::CheckpointJob;
use crate::replica::Replica;
use crate::replica::port::{Input, Output, Outputs};
use crate::stdx::time::{Duration, Instant};
use crate::wal::Write;
use std::sync::Arc;

/// Inputs stepped before the replica is drained.
const TURN_INPUTS_MAX: usize = 4096;

/// The replica and everything it reaches.
pub struct ReplicaCore {
    /// The brain.
    pub replica: Replica,
    /// What the sessions and the checkpointer send.
    pub lane: Receiver<Input>,
    /// The session cores, by number.
    pub sessions: Vec<Outbox<FromReplica>>,
    /// The checkpointer's jobs.
    pub checkpoints: mpsc::Sender<CheckpointJob>,
    /// The log.
    pub wal: WalFile,
    /// Its directory, to delete segments.
    pub wal_dir: WalDir,
    /// One raft tick.
    pub tick: Duration,
    /// This core's counts.
    pub metrics: Arc<metrics::Core>,
    /// A turn that takes longer is logged; zero logs none.
    pub slow_apply: Duration,
}

type WalWrite = Pin<Box<dyn Future<Output = (WalFile, u64, Vec<u8>, Instant)>>>;

impl ReplicaCore {
    /// Runs until `stopping` says that no session needs the replica any more; then waits for a last checkpoint.
    pub async fn run(mut self, stopping: impl Fn() -> bool) {
        let mut inputs = Vec::with_capacity(TURN_INPUTS_MAX);
        let mut outputs = Outputs::default();
        let mut next_tick = clock::now() + self.tick;
        let mut alarm = task::Alarm::at(next_tick);
        let mut wal = Some(self.wal);
        let mut waiting: VecDeque<(u64, Write)> = VecDeque::new();
        let mut writing: Option<WalWrite> = None;
        loop {
            let now = clock::now();
            self.lane.take(TURN_INPUTS_MAX, &mut inputs);
            for input in inputs.drain(..) {
                self.replica.step(now, input);
            }
            if now >= next_tick {
                self.replica.step(now, Input::Tick);
                counting::replica(&self.metrics, &self.replica);
                next_tick = now + self.tick;
                alarm = task::Alarm::at(next_tick);
            }
            let more = self.replica.drain(now, &mut outputs);
            counting::turn(&self.metrics, clock::now().since(now), self.slow_apply);
            for output in outputs.drain(..) {
                counting::output(&self.metrics, &output);
                match output {
                    Output::AppendWal { ready, write } => waiting.push_back((ready, write)),
                    Output::WriteCheckpoint(job) => {
                        self.checkpoints.send(job).expect("the checkpointer outlives the replica");
                    }
                    Output::Reply { ticket, result } => {
                        self.sessions[core_of(ticket.0)].push(FromReplica::Reply(ticket, result));
                    }
                    Output::ReadReady { ticket } => {
                        self.sessions[core_of(ticket.0)].push(FromReplica::ReadReady(ticket));
                    }
                    Output::Publish(batch) => {
                        for session in &mut self.sessions {
                            session.push(FromReplica::Publish(batch.clone()));
                        }
                    }
                    Output::ReleaseWal { segments } => {
                        if let Err(error) = self.wal_dir.remove(&segments) {
                            tracing::warn!(error = %error, "cannot delete WAL segments that are not needed any more");
                        }
                    }
                    Output::Compacted { revision, removed } => {
                        let store = self.replica.store_stats();
                        self.metrics.compacted_keys.add(removed);
                        lines::compacted(revision, removed, store.file_bytes, store.used_bytes);
                    }
                    Output::Send { .. } => {
                        unreachable!("a member without peers sends nothing: its cluster has one voter")
                    }
                }
            }
            let mut flushed = true;
            for session in &mut self.sessions {
                flushed &= session.flush();
            }
            if writing.is_none()
                && let Some((ready, write)) = waiting.pop_front()
            {
                let mut file = wal.take().expect("no write is on its way");
                writing = Some(Box::pin(async move {
                    let began = clock::now();
                    let buffer = file.write(write).await;
                    (file, ready, buffer, began)
                }));
            }
            if stopping() && writing.is_none() && self.replica.settle(&mut outputs) {
                if outputs.is_empty() {
                    return;
                }
                continue;
            }
            if more || !self.lane.is_empty() || !flushed {
                task::yield_now().await;
            }
            let mut ready = pin!(self.lane.ready());
            let written = poll_fn(|cx| {
                if let Some(write) = &mut writing
                    && let Poll::Ready(done) = write.as_mut().poll(cx)
                {
                    return Poll::Ready(Some(done));
                }
                if ready.as_mut().poll(cx).is_ready() || alarm.poll(cx).is_ready() || !flushed || more {
                    return Poll::Ready(None);
                }
                Poll::Pending
            })
            .await;
            if let Some((file, number, buffer, began)) = written {
                let now = clock::now();
                self.metrics.wal_fsync(now.since(began));
                writing = None;
                wal = Some(file);
                self.replica.step(now, Input::WalSynced { ready: number, buffer });
            }
        }
    }
}
