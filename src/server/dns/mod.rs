//! SRV records, asked of the name servers of this machine. Addresses of hosts come from the system's own resolver
//! (`io::names`), which has no call for other records.
//!
//! ```text
//!   settings   what /etc/resolv.conf says, and under which names a name is looked for
//!   message    questions and answers as bytes
//!   exchange   sockets, deadlines, and the errors that Go would give
//! ```
//!
//! What is asked is what a program in Go asks with the same file: one question with EDNS(0) over UDP, once more over
//! TCP where the answer was cut, each server in turn, as often as `attempts` says. Answers may come from anybody: one
//! that does not fit the question is waited past, and records are bounded in number.
//!
//! All of it blocks, and is used by a thread that has nothing else to do. Absent on purpose: a cache, DNSSEC.
#![forbid(unsafe_code)]

mod exchange;
mod message;
mod settings;

pub use exchange::records;
pub use message::Record;
