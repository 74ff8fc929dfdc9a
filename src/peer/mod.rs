//! What members say to each other, as bytes: etcd's peer protocol, message for message.
//!
//! The receiver of messages dials their sender, and the sender writes into the body of its answer for as long as the
//! connection lasts. There are two such streams from each member to each other one, and requests beside them:
//!
//! ```text
//!   member a                                                        member b
//!     ◀── GET /raft/stream/msgapp/b ──────────────────────────────────
//!     ─── MsgAppend: appended entries, or whole messages ────────────▶   append_stream
//!     ◀── GET /raft/stream/message/b ─────────────────────────────────
//!     ─── all other messages ────────────────────────────────────────▶   message_stream
//!     ─── POST /raft, one message each, while there is no stream ────▶   the pipeline
//! ```
//!
//! The same goes on in the other direction. [`channel`] says which way a message takes, [`greeting`] what a request
//! says of who asks and what it is refused for, [`frame`](mod@frame) takes lengths and bytes off the front of a stream,
//! and [`message`](mod@message) reads one message out of its bytes. [`hash_kv`] is the question by which members
//! compare their data.
//!
//! Decoders take bytes as they come, in pieces of any size, and remember no more than the message under way. What a
//! peer sends may be anything: a decoder answers with an error and never asks for memory before the bytes have come,
//! nor for much more of it than there are bytes.
//!
//! [`fuzz`] reads what was cut and hurt.
//!
//! Absent: sockets, time, and what raft makes of a message.
#![forbid(unsafe_code)]

pub mod append_stream;
pub mod channel;
pub mod frame;
pub mod fuzz;
pub mod greeting;
pub mod hash_kv;
pub mod message;
pub mod message_stream;
