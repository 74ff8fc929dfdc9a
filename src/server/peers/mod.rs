//! The other members of the cluster, as etcd reaches them: streams, requests, and what is served at the peer port.
//!
//! ```text
//!                     replica loop
//!    messages for raft ▲        │ Output::Send
//!                      │        ▼
//!        inbox ────────┘      switchboard ── a link for each member
//!          ▲                    │ append, message                 │ pipeline
//!          │                    ▼                                 ▼
//!        reader ◀─ dials ─    writer ◀─ GET /raft/stream ─ service   pipeline ── POST /raft ──▶
//! ```
//!
//! ```text
//!   switchboard  who the other members are, and which way a message takes to one
//!   link         one member: its addresses, and what waits for it
//!   outgoing     messages that wait for one stream, and who writes it
//!   inbox        what has come for the replica
//!   writer       writes a stream into the answer to the one who dialled it
//!   reader       dials a stream and reads it
//!   pipeline     messages one by one, while there is no stream
//!   transfer     a snapshot that is sent to a member that lags
//!   reception    a snapshot that is taken in
//!   intake       the thread that makes a store of it
//!   client       a connection that asks
//!   stream       its bytes, with or without TLS
//!   service      what is answered at the peer port
//!   guests       who has a place there
//!   hash_kv      the hash of this member's data, and of others'
//!   lessor       questions about leases, to the leader and from followers
//!   promotion    learners that are to get their vote, likewise
//!   join         what a new member asks before it starts
//!   versions     which versions the others have, asked by a leader
//!   probe        how long the others take to answer
//! ```
//!
//! # Invariants
//!
//! - All queues are bounded by number and bytes. A message that finds its queue full is dropped and raft is told that
//!   the member is unreachable, as it is about messages whose connection ends before they are written. Of these the
//!   replica gets back what it has proposed, where nothing of the message was sent.
//! - No message waits for another link. A member that does not answer costs an attempt to connect in a tenth of a
//!   second for each of its two streams and for each of four posts, and the messages that its queues hold. Snapshots
//!   are sent to one member at a time.
//! - A message is sent once. Whether a connection that ends has delivered what was written is not known, and a proposal
//!   that arrives twice is applied twice.
//! - What a peer sends is taken no faster than the replica takes it: a reader waits while the inbox is full, and so
//!   does whoever posts. A message has a length that requests have (`peer::message`), whatever a peer says of it.
//! - Strangers take no places of members, however many come and whatever they do.
//!
//! All of it lives on the replica core.
#![forbid(unsafe_code)]

mod client;
mod guests;
pub mod hash_kv;
mod inbox;
mod intake;
pub mod join;
mod lessor;
mod link;
mod outgoing;
mod pipeline;
mod probe;
mod promotion;
mod reader;
pub mod reception;
mod service;
pub mod stream;
mod switchboard;
#[cfg(test)]
mod tests;
mod transfer;
mod versions;
mod writer;

pub use switchboard::{Beginning, Own, Switchboard};
pub use versions::Asked;
