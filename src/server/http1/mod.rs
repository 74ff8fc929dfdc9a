//! HTTP/1.1 connections.
//!
//! ```text
//!   connection   reads requests one after the other and writes their answers
//!   head         what the head of a request says, as Go's server takes it
//!   answer       status, headers and body of an answer
//!   reply        an answer as a client reads it
//!   query        the query of a target, percent-encoding
//!   fuzz         heads that are cut anywhere, escapes of any text
//!   memory       what all clients of a core make it hold
//! ```
//!
//! This folder knows how requests are read and answers are written; what is answered to a request is the business of a
//! [`Service`].
#![forbid(unsafe_code)]

use answer::Answer;
use head::Head;

pub mod answer;
pub mod connection;
pub mod fuzz;
pub mod head;
mod memory;
pub mod query;
pub mod reply;

/// Whoever answers the requests of a connection.
#[expect(async_fn_in_trait, reason = "connections stay on their core")]
pub trait Service {
    /// The answer to one request, whose body is not read.
    async fn answer(&self, head: &Head) -> Answer;
}
