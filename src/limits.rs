//! Every bound of the deterministic half, with its reason.
#![forbid(unsafe_code)]

use crate::stdx::time::Duration;

/// Proposals that may wait for their entry to be applied. Above it a client is told to come back: more would only
/// wait longer, and each holds its request in memory. Twenty times what a thousand busy streams have on the way.
pub const PROPOSALS_PENDING_MAX: usize = 20_000;

/// Bytes of such proposals.
pub const PROPOSALS_PENDING_BYTES_MAX: usize = 256 << 20;

/// Committed entries that may wait to be applied before new proposals are refused, as in etcd.
pub const COMMITTED_UNAPPLIED_MAX: u64 = 5_000;

/// Reads that may wait for a quorum to confirm the leader.
pub const READS_WAITING_MAX: usize = 100_000;

/// How long a proposal waits beside twice the election timeout; etcd's request timeout. A read or a proposal that
/// the session has given up already is only swept up by it.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Entries handed to apply in one go, in bytes: a restart that replays a long log answers ticks in between.
pub const APPLY_BYTES_PER_READY: u64 = 8 << 20;

/// One append message to a follower, in bytes; etcd's own figure.
pub const APPEND_MESSAGE_BYTES: u64 = 1 << 20;

/// Append messages on the way to one follower; etcd's own figure.
pub const APPEND_MESSAGES_IN_FLIGHT: usize = 512;

/// Bytes of applied entries kept in memory for followers that lag.
pub const TAIL_BYTES_MAX: usize = 64 << 20;

/// Bytes of log that a restart may have to replay; at some 100 MB/s this bounds a restart to well below a second.
pub const REPLAY_BYTES_MAX: u64 = 64 << 20;

/// Memory that pages may hold which no checkpoint has written.
pub const DIRTY_BYTES_MAX: u64 = 64 << 20;

/// A store that nobody writes to is written out after this time, so that the next start replays nothing.
pub const CHECKPOINT_IDLE: Duration = Duration::from_secs(5);

/// Revisions removed by one slice of a compaction: some hundred microseconds between two turns.
pub const SWEEP_PER_TURN: usize = 256;

/// Leases revoked by one turn; etcd revokes at most 1000 a second.
pub const LEASES_REVOKED_PER_TURN: usize = 256;

/// A buffer for log writes that has grown beyond this is given back instead of being kept.
pub const WAL_BUFFER_BYTES_KEPT: usize = 1 << 20;

const _: () =
    assert!(APPLY_BYTES_PER_READY <= REPLAY_BYTES_MAX, "a slice of a replay is no longer than a replay");
const _: () = assert!(PROPOSALS_PENDING_MAX as u64 >= COMMITTED_UNAPPLIED_MAX, "the wider bound holds first");
