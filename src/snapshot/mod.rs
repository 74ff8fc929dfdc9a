//! A state of the store as the file that etcd would have of it: what backups are, and what etcd's tools and members
//! take.
//!
//! etcd keeps everything in one file of bbolt, in ten buckets. Kevel's trees have the same facts, so the same pairs can
//! be put together from them, and an etcd that is started on the file has the same keys, revisions and HashKV.
//!
//! ```text
//!   bucket            from                 pairs
//!   alarm             tree Alarm           an encoded AlarmMember, nothing
//!   auth              -                    authRevision: 1, as nobody can be given a password yet
//!   authRoles         -
//!   authUsers         -
//!   cluster           tree Meta            clusterVersion: text; downgrade: JSON
//!   key               tree Kv              main 8 BE, '_', sub 8 BE, 't' on a tombstone: the encoded KeyValue
//!   lease             tree Lease           id 8 BE: an encoded lease
//!   members           tree Member          id in hexadecimal: JSON
//!   members_removed   tree Member          id in hexadecimal: "removed"
//!   meta              Applied              confState: JSON; consistent_index, term: 8 BE; scheduledCompactRev and
//!                                          finishedCompactRev: a revision; storageVersion: text
//! ```
//!
//! # One instant, two passes
//!
//! A file is made while writes go on, and its client may take hours for it. Pages of the store cannot be held so long:
//! whatever was written meanwhile would be kept beside them. So what has no revisions is copied from one state first,
//! in slices with its pages held: leases make up most of it, some seventeen bytes each. Changes stay where they are, as
//! a revision tells them from later ones, and a pin at the compaction revision keeps the sweep away from them. What the
//! last compaction has condemned and not yet removed is left out, so that it does not matter how far the sweep gets
//! between the first pass and the second, and the file says that its compaction is finished.
//!
//! Then the changes are walked twice, as [`bbolt`](crate::bbolt) asks for: once to count, once to write.
//!
//! [`buckets`] has the small buckets, which the Hash RPC digests too, [`leases`] the copied leases, [`state`] the
//! instant, and [`file`](mod@file) the passes. [`status`] tells what a file has in it, [`import`] takes pairs into a
//! store, [`fill`](mod@fill) all of a file. [`installed`] is how a store says that it is the snapshot of a leader.
//! [`old_store`] is what etcd before 3.7 needs beside a file.
#![forbid(unsafe_code)]

pub mod buckets;
pub mod file;
pub mod fill;
pub mod import;
pub mod installed;
mod leases;
mod old_store;
pub mod state;
pub mod status;
#[cfg(test)]
mod tests;

pub use file::SnapshotFile;
pub use state::Gathering;
