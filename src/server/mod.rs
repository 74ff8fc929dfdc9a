//! The real world: executors, sockets, files, clocks, and the translation between etcd's API and the core.
//!
//! Nothing in here decides what the database means; that is the deterministic half. Each folder uses only folders that
//! stand below its own in this table. Bytes of a client come in at `io` and go up to `api` by traits that the lower
//! folders declare.
//!
//! ```text
//!   run        a member's life: open, recover, serve, stop
//!   boot       what happens once at start: the data directory, listening sockets, signals
//!   tool       what is done with snapshot files and data directories, without a member
//!   check      members compare their data
//!   client     calls to other servers with etcd's API
//!   core       the loops of the replica core and of a session core, and the threads beside them
//!   peers      the other members: streams to and from them, and what is served at the peer port
//!   api        etcd's API, one file per service: decode, check, ask the core, translate back
//!   session    one session core's state: snapshots, headers, proposals waiting for replies, streams
//!   mesh       bounded lanes between two cores
//!   admin      the endpoints over HTTP/1.1: health, version, metrics
//!   tls        secured ports: certificates, handshakes, streams
//!   metrics    counters, and their text for Prometheus
//!   log        log lines in etcd's format
//!   grpc       gRPC over HTTP/2
//!   http2      an HTTP/2 connection as a pure machine: bytes in and out
//!   http1      HTTP/1.1 connections
//!   gzip       packed texts, for gRPC and HTTP/1.1
//!   call       what a handler sees of a call, of whatever transport: method, status
//!   dns        SRV records
//!   io         the door to the operating system
//! ```

pub mod admin;
pub mod api;
pub mod boot;
pub mod call;
pub mod check;
pub mod client;
pub mod core;
pub mod dns;
pub mod grpc;
pub mod gzip;
pub mod http1;
pub mod http2;
pub mod io;
pub mod log;
pub mod mesh;
pub mod metrics;
pub mod peers;
pub mod run;
pub mod session;
pub mod tls;
pub mod tool;
