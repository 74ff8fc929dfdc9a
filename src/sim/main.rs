//! The simulated world: one member, a hostile disk, a virtual clock, and a judge who knows every answer.
//!
//! ```text
//!   cargo run --release --bin sim -- --seeds 100000        many worlds, on all cores
//!   cargo run --release --bin sim -- --seed 4711           one world, with its last events if it fails
//!   cargo run --release --bin sim -- --plant early-sync    does the judge find it?
//! ```
//!
//! A seed is a world: how many session cores and clients, how fast the disk, how long the lanes, what is asked, when
//! the process dies and what the disk keeps. The member in it is the one of the server: [`Replica`] behind its port,
//! store, log and [`Hub`]s; only clock, disk, lanes and clients are made up. Each seed runs twice and must leave the
//! same trace, which finds a stray clock or an unordered map without any lint.
//!
//! ```text
//!   clients ── lanes ──▶ Replica ──▶ AppendWal ──▶ Disk          the judge reads the log on its way to the disk,
//!      ▲                    │                       │            replays it on the Model, and compares replies,
//!      │   hubs, readers ◀── Publish, Reply          └─ crash ─▶  reads, watch streams, leases, and what is left
//!      └─────── judged ─────┘                                    after each crash
//! ```
//!
//! What is judged:
//! - every reply is the one the log order gives, durable before it is sent, and after everything acknowledged before
//!   it was asked;
//! - every snapshot is the state after exactly the entry it claims, and a linearizable read misses nothing;
//! - every watch stream is a slice of history: complete, ordered, unique, whole revisions, right previous values,
//!   resumable; no progress is promised too early, and none is refused when all is quiet;
//! - no lease expires early, none stays late, none comes back;
//! - after a crash the log has all that was acknowledged, and the store nothing else; HashKV is etcd's number;
//! - where bytes rotted, the member stops or serves what is right.
//!
//! The judge shares no code with the member but the generated messages: [`log`] parses the log, [`model`] executes
//! it, [`check_watch`] and [`check_lease`] know what may be seen. That it can fail is shown by planted bugs
//! ([`plant`]); each names a seed that finds it:
//!
//! | plant | what is wrong | how it is found |
//! |---|---|---|
//! PLANT_TABLE
//!
//! Absent: the network, other members, TLS, h2, glommio, and the mapping of the store file (pages are read one by
//! one). Start reading at [`world`].
//!
//! [`Replica`]: kevel::replica::Replica
//! [`Hub`]: kevel::watch::Hub
#![forbid(unsafe_code)]

mod check_lease;
mod check_watch;
mod client;
mod disk;
mod judge;
mod log;
mod member;
mod model;
mod plant;
mod run;
mod trace;
mod workload;
mod world;

fn main() -> std::process::ExitCode {
    run::main(std::env::args().skip(1))
}
