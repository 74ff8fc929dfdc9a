//! The server's side of HTTP/2 (RFC 9113), as far as gRPC uses it.
//!
//! ```text
//!   connection   what frames mean: streams, settings, windows, the end            stream    a handle on one of them
//!   sending      what goes out, by the client's windows and settings              slot      what is remembered of it
//!   frame_reader bytes, cut anywhere, to frames                                   frame     heads, numbers and names
//!   hpack        header fields (RFC 7541)                                         request   the head of a request
//!   window       flow control                                                     out       what is to be sent
//!   ids          which stream an id is                                            account   what waits for a client
//!   memory       what all clients of a core make it hold                            backlog   requests to be looked at
//!   charge       what is kept for a call until its answer is written              line      tasks that wait for room
//! ```
//!
//! `fuzz` plays a client that follows no rules.
//!
//! Pure: bytes in, requests and bytes out. It is here, and not the h2 crate, because of what a small call costs: h2
//! serves any use of HTTP/2 from any thread, behind locks, queues and header maps, which was a third of the CPU time of
//! a get. One core, one owner, fields that repeat as one pointer, and frames written where they leave from cost a
//! fraction of it; `perf/profiles` has the numbers. Clients here are h2's.
//!
//! Absent, because gRPC has no use for them: server push, priorities, upgrades from HTTP/1.1, CONNECT.
#![forbid(unsafe_code)]

pub mod account;
mod backlog;
pub mod charge;
mod connection;
mod frame;
mod frame_reader;
pub mod fuzz;
pub mod hpack;
mod ids;
mod line;
pub mod memory;
mod out;
mod request;
mod sending;
mod slot;
mod stream;
#[cfg(test)]
mod tests;
mod window;

pub use connection::{Http2, Limits, Over};
pub use frame::{PREFACE, Reason};
pub use hpack::{Field, Fields};
pub use memory::Memory;
#[cfg(test)]
pub use request::Collector;
pub use request::RequestHead;
pub use stream::{Gone, Stream};
