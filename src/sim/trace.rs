//! What happened, as one number and, on demand, as text.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fmt::Arguments;

use kevel::replica::port::{Input, Output};
use kevel::stdx::time::Instant;

/// Lines kept for a failing run.
const LINES_KEPT: usize = 400;

/// The trace of a run. Two runs of a seed have the same digest.
pub struct Trace {
    digest: u64,
    /// Steps so far.
    pub steps: u64,
    /// Keep lines: the run is repeated to see how it fails.
    verbose: bool,
    lines: VecDeque<String>,
}

impl Trace {
    /// An empty trace.
    pub fn new(verbose: bool) -> Self {
        Self { digest: 0xCBF2_9CE4_8422_2325, steps: 0, verbose, lines: VecDeque::new() }
    }

    /// Adds a step: numbers for the digest, and a line that is only formatted when somebody will read it.
    pub fn step(&mut self, now: Instant, numbers: &[u64], line: Arguments<'_>) {
        self.steps += 1;
        for &number in [now.as_nanos()].iter().chain(numbers) {
            self.digest = (self.digest ^ number).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(29);
        }
        if self.verbose {
            if self.lines.len() == LINES_KEPT {
                self.lines.pop_front();
            }
            self.lines.push_back(format!("{:>12.6} {line}", now.as_nanos() as f64 / 1e9));
        }
    }

    /// Adds bytes to the digest.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.digest = (self.digest ^ u64::from(crc32c::crc32c(bytes))).wrapping_mul(0x0000_0100_0000_01B3);
    }

    /// The number.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The last lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}

/// An input of the replica as a line.
pub fn show_input(input: &Input) -> String {
    match input {
        Input::Tick => "tick".into(),
        Input::Propose { ticket, id, entry } => {
            format!("propose {:x} {id:x}, {} bytes", ticket.0, entry.len())
        }
        Input::Forget { id } => format!("forget {id:x}"),
        Input::ReadIndex { ticket } => format!("read index {:x}", ticket.0),
        Input::Lease { ticket, call } => format!("{:x} {call:?}", ticket.0),
        Input::Defragment { ticket } => format!("defragment {:x}", ticket.0),
        Input::Configure { ticket, change } => format!("{:x} change {change:?}", ticket.0),
        Input::Promote { ticket, id } => format!("{:x} promote {id:x}", ticket.0),
        Input::MoveLeader { ticket, target } => format!("{:x} hand leadership to {target:x}", ticket.0),
        Input::Resign => "resign".into(),
        Input::Versions(others) => format!("versions {others:?}"),
        Input::PeerMessage(_) => "a message".into(),
        Input::PeerUnreachable(id) => format!("{id:x} is out of reach"),
        Input::Undelivered(message) => format!("a message to {:x} was not sent", message.to),
        Input::PeerGone(id) => format!("{id:x} has gone"),
        Input::Snapshot(arrival) => format!("snapshot up to {}", arrival.index()),
        Input::SnapshotPlaced => "the snapshot is placed".into(),
        Input::SnapshotSent { to, is_taken } => format!("snapshot sent to {to:x}: {is_taken}"),
        Input::WalSynced { ready, .. } => format!("log write {ready} is durable"),
        Input::CheckpointSynced { generation } => format!("checkpoint {generation} is durable"),
        Input::CheckpointRefused => "the checkpoint has no room".into(),
        Input::CompactionDigested { hash } => format!("digested {hash:?}"),
    }
}

/// An output of the replica as a line.
pub fn show_output(output: &Output) -> String {
    match output {
        Output::AppendWal { ready, write } => format!(
            "log write {ready}: {} at {}, {} bytes{}{}",
            write.segment,
            write.offset,
            write.bytes.len(),
            if write.create { ", create" } else { "" },
            if write.sync { ", sync" } else { "" },
        ),
        Output::WriteCheckpoint(job) if job.is_spill() => format!("spill of {} bytes", job.bytes()),
        Output::WriteCheckpoint(job) => {
            format!("checkpoint {} of index {}", job.generation(), job.applied_index())
        }
        Output::ReleaseWal { segments } => format!("release {segments:?}"),
        Output::Send { to, .. } => format!("a message to {to:x}"),
        Output::AskPromotion { ticket, id } => {
            format!("ask about the promotion of {id:x} for {:x}", ticket.0)
        }
        Output::Removed => "removed".to_owned(),
        Output::SendSnapshot { to, .. } => format!("a snapshot to {to:x}"),
        Output::PlaceSnapshot => "place the snapshot".into(),
        Output::RefuseSnapshot(arrival) => format!("refuse the snapshot up to {}", arrival.index()),
        Output::Installed { revision, .. } => format!("installed a snapshot at revision {revision}"),
        Output::AskLessor { leader, ticket, call, .. } => format!("ask {leader:x} {:x} {call:?}", ticket.0),
        Output::Reply { ticket, result } => format!("reply {:x} {result:?}", ticket.0),
        Output::ReadReady { ticket } => format!("read ready {:x}", ticket.0),
        Output::Publish(batch) => format!("publish {}, {} events", batch.revision, batch.events.len()),
        Output::DigestCompaction(_) => "digest a compaction".into(),
        Output::Halt { reason } => format!("halt: {reason}"),
        Output::Unsound { from, why } => format!("{from:x} has sent {why}"),
        Output::Compacted { revision, removed } => format!("compacted {revision}, {removed} removed"),
    }
}
