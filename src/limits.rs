//! Bounds of the deterministic half, each with its reason.
#![forbid(unsafe_code)]

use crate::stdx::time::Duration;

/// Proposals that may wait for their entry to be applied. Above it a client is told to come back: more would only
/// wait longer. Twenty times what a thousand busy streams have on the way.
pub const PROPOSALS_PENDING_MAX: usize = 20_000;

/// A proposal is given up after this time and two election timeouts, as in etcd.
pub const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of proposals that wait for their turn in the log: the log takes them in well under a second. What is too much
/// is refused, unless nothing else waits. Clients can make a session core hold as much again of requests that are not
/// whole.
pub const PROPOSALS_QUEUED_BYTES_MAX: usize = 128 << 20;

/// Committed entries that may wait to be applied before new proposals are refused, as in etcd.
pub const COMMITTED_UNAPPLIED_MAX: u64 = 5_000;

/// Bytes of entries in one append to the log.
pub const APPEND_BYTES_MAX: usize = 8 << 20;

/// Entries applied in one turn, so that a long replay or a burst lets others run.
pub const APPLY_ENTRIES_MAX: usize = 4096;

/// Index entries that apply looks at in one turn, or as much else as takes about as long: putting or deleting a key
/// counts as [`CHANGE_COST`](crate::mvcc::write::CHANGE_COST) of them. Some 400 keys, which take half a millisecond to
/// one; an entry that needs more goes on in the next turn.
pub const APPLY_BUDGET: usize = 6_400;

/// A revision with more changes than this is published without them: a watcher reads them from the store, a slice at
/// a time. What apply hands to every session core stays small, and so does what an entry holds in memory.
pub const EVENTS_PUBLISHED_MAX: usize = 4_096;

/// Bytes of the events of one revision, beyond which it is published without them, likewise. A request brings no more
/// than a megabyte or two, but one that keeps stored values, or deletes long keys, can make any number of bytes.
pub const EVENTS_PUBLISHED_BYTES_MAX: usize = 16 << 20;

/// Memory of the pages that one entry has made, from which on they are written to the file before the entry goes on.
pub const DRAFT_BYTES_MAX: u64 = 32 << 20;

/// An entry whose pages take more than so many bytes is a heavy one: a long value, or many keys. One short change
/// copies less than that, wherever its key is.
pub const HEAVY_ENTRY_BYTES: u64 = 256 << 10;

/// Bytes of pages of heavy entries, from which on a checkpoint is due and no other entry begins before it.
pub const HEAVY_BYTES_MAX: u64 = DRAFT_BYTES_MAX;

/// While the disk has no room for a checkpoint, an entry and what heavy entries have made may take so many times the
/// memory that they may take otherwise. Other bounds stop a member before that whose entries bring long values
/// themselves ([`REPLAY_BYTES_MAX`]).
pub const REFUSED_FACTOR: u64 = 4;

/// Bytes of log entries that may wait in memory behind an entry that takes several turns to apply.
pub const UNAPPLIED_BYTES_MAX: usize = 96 << 20;

/// With so many entries to apply, a log write is handed to the disk before they are applied. With fewer, the turn that
/// it takes costs more than the disk would wait.
pub const APPLY_BESIDE_MIN: usize = 16;

/// Bytes of entries in one message to another member; etcd's own figure.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// Messages to another member that may be unanswered; etcd's own figure.
pub const MESSAGES_INFLIGHT_MAX: usize = 512;

/// Bytes of applied entries that stay in memory.
pub const TAIL_BYTES_MAX: usize = 4 << 20;

/// Bytes of applied entries that stay in memory for members that lag, whatever the number of entries kept for them.
pub const CATCHUP_BYTES_MAX: usize = 64 << 20;

/// Bytes of applied entries that stay in memory for a member to which a snapshot is being sent. Where more come
/// meanwhile, the member needs another snapshot.
pub const AWAITED_BYTES_MAX: usize = 80 << 20;

/// Likewise, their number: each takes some hundred bytes beside its data.
pub const AWAITED_ENTRIES_MAX: usize = 200_000;

/// Snapshots that are sent to members at a time: one to each, and a second one beside one that takes its time.
pub const SNAPSHOTS_SENT_MAX: usize = 2;

/// Linearizable reads that may wait for a round to begin. Above it a client is told to come back.
pub const READS_PENDING_MAX: usize = 65_536;

/// Changes of the members that may wait for the one before.
pub const MEMBER_CHANGES_PENDING_MAX: usize = 64;

/// How long a member that was removed goes on, so that the others and its clients hear of it, etcd's own figure.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// Likewise at most, where one voter is left, which cannot do without the other one before it has heard of the removal.
pub const LAST_FAREWELL: Duration = Duration::from_secs(60);

/// Proposals of other members that a leader keeps while it hands leadership over, and their bytes.
pub const PROPOSALS_HELD_MAX: usize = 4096;

/// See [`PROPOSALS_HELD_MAX`].
pub const PROPOSALS_HELD_BYTES_MAX: usize = 16 << 20;

/// Calls about leases that may wait for their turn, or for a checkpoint of their lease to be cleared, likewise.
pub const LEASE_CALLS_PENDING_MAX: usize = 65_536;

/// Records of the log that a restart may have to replay, besides what comes while a checkpoint is written: half a
/// second with values of 1 KB.
pub const REPLAY_BYTES_MAX: u64 = 32 << 20;

/// So many times as much may come to the log while a checkpoint is written; what would be more waits for it. Large
/// values leave as much in dirty pages.
pub const REPLAY_FACTOR_MAX: u64 = 3;

/// Entries that a restart may have to replay, likewise: small ones take their time each.
pub const REPLAY_ENTRIES_MAX: u64 = 64_000;

/// Memory that pages may hold which have no place in the file, before they are written: what [`REPLAY_ENTRIES_MAX`]
/// puts of 1 KB to random keys leave behind, and somewhat more.
pub const DIRTY_BYTES_MAX: u64 = 192 << 20;

/// [`DIRTY_BYTES_MAX`] of a store of at least [`LARGE_STORE_BYTES`]. In such a store hardly two puts between two
/// checkpoints share a leaf, so an earlier checkpoint writes no more bytes for each put, and the memory is needed for
/// the table of pages (8 bytes for each page read, 60 MB for 20 000 000 values of 1 KB).
pub const DIRTY_BYTES_MAX_LARGE: u64 = 44 << 20;

/// What counts as a large store: a million leaves.
pub const LARGE_STORE_BYTES: u64 = 4 << 30;

/// A checkpoint that would write at most this many page bytes per log byte runs early: at half the replay bound, or
/// when idle.
pub const CHECKPOINT_COST_FAIR: u64 = 2;

/// Bytes of pages that a checkpoint has to free to be due however busy the store is.
pub const CHECKPOINT_FREES_MIN: u64 = 8 << 20;

/// Such a checkpoint frees at least so many times the bytes that it writes. That is so after a compaction or the
/// deletion of much, and not under steady overwriting, where every page written frees another.
pub const CHECKPOINT_FREES_FACTOR: u64 = 4;

/// Beyond this, proposals wait for the checkpoint under way.
pub const DIRTY_BYTES_LIMIT: u64 = 512 << 20;

/// [`DIRTY_BYTES_LIMIT`] of a store of at least [`LARGE_STORE_BYTES`].
pub const DIRTY_BYTES_LIMIT_LARGE: u64 = 88 << 20;

/// Quiet time after which what is left is written, so that the next start replays nothing.
pub const CHECKPOINT_IDLE: Duration = Duration::from_secs(5);

/// A store whose checkpoint would write more than that must be idle for so many times longer: the memory that its pages
/// hold for a minute is worth less than the bytes written.
pub const CHECKPOINT_IDLE_DEAR: u32 = 12;

/// Entries of the lessor's heap looked at, and so leases revoked, in one turn: enough to keep the core busy while the
/// disk writes the batch before, few enough for a put to wait for two such batches (some 7 us for each lease, with the
/// events).
pub const EXPIRE_MAX: usize = 192;

/// Revisions removed between two turns while a sweep is due.
pub const SWEEP_SLICE: usize = 128;

/// Pages that sweeps read from the disk each second: what a small cloud disk gives. On one that gives some 8000, a log
/// write took up to 0.4 s beside as many reads, and 9 ms beside half of them.
pub const SWEEP_READS_PER_SECOND: u32 = 3_000;

/// A log write that takes so long tells that the disk has too much to do.
pub const SWEEP_SLOW_WRITE: Duration = Duration::from_millis(20);

/// The sweep rests for so many times as long as a slow log write took.
pub const SWEEP_REST_FACTOR: u32 = 10;

/// The longest rest of a sweep.
pub const SWEEP_REST_MAX: Duration = Duration::from_secs(2);

/// Bytes of pairs in an answer that is assembled because it is read in the middle of a write: to a Txn that writes,
/// or to a DeleteRange that shows what it deleted. One that is longer becomes an error, after the write was applied.
/// Answers of requests that only read are not assembled, and are bounded by [`MESSAGE_SENT_BYTES_MAX`] alone.
pub const ANSWER_ASSEMBLED_BYTES_MAX: usize = 64 << 20;

/// Bytes of pairs in the answers of one turn beyond which the turn ends, so that session cores can hand them on, or
/// drop those that their clients have no room for.
pub const TOLD_BYTES_MAX: usize = 8 << 20;

/// Bytes of one message to a client: what etcd sends, and what its clients take.
pub const MESSAGE_SENT_BYTES_MAX: usize = i32::MAX as usize;

/// What all answers of a session core may keep of the pairs that they sort, in some 40 bytes for each pair.
pub const SORTED_BYTES_MAX: usize = 128 << 20;

const _: () =
    assert!(ANSWER_ASSEMBLED_BYTES_MAX < MESSAGE_SENT_BYTES_MAX / 2, "what is assembled can be sent");
const _: () = assert!(
    CATCHUP_BYTES_MAX <= AWAITED_BYTES_MAX && AWAITED_BYTES_MAX < UNAPPLIED_BYTES_MAX,
    "proposals go on"
);
const _: () = assert!(TAIL_BYTES_MAX <= CATCHUP_BYTES_MAX, "members that lag find more than nobody needs");
const _: () = assert!(EXPIRE_MAX < APPLY_ENTRIES_MAX, "a batch of expiries is applied in one turn");
const _: () = assert!(
    DIRTY_BYTES_LIMIT >= 2 * DIRTY_BYTES_MAX && DIRTY_BYTES_LIMIT_LARGE >= 2 * DIRTY_BYTES_MAX_LARGE,
    "a checkpoint has time before proposals wait for it"
);

/// Bytes of pairs in one message of a RangeStream, a single pair aside. etcd bounds the number of pairs alone, from
/// what the message before took, so where small values are followed by large ones its messages grow without a bound.
/// Clients of etcd see the same messages up to here.
pub const STREAM_MESSAGE_BYTES_MAX: usize = 256 << 20;
