//! The logic of one member: raft, the log, apply, leases, checkpoints. The replica lives on the replica core, and says
//! what is to be done instead of doing it.
//!
//! ```text
//!   inputs ──▶ step ──▶ waiting proposals, reads, lease questions; raft messages; what became durable
//!                         │
//!              drain ◀────┘   1 propose all that waits as one append        propose
//!                │            2 raft's readies: log write, messages         ready
//!                │            3 committed entries, in one transaction       apply
//!                │            4 replies, events, reads, sweep, checkpoint   replica, checkpoint
//!                ▼
//!            outputs
//! ```
//!
//! The contract with the world is one file, [`port`]. No clock, no random source, no I/O: the server and the
//! simulator drive the same code.
//!
//! Laws:
//! - Nothing is answered before the entry it came from is durable on a quorum: replies are made by applying, and
//!   raft hands out only what is committed and persisted here.
//! - The store contains exactly the entries up to `Applied::index`, in the same atomic write. Recovery applies the
//!   entries after it, no other.
//! - A checkpoint holds only what the log holds too: it freezes published states, and those are of committed,
//!   persisted entries.
//!
//! ```text
//!   bootstrap    a new cluster's first entries              recover    what a start makes of store and log
//!   propose      proposals that wait, and their replies     ready      what raft wants done, in which order
//!   commit       committed entries, a turn's worth          execute    one after the other, over several turns
//!   apply        one entry's effect on the store              halt       what stops a member
//!   read_index   reads that a quorum confirms               read_gate  what sessions may know of raft
//!   election     when a member stands for election          tail       the log's newest entries in memory
//!   policy       when the store file is written             checkpoint a checkpoint from its beginning to its mark
//!   defragment   what is given back when asked for         log_writes writes to the log that are under way
//!   arrival      a snapshot made into a store               install    it takes the place of store and log
//!   marks        what the log says of checkpoints           spill      an entry whose pages take too much memory
//!   heavy        entries that the store file has to keep up with
//!   sweep        what is owed once garbage is swept         digest     hashes of what a compaction removes
//!   leadership   what a leader does once in its term        leases     what a leader does about leases
//!   quota        the second look at the quota               laggards   members that need a snapshot
//!   configure    changes of the members                   handover   leadership that goes to another member
//!   messages     what other members may say               force      a member that goes on alone
//!   fault        faults that tests plant: with debug assertions, or the feature `faults`
//!   bucket_hash  the hash of all that etcd would store      tally      counts for the metrics
//!   bounds       what a simulation makes smaller
//! ```
#![forbid(unsafe_code)]

pub mod apply;
pub mod arrival;
pub mod bootstrap;
pub mod bucket_hash;
pub mod configure;
pub mod force;
pub mod port;
pub mod read_gate;
pub mod tally;

mod bounds;
mod checkpoint;
mod commit;
mod defragment;
mod digest;
mod election;
mod execute;
#[cfg(any(debug_assertions, feature = "faults"))]
mod fault;
mod halt;
mod handover;
mod heavy;
pub mod install;
mod laggards;
mod leadership;
mod leases;
mod log_writes;
mod marks;
mod messages;
mod policy;
mod propose;
mod quota;
mod read_index;
mod ready;
mod recover;
#[allow(clippy::module_inception)]
mod replica;
mod spill;
mod sweep;
mod tail;
#[cfg(test)]
mod tests;

pub use bounds::Bounds;
#[cfg(any(debug_assertions, feature = "faults"))]
pub use fault::Fault;
#[cfg(any(debug_assertions, feature = "faults"))]
pub use leases::LessorFault;
pub use recover::{Opening, refusal, removal, unapplied};
pub use replica::{Replica, Settings};
