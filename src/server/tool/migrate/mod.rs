//! `kevel migrate`: the data directory of a stopped member of etcd made that of the same member of Kevel, and back.
//!
//! The member keeps its ids, its place in the cluster, its term and its vote, so it goes on where it stopped, also in a
//! cluster whose other members are still etcd. All facts of the one format have a place in the other:
//!
//! ```text
//!   etcd                              Kevel
//!   member/snap/db      bbolt   ◀──▶  member/kevel/store   pages; up to the same entry of the log
//!   member/wal/*.wal            ◀──▶  member/wal/*.wal     one format; written anew, from what others may need on
//! ```
//!
//! # In place, and after a crash
//!
//! ```text
//!   DIR/migrating/member/…   made, read again, durable       what a crash leaves is removed by the next attempt
//!   DIR/migrating/complete   the new member is whole
//!   DIR/member ◀─▶ DIR/migrating/member                      the two exchange their names
//!   WALDIR/*.wal ──▶ WALDIR/member.etcd/                     a log that lay apart is set aside
//!   DIR/migrating/member ──▶ DIR/member.etcd                 the next attempt does this, where a crash came before
//! ```
//!
//! What was there is kept until the operator removes it, but it is no way back once the new member has run: the member
//! would have forgotten what it promised since. The way back is to migrate again.
//!
//! ```text
//!   command     the command line                     staging    the new folder, until it takes the old one's place
//!   from_etcd   a member of Kevel from one of etcd    to_etcd    a member of etcd from one of Kevel
//!   database    what a database of etcd says of itself
//!   members     whether it says the same of its members and of the voters that raft goes by
//!   locks       that nobody uses a directory of etcd  new_log    the log of a new member
//!   meter       how far a long step has come
//!   tests       all of it on files
//! ```
#![forbid(unsafe_code)]

pub mod command;
mod database;
mod from_etcd;
mod locks;
mod members;
mod meter;
mod new_log;
mod staging;
#[cfg(test)]
mod tests;
mod to_etcd;
