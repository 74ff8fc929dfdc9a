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
//! Processes die between any two outputs of a turn and start again, power fails, members pause for seconds and go on,
//! clocks tick at different speeds, and the network is parted for a while, in one direction or both. What is judged
//! ([`judge`]):
//!
//! - a revision is the same change on every member that publishes it, and revisions are published in order;
//! - what was answered is in the history for good, at a revision above all that had been answered before it was asked
//!   for;
//! - a linearizable read, by a round or by an open gate, sees at least what was answered to anybody before it was asked
//!   for; a serializable read sees a state that there was;
//! - a lease lives as long as anybody was promised, whoever leads, and no longer than that once nothing fails;
//! - one member leads a term; term, commit and applied index of a member do not go back;
//! - once nothing fails any more, a client's write is applied by every member within some election timeouts, and the
//!   stores hash to the same number.
//!
//! The members here do not send snapshots, so no checkpoint is written: every log goes back to the beginning.
//!
//! ```text
//!   world     what happens when, and the end        node      one member: its disk, its process, its turns
//!   network   who hears whom, and how late          clients   what is asked, and what comes back
//!   faults    deaths, pauses and parted networks    judge     what may be shown
//!   leases    what lessors promise and keep
//! ```
#![forbid(unsafe_code)]

mod clients;
mod faults;
mod judge;
mod leases;
mod network;
mod node;
mod world;

pub use world::World;
