//! What a handler sees of a call, whatever transport brought it.
//!
//! ```text
//!   method   the methods of etcd's services, their paths and kinds
//!   status   how a call ends: a code of gRPC and a text
//! ```
#![forbid(unsafe_code)]

pub mod method;
pub mod status;
