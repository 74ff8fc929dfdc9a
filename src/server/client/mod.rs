//! Calls that this process makes at the client port of another server with etcd's API: a command asks the members of a
//! cluster, and a member that is to be founded asks a discovery service.
//!
//! ```text
//!   connection   a connection, with or without TLS, and calls with one answer
//!   answers      a call whose answers come one after the other, and whether its server is still there
//!   frame        the prefix of a message, and the status at the end of a call
//!   tests        servers that answer, refuse, go on, or hear nothing any more
//! ```
//!
//! HTTP/2 is h2's, and not `server/http2`, which plays the server's part alone. What a server sends is bounded in
//! length and is not unpacked: nobody here says that it may be packed.
//!
//! Lives on an executor. Absent on purpose: a pool of connections, and attempts that repeat themselves. Whoever asks
//! knows what may be asked twice.
#![forbid(unsafe_code)]

mod answers;
mod connection;
mod frame;
#[cfg(test)]
mod tests;

pub use answers::Answers;
pub use connection::Client;
pub use frame::Failure;
