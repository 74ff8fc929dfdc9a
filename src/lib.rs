//! Kevel: an etcd-v3-compatible datastore.
//!
//! One database, two worlds: everything here outside `server`, `sim` and `stdx::sync` is deterministic, clockless and
//! runtime-free. `server` runs it on glommio, sockets and a mapped file; `sim` runs the same code on a virtual clock
//! and disk.
#![deny(unsafe_code)]

pub mod bbolt;
pub mod btree;
pub mod cluster;
pub mod config;
pub mod error;
pub mod lease;
pub mod limits;
pub mod mvcc;
pub mod nested;
pub mod page;
pub mod peer;
pub mod proto;
pub mod replica;
pub mod request;
pub mod response;
pub mod server;
pub mod session;
pub mod snapshot;
pub mod stdx;
pub mod wal;
pub mod watch;
pub mod wire;
