//! Watching: every change of a key, to everyone who asked, once, in order, whole revisions at a time.
//!
//! One [`Hub`] lives on each session core and serves the watch streams of that core's connections. It is plain
//! synchronous code: the driver hands in requests, published batches, room in the transport and the time; the
//! hub leaves [`Output`]s to be written, in order. It opens nothing, knows no clock and no raft.
//!
//! ```text
//!   replica core                 session core
//!   apply ── EventBatch ║──────▶ Hub::on_publish ── KeyIndex::stab ──▶ watchers ──▶ Output ──▶ transport
//!                                                                       │ no room     ▲
//!                                                                       ▼             │
//!   store (all revisions) ═════▶ Hub::catch_up ◀── scan ◀── on_window ── next = r ────┘
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
//! ```
//!
//! # What cannot be sent
//!
//! The events of one revision go out together, and gRPC carries no message of more than 2 GiB. Events beyond that are
//! measured and not encoded, and a stream that wants one of them ends with an error, each time its client comes back.
//!
//! # Invariants
//!
//! - A synced watcher has been sent every matching event of revisions `start..=hub.revision`, and none later.
//! - A rider has been sent every matching event below `max(next, scan.at)`; a parked watcher, below `next`.
//! - All matching events of one revision go out in one response, or in fragments if the client asked for them.
//! - `hub.revision` only moves in `on_publish`; a scan never reads past it, so the two never overlap or leave a gap.
//! - Progress is promised only for `hub.revision`, and after the outputs of that revision's events.
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
//! Permissions (the caller checks them and calls [`Hub::refuse`]), timers other than the progress interval, and any
//! bound on the number of watchers (the transport bounds streams; the driver stops reading a stream without room).
//!
//! Start reading at [`hub`]; `history` is what catching up reads.
#![forbid(unsafe_code)]

pub mod encode;
pub mod history;
pub mod hub;

mod catch_up;
mod interval;
mod key_index;
mod progress;
mod watcher;

#[cfg(test)]
mod tests;

pub use catch_up::Budget;
pub use encode::Output;
pub use history::{Event, EventBatch, History, PastEvent};
pub use hub::{Hub, HubConfig, HubStats, StreamId};
