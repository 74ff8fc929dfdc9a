//! The real world: executors, sockets, files, clocks, and the translation between etcd's API and the core.
//!
//! Nothing in here decides what the database means; that is the deterministic half. A request comes in at the top
//! of this table and goes down; each folder uses only folders below its own, and `io`.
//!
//! ```text
//!   run        a member's life: open, recover, serve, stop
//!   boot       what happens once at start: the data directory, listening sockets, signals
//!   core       the two loops and the lanes between them: replica core, session core; the threads beside them
//!   mesh       bounded lanes between two cores
//!   http2      HTTP/2 as a pure machine        http1  HTTP/1.1      one connection each, bytes in and out
//!   grpc       gRPC over http2                 admin  the endpoints over http1: health, version, metrics
//!   call       what a handler sees of a call, of whatever transport: method, status
//!   api        etcd's API, one file per service: decode, check, ask the core, translate back
//!   session    one session core's state: snapshots, headers, proposals waiting for replies, streams
//!   log        log lines in etcd's format      metrics  counters, and their text for Prometheus
//!   io         the door to the operating system
//! ```

pub mod admin;
pub mod api;
pub mod boot;
pub mod call;
pub mod core;
pub mod grpc;
pub mod http1;
pub mod http2;
pub mod io;
pub mod log;
pub mod mesh;
pub mod metrics;
pub mod run;
pub mod session;
