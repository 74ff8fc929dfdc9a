//! Many versions of every key: the data model that etcd promises, over the ordered maps of `btree`.
//!
//! Every write gets the next *main revision*, and the changes within it are numbered by *sub revision*. Nothing is
//! overwritten: a put adds a version, a deletion adds a tombstone, and a read picks, per key, the newest version that
//! is not above the revision it reads at.
//!
//! ```text
//!            rev 2     rev 3     rev 4     rev 5            a read at 4 sees  a=3, b=2
//!   key a    put 1               put 3                      a read at 5 sees  a=3
//!   key b              put 2               delete           a compaction at 4 removes a's version of 2
//! ```
//!
//! The same changes are kept in two orders, and what is dead in a third ([`schema`] has the bytes):
//!
//! - `Kv`, by revision: what `HashKV` digests and what watchers that fell behind re-read. It grows at its right edge.
//! - `Index`, by key, newest version first: all that is needed to answer anything but a value. Count, keys-only
//!   lists, conditions and the exact length of a list's answer never touch `Kv`.
//! - `Garbage`, by the revision that killed: a compaction removes what died, in slices, and never looks at what lives.
//!
//! # Who calls what
//!
//! ```text
//!   session core                                   replica core
//!   check::*          before anything is proposed  Writer, TxnWrite, compact::mark   inside one write transaction
//!   View::new(&snapshot)                           compact::sweep                      in slices, between turns
//!     range::answer, range::Plan, RangeStream, ReadTxn
//!     View::events, value_at     (watch catch-up)
//!     HashKv
//!                                                  the digester
//!                                                  compact_hash::CompactionDigest   before the sweep
//! ```
//!
//! A [`View`] is a consistent state for one synchronous slice of work. What takes longer ([`range::Plan`],
//! [`RangeStream`], [`ReadTxn`], [`hash::HashKv`]) is a small state machine that is given a fresh view for every leg.
//! It holds no page in between, but a revision, which its owner pins: the sweep spares whatever died above the lowest
//! pin.
//!
//! # Which file has what
//!
//! ```text
//!   revision, schema              revisions; the bytes of keys and values in each tree
//!   view, walk, values            one state of the store; its live keys in order; its values by revision
//!   write, event                  one write; what watchers are told of it, then and later
//!   check, condition, txn         what a request must not say; a transaction's conditions, and what it comes to
//!   txn_write, op_walk            transactions that write, in slices; the operations on the path of one
//!   answer_body, answer_room      an answer that is put together within a write, and how long it may be
//!   planned                       what is planned and then written, in slices
//!   range, range_stream, txn_read answers of any length to what only reads
//!   remembered, leaf_counts       what a core keeps for such answers: their plans, and the counts of leaves
//!   compact, pin                  forgetting; the revisions that answers under way still read
//!   attached                      the keys of a lease
//!   duplicate_keys, key_set       a key that a transaction would write twice; keys as ranges
//!   hash, compact_hash            the numbers by which members compare their histories
//!   model, fuzz                   the same once more, plainly; one held against the other
//! ```
//!
//! # Invariants
//!
//! - `Kv` and `Index` hold the same changes. `Garbage` lists exactly those that are dead: superseded values, due at
//!   the revision that superseded them, and tombstones, due one later.
//! - `LeaseKey` lists exactly the live keys with a lease. A key is never attached to a lease that does not exist.
//! - `Applied::revision` is the main revision of the last change; it, the compaction revision and the trees change in
//!   the same commit.
//! - Stored `KeyValue` bytes are what etcd would store, and are copied, never encoded again.
//! - A write fails only where the store is damaged: what a client can do wrong is found before the first change. A
//!   record that cannot be read, or that is missing, is [`Error::Corrupt`](crate::error::Error::Corrupt) to a read, and
//!   stops the member where a write or a sweep meets it.
//!
//! # Deliberately absent
//!
//! Clocks and leases' expiry (`lease`), permission, quota and alarms (`replica::apply`), watchers (`watch`), any cache:
//! the pages of `Index` are the cache.
//!
//! [`model`] says the same once more as plainly as possible, and [`fuzz`] holds the two against each other. To read
//! on, start with [`schema`] and [`view`], then [`write`].
#![forbid(unsafe_code)]

pub mod answer_body;
pub mod answer_room;
pub mod attached;
pub mod check;
pub mod compact;
pub mod compact_hash;
mod condition;
pub mod duplicate_keys;
pub mod event;
pub mod fuzz;
pub mod hash;
mod key_set;
pub mod leaf_counts;
pub mod model;
mod op_walk;
pub mod pin;
pub mod planned;
#[cfg(all(test, feature = "loom"))]
mod races;
pub mod range;
pub mod range_stream;
pub mod remembered;
pub mod revision;
pub mod schema;
pub mod txn;
pub mod txn_read;
pub mod txn_write;
mod values;
pub mod view;
pub mod walk;
pub mod write;

pub use event::{Event, EventBatch, PastEvent};
pub use planned::{Planned, Progress, Slices};
pub use range_stream::RangeStream;
pub use revision::Revision;
pub use txn_read::ReadTxn;
pub use view::View;
pub use write::Writer;
