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
//! | plant | what is wrong | seed |
//! |---|---|---|
//! | `skipped-sync` | A sync of the log says it is done and does nothing. | 3 |
//! | `early-sync` | The end of a log write is reported before it has come. | 0 |
//! | `applied-behind` | The store claims an index one below what its trees contain, so an entry is applied twice. | 10 |
//! | `applied-ahead` | The store claims an index one above what its trees contain, so an entry is left out. | 1 |
//! | `tail-not-zeroed` | What a torn write left behind the end of the log stays there. | 20928 |
//! | `last-record-dropped` | Recovery takes the last whole record for torn. | 1 |
//! | `early-checkpoint` | A checkpoint is reported durable before it is: the log goes, and pages are used again too early. | 1534 |
//! | `skipped-store-sync` | A sync of the store file does nothing. | 1 |
//! | `meta-before-pages` | The meta page of a checkpoint is written before the pages that it names are durable. | 3 |
//! | `released-too-much` | The log loses one segment more than the replica released. | 11 |
//! | `compaction-eats-live` | A compaction takes a pair that is still to be read. | 1 |
//! | `stale-read` | A linearizable read asks nobody: after a restart it shows the last checkpoint. | 5006 |
//! | `lost-on-catch-up` | A response with events is lost on its way to somebody who catches up. | 5 |
//! | `doubled-event` | A response with events comes twice. | 4 |
//! | `progress-overtakes` | Progress overtakes events on their way. | 0 |
//! | `lease-revived` | A restart brings back a lease that was revoked. | 248 |
//! | `fast-clock` | The member's clock is a fifth too fast, so leases expire early. | 2 |
//!
//! Absent: the network, other members, TLS, HTTP/2, glommio, and the mapping of the store file (pages are read one by
//! one). Start reading at [`world`].
//!
//! [`Replica`]: kevel::replica::Replica
//! [`Hub`]: kevel::watch::Hub
#![forbid(unsafe_code)]

mod check_lease;
mod check_watch;
mod client;
mod disk;
mod ending;
mod judge;
mod log;
mod member;
mod model;
mod params;
mod plant;
mod process;
mod run;
mod session;
mod trace;
mod watching;
mod workload;
mod world;

fn main() -> std::process::ExitCode {
    run::main(std::env::args().skip(1))
}
