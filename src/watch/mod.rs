//! Watching: every change of a key, to everyone who asked, once, in order, whole revisions at a time.
//!
//! One [`Hub`] lives on each session core and serves the watch streams of that core's connections. It is plain
//! synchronous code: the driver hands in requests, published batches, room in the transport and the time; the
//! hub leaves [`Output`]s to be written, in order. It opens nothing, knows no clock and no raft.
//!
//! ```text
//!   replica core                 session core
//!   apply ── EventBatch ║──────▶ queue ── KeyIndex::stab ──▶ watchers ──▶ Output ──▶ transport
//!                                                                       │ no room     ▲
//!                                                                       ▼             │
//!   store (all revisions) ═════▶ scan, large revision ◀── on_window ── next = r ──────┘
//! ```
//!
//! # The store is the buffer
//!
//! No queue hangs on a watcher. While the transport has room, a watcher gets each batch as it is published: it is
//! *synced*. When its stream has no room for a matching batch, the hub writes down that batch's revision as the
//! watcher's `next` and forgets about it: it is *parked*. Once there is room again, it rides a *scan*, which reads
//! the store by revision up to what was published here, and is synced again. A slow watcher costs one integer.
//! A watcher that starts in the past rides a scan from the beginning.
//!
//! ```text
//!             start in the past, window opens
//!   created ─────────────────────▶ riding ◀────────── parked ◀─┐
//!      │                          │  │  └── no room ─────▲     │ no room
//!      │ start now or later       │  │ compacted away          │
//!      └───────▶ synced ◀─ caught up └──▶ compacted            │
//!                  └────────────────────────────────────────────┘
//!   riding ── alone with too much of one revision ──▶ large ── sent ──▶ riding
//! ```
//!
//! [`states`] has a function for each arrow.
//!
//! # Work is done in slices
//!
//! A request, a batch and a tick are only noted; [`Hub::work`] does one slice of what they ask for, about as much as
//! its budget says, and goes on in the next one where it stopped. A batch for many watchers is matched and handed out
//! over several slices ([`live`]), which may end amid the watchers of one event ([`walk`]). A slice of a scan may
//! end inside a revision ([`catch_up`], [`scans`]), and what it has found is handed out over several slices
//! ([`delivery`]).
//!
//! # Memory is bounded
//!
//! Of one batch or revision, no more is held in memory than [`Limits`] allow, or than one event where one event alone
//! exceeds them. Where the watchers of a batch exceed them together, those watchers are parked and board scans in
//! waves, whose size follows what their stream takes. A watcher that alone has more of one revision than may be held
//! gets the revision piece by piece, read anew from the store for each piece ([`large`]). A response that is longer
//! than gRPC servers send ends its stream, each time its client comes back; a client that asks for fragments gets
//! responses of bounded length. What watchers themselves take, their keys above all, is bounded per stream and for the
//! hub ([`Watched`]); a create request beyond that is refused.
//!
//! # Invariants
//!
//! - A synced watcher has been sent every matching event of revisions `start..=hub.revision`, and none later.
//! - A rider has been sent every matching event below `max(next, scan.at)`, or the scan has it in hand; a parked
//!   watcher, below `next`.
//! - All matching events of one revision go out in one response, or in fragments if the client asked for them.
//! - `hub.revision` moves when a batch is begun; a scan never reads past it, so the two never overlap or leave a gap.
//! - While a batch is handed out, a synced watcher may lack that batch and nothing else.
//! - Progress is promised only for `hub.revision`, after its batch is handed out.
//! - From the first part of a large revision to the last nothing else is sent on its stream: other responses are held,
//!   other watchers parked.
//!
//! The snapshot that a request reads may be ahead of what the lane has delivered here. A watch created then starts
//! after the snapshot's revision, and a progress request waits until the lane has caught up with it.
//!
//! # What an event costs
//!
//! [`key_index`] finds the watchers of a key: exact keys by hash, ranges in an interval tree, O(log ranges +
//! matches). An event is encoded once, and once more if someone wants the previous value; watchers share the bytes
//! and differ in a head of a few dozen bytes ([`encode`]).
//!
//! # Deliberately absent
//!
//! Permissions (the caller checks them and calls [`Hub::refuse`]), and timers other than the progress interval.
//!
//! Start reading at [`hub`]. A [`watcher`] is small; [`interval`] is the tree of ranges, [`progress`] what is promised
//! to those who have everything, [`history`] what is read of the store.
#![forbid(unsafe_code)]

pub mod encode;
pub mod history;
pub mod hub;

mod catch_up;
mod delivery;
mod interval;
mod key_index;
mod large;
mod live;
mod progress;
mod scans;
mod states;
mod walk;
mod watcher;

#[cfg(test)]
mod tests;

pub use catch_up::Budget;
pub use encode::{Output, Part};
pub use history::{Event, EventBatch, History, PastEvent};
pub use hub::{Fault, Hub, HubConfig, HubStats, Limits, StreamId, Watched};
#[cfg(any(debug_assertions, feature = "faults"))]
pub use walk::WalkFault;
