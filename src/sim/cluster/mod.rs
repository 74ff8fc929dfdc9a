//! A cluster of real members, from one to seven: each with its own disk, process and clock, on a network that loses,
//! doubles and reorders messages.
//!
//! ```text
//!   clients ──▶ Node ──▶ Replica ──▶ AppendWal ──▶ Disk        a node for each member
//!                │  ▲
//!                ▼  │  messages: some lost, doubled, late, or cut off in one direction
//!              other nodes
//! ```
//!
//! Processes die between any two outputs of a turn and between any two steps of their disks, and start again; power
//! fails, members pause for seconds and go on or are told to stop, clocks tick at different speeds, and the network is
//! parted for a while, in one direction or both. Checkpoints are written, logs lose their beginnings, and whoever lags
//! gets a snapshot, while clients write and compact. In half of the worlds an operator adds members, as learners or
//! not, promotes, moves and removes them, and has leadership move. What is judged ([`judge`]):
//!
//! - a revision is the same change on every member that publishes it, and revisions are published in order;
//! - what was answered is in the history for good, at a revision above all that had been answered before it was asked
//!   for;
//! - a linearizable read, by a round or by an open gate, sees at least what was answered to anybody before it was asked
//!   for; a serializable read sees a state that there was, also one of the past;
//! - a watcher is shown a slice of the history, complete and in order, from whichever members, and across snapshots;
//!   no progress is promised too early ([`watches`]);
//! - a lease lives as long as anybody was promised, whoever leads, and no longer than that once nothing fails;
//! - one member leads a term, and each votes for one; term, commit, applied index and compaction of a member do not go
//!   back, and no promise is forgotten by a restart;
//! - who belongs to the cluster, what the store hashes to and what a compaction hashes to is the same on all members
//!   behind the same entry;
//! - once nothing fails any more, a client's write is applied by every member within some election timeouts, everybody
//!   who was removed has stopped, and the stores hash to the same number.
//!
//! ```text
//!   world     what happens when, and the end        node      one member: its process, its turns
//!   boot      the member as a start makes it        io        log writes, checkpoints, compactions' hashes
//!   session   its session core                      watches   watchers, and what they are shown
//!   transfer  snapshots between members             members   changes of the members
//!   network   who hears whom, and how late          clients   what is asked, and what comes back
//!   faults    deaths, pauses and parted networks    judge     what may be shown
//!   leases    what lessors promise and keep
//! ```
#![forbid(unsafe_code)]

mod boot;
mod clients;
mod faults;
mod io;
mod judge;
mod leases;
mod members;
mod network;
mod node;
mod session;
mod transfer;
mod watches;
mod world;

pub use world::World;
