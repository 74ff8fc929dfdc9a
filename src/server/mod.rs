//! The real world: executors, sockets, files, clocks, and the translation between etcd's API and the core.
//!
//! Nothing in here decides what the database means; that is the deterministic half. What knows glommio stays in
//! the two loops (`replica_core`, `session_core`) and in `io`.

pub mod admin;
pub mod api;
pub mod checkpointer;
pub mod cores;
pub mod counting;
pub mod data_dir;
pub mod digester;
pub mod front;
pub mod grpc;
pub mod health;
pub mod http2;
pub mod io;
pub mod log;
pub mod mesh;
pub mod metrics;
pub mod replica_core;
pub mod run;
pub mod session;
pub mod session_core;
pub mod signals;
pub mod tickets;
