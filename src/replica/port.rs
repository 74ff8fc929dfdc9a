//! The replica's whole contract with the world: what it is told, and what it then wants done.
//!
//! A *turn* is: [`step`](super::Replica::step) every input that waits, then [`drain`](super::Replica::drain) once.
//! Outputs are in order; the world may do them in any order but for these:
//!
//! - WAL writes one after the other, each reported with [`Input::WalSynced`] once durable;
//! - replies, read permissions and events to one session core in the order given.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{ConfChange, Message};

use super::arrival::Arrival;
use super::install::Replaced;
use crate::btree::Readers;
use crate::error::Error;
use crate::mvcc::EventBatch;
use crate::mvcc::compact_hash::CompactionDigest;
use crate::mvcc::hash::KvHash;
use crate::page::CheckpointJob;
use crate::response::Response;
use crate::stdx::time::Duration;
use crate::wal::{SegmentName, Write};

/// Names a request on its way. Opaque here: it comes back with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u128);

/// A question to the lessor, answered without the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseCall {
    /// Renew a lease.
    KeepAlive {
        /// Id of the lease.
        id: i64,
    },
    /// What is left of a lease.
    TimeToLive {
        /// Id of the lease.
        id: i64,
    },
    /// When leases end: a few hundred at most, as all are answered in one turn.
    Expiries {
        /// Ids of the leases.
        ids: Vec<i64>,
    },
}

/// What the replica is told.
pub enum Input {
    /// One tick of raft's clock has passed.
    Tick,
    /// A request to replicate.
    Propose {
        /// Where the reply goes.
        ticket: Ticket,
        /// The id in the entry's header; no other request has it.
        id: u64,
        /// The encoded `InternalRaftRequest`.
        entry: Bytes,
    },
    /// Nobody waits any more for the reply to the proposal with this id: it is applied all the same. Never of a
    /// LeaseRevoke: one without a ticket counts as an expiry.
    Forget {
        /// The id in the entry's header.
        id: u64,
    },
    /// A read wants to know when it may look.
    ReadIndex {
        /// Where the permission goes.
        ticket: Ticket,
    },
    /// A question to the lessor.
    Lease {
        /// Where the reply goes.
        ticket: Ticket,
        /// The question.
        call: LeaseCall,
    },
    /// Give back what the store file can do without, and reply when that is done.
    Defragment {
        /// Where the reply goes.
        ticket: Ticket,
    },
    /// A client changes the members. What the rules of the cluster do not allow is found out when the change is
    /// applied.
    Configure {
        /// Where the reply goes.
        ticket: Ticket,
        /// The change; the replica gives it an id.
        change: Box<ConfChange>,
    },
    /// A client wants a learner to get its vote.
    Promote {
        /// Where the reply goes.
        ticket: Ticket,
        /// The learner's id.
        id: u64,
    },
    /// A client wants leadership to go to another member.
    MoveLeader {
        /// Where the reply goes.
        ticket: Ticket,
        /// That member's id.
        target: u64,
    },
    /// This member is about to stop: if it leads, another one is to lead.
    Resign,
    /// The versions of all other members; none of those that do not answer.
    Versions(Vec<Option<String>>),
    /// A message from another member.
    PeerMessage(Box<Message>),
    /// A message to the member with this id was lost.
    PeerUnreachable(u64),
    /// A message to another member was not sent, so it has surely not reached that member.
    Undelivered(Box<Message>),
    /// The process of the member with this id has ended: connections with it were ended, and new ones are refused.
    PeerGone(u64),
    /// A snapshot that another member has sent, in a file of its own. No other one is under way, from here until
    /// [`Output::RefuseSnapshot`] or [`Output::Installed`].
    Snapshot(Box<Arrival>),
    /// What [`Output::PlaceSnapshot`] asked for is done, durably.
    SnapshotPlaced,
    /// A snapshot was sent to the member with this id, or not.
    SnapshotSent {
        /// Id of that member.
        to: u64,
        /// The member has taken it.
        is_taken: bool,
    },
    /// The write of that number, and all before it, are durable.
    WalSynced {
        /// The number that [`Output::AppendWal`] gave the write.
        ready: u64,
        /// The write's memory, to be used again.
        buffer: Vec<u8>,
        /// How long the disk took for it.
        took: Duration,
    },
    /// The job of that generation was executed: the checkpoint is durable.
    CheckpointSynced {
        /// The job's [`CheckpointJob::generation`].
        generation: u64,
    },
    /// The disk has no room for the checkpoint under way, which is tried again until it has.
    CheckpointRefused,
    /// The oldest digest under way is done.
    CompactionDigested {
        /// The hash, with the revisions that it covers; an error when a record in the store cannot be read.
        hash: Result<KvHash, Error>,
    },
}

/// What the world is to do.
pub enum Output {
    /// Write to the log.
    AppendWal {
        /// The number by which [`Input::WalSynced`] reports the write.
        ready: u64,
        /// The bytes, and their place in the log.
        write: Write,
    },
    /// Write the store file: a checkpoint, or pages of an entry that takes too much memory. One job at a time is under
    /// way, and [`Input::CheckpointSynced`] reports each.
    WriteCheckpoint(CheckpointJob),
    /// Take a compaction's hash, step by step, anywhere and at leisure: only the removal of garbage waits for it.
    /// One at a time is under way.
    DigestCompaction(Box<CompactionDigest>),
    /// Delete log segments.
    ReleaseWal {
        /// The segments that nothing needs.
        segments: Vec<SegmentName>,
    },
    /// Send to another member.
    Send {
        /// Id of that member.
        to: u64,
        /// The message.
        message: Box<Message>,
    },
    /// Send the newest published state to another member that lags, and say how that has ended with
    /// [`Input::SnapshotSent`].
    SendSnapshot {
        /// Id of that member.
        to: u64,
        /// The message that goes with the state, but for what it says of the state's index, term and members.
        message: Box<Message>,
    },
    /// Raft has taken the snapshot that came last: give its file the name of the store file.
    PlaceSnapshot,
    /// Raft has no use for this snapshot: it is not of the leader, or has nothing that this member lacks.
    RefuseSnapshot(Box<Arrival>),
    /// A snapshot is published. Everybody who reads does so with these readers from now on.
    Installed {
        /// The way into the new store.
        readers: Readers,
        /// The revision of the snapshot.
        revision: i64,
        /// What the snapshot has taken the place of.
        replaced: Box<Replaced>,
    },
    /// Ask the lessor of the leader, and answer a request with what it says.
    AskLessor {
        /// Id of the leader.
        leader: u64,
        /// The ticket of the request.
        ticket: Ticket,
        /// The question; never one about expiries, which each member answers by itself.
        call: LeaseCall,
        /// The revision that the answer shows.
        revision: i64,
    },
    /// Ask the leader to promote a learner, and answer a request with what the leader says.
    AskPromotion {
        /// The ticket of the request.
        ticket: Ticket,
        /// The learner's id.
        id: u64,
    },
    /// This member was removed from its cluster for good: it has to stop, once the others have been told what they
    /// wait for.
    Removed,
    /// Answer a request.
    Reply {
        /// The ticket of the request.
        ticket: Ticket,
        /// The response, or why there is none.
        result: Result<Response, Error>,
    },
    /// Let a read look at the published state.
    ReadReady {
        /// The ticket of the request.
        ticket: Ticket,
    },
    /// A member has sent a message that no correct member sends, and that was dropped. Said once for each fault of a
    /// member.
    Unsound {
        /// Id of that member.
        from: u64,
        /// What is wrong with the message.
        why: String,
    },
    /// Tell all watchers.
    Publish(Arc<EventBatch>),
    /// Stop: the next entry of the log cannot be applied, or a record of the store cannot be read. Nothing more is
    /// applied. What was published and answered until then stands.
    Halt {
        /// Why, and what to do.
        reason: String,
    },
    /// Everything that a compaction allowed to go has gone.
    Compacted {
        /// The compaction revision.
        revision: i64,
        /// Revisions removed since the last such report.
        removed: u64,
    },
}

/// Outputs of a turn, in order.
pub type Outputs = Vec<Output>;
