//! gRPC over HTTP/2, as far as etcd's clients can tell it from grpc-go.
//!
//! ```text
//!   connection  the task of one HTTP/2 connection: reads, dispatches on the spot, writes, sends once
//!   head        checks of a request's headers; its metadata
//!   reader      chunks of a body -> messages                           frame    the five-byte message head
//!   calls       a unary call and the right to answer it                long     answers too long to assemble
//!   shared      calls that wait, and what their client makes us hold   deadlines of calls
//!   stream      Incoming and Outgoing of streaming calls               messages many small ones as one piece
//!   answer      header blocks
//!   keepalive   pings: too many of the client's, and our own           counters per method, per core
//!   fuzz        random streams of messages, cut anywhere
//!   pongs       acknowledged pings that leave with an answer           packed   packed messages
//! ```
//!
//! The whole lives on one core. A handler ([`Api`]) is called synchronously with a whole message and usually
//! answers before it returns: no task, no allocation for scheduling, and all answers of one wake-up leave in one
//! send. One that cannot answer keeps its [`Responder`] and answers from the session loop; answers to several
//! calls of one connection in one turn of the loop again leave in one send.
//!
//! Bounds, each named where it is used: the length of a message, unfinished messages per connection and core,
//! unsent answers per connection and per stream, the time of a turn; `http2` has those of its own. A client that passes
//! one gets an error or waits; it costs the others nothing.
//!
//! Absent on purpose: reflection, server push.
#![forbid(unsafe_code)]

mod answer;
mod calls;
pub mod connection;
pub mod counters;
mod deadlines;
pub mod frame;
pub mod fuzz;
mod head;
mod keepalive;
mod long;
mod messages;
mod packed;
mod pongs;
mod reader;
mod shared;
mod stream;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

pub use crate::server::call::method::{Kind, Method};
pub use crate::server::call::status::{Code, Status};
pub use calls::{Call, Client, Responder};
pub use head::Metadata;
pub use long::LongAnswer;
pub use messages::Messages;
pub use stream::{Incoming, Outgoing};

use crate::server::http2::{Limits, Memory};
use crate::stdx::time::Duration;

/// The handlers of all methods, on one core.
pub trait Api {
    /// Answers a unary call, at once or later. Must not block.
    fn unary(&self, call: Call, message: Bytes, reply: Responder);

    /// Takes over a streaming call. Must not block: what reads `incoming` is a task of its own.
    fn stream(&self, call: Call, incoming: Incoming, outgoing: Outgoing);

    /// A connection has ended while unary calls of it were not answered: nobody waits for those any more.
    fn gone(&self) {}
}

/// More streams than this per connection are refused whatever the operator says.
pub const STREAMS_MAX: u32 = 25_000;

/// What the operator decides about client connections.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Longest message accepted: `--max-request-bytes` and 512 KiB.
    pub message_bytes_max: usize,
    /// `--max-concurrent-streams`.
    pub streams_max: u32,
    /// `--grpc-keepalive-min-time`: clients may ping this often while calls are open.
    pub ping_interval_min: Duration,
    /// `--grpc-keepalive-interval`: we ping after this long a silence.
    pub ping_after: Duration,
    /// `--grpc-keepalive-timeout`: how long we then wait.
    pub ping_timeout: Duration,
    /// What a client may take for a frame, for a header block, and for its first words; no operator decides this.
    pub unfinished_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            message_bytes_max: 1_572_864 + 512 * 1024,
            streams_max: u32::MAX,
            ping_interval_min: Duration::from_secs(5),
            ping_after: Duration::from_secs(2 * 60 * 60),
            ping_timeout: Duration::from_secs(20),
            unfinished_after: Duration::from_secs(60),
        }
    }
}

impl Settings {
    fn limits(&self) -> Limits {
        Limits { streams_max: self.streams_max.min(STREAMS_MAX) }
    }
}

/// What the connections of one core share.
pub struct Core {
    api: Rc<dyn Api>,
    settings: Settings,
    counters: Arc<counters::Counters>,
    /// What the clients of all connections make this core hold.
    memory: Rc<Memory>,
    pongs: Rc<pongs::Pongs>,
}

impl Core {
    /// A core that answers with `api` and counts into `counters`.
    pub fn new(api: Rc<dyn Api>, settings: Settings, counters: Arc<counters::Counters>) -> Rc<Self> {
        Rc::new(Self { api, settings, counters, memory: Memory::new(), pongs: Rc::default() })
    }

    /// What the clients of all connections make this core hold.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }
}
