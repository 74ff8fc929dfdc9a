//! A cluster in which the script plays all members but one: two founders, and two that join.
//!
//! ```text
//!   Peer ◀──┐                      ┌──▶ Replica ──▶ AppendWal ──▶ Disk
//!     ▲     ├──▶ messages, some ───┤                                │
//!   Peer ◀──┘    lost or doubled   └──  a new process ◀─ crash ─────┘
//! ```
//!
//! The peers lead, hand out entries that the leader of a later term writes over, ask for votes, and change the members:
//! learners come, catch up, are promoted, go and try to come again, some with the address of another. Two of them run
//! for the same term at times, and the member crashes between their questions. Who joins has an empty log, and answers
//! like everybody else. At times all is calm for two seconds, in which changes of the members become durable; what
//! follows finds them in the store.
//! The member answers, leads at times, and dies between any two of its I/Os. The generator decides what happens next;
//! there is no queue of events. What is judged ([`judge`]):
//!
//! - what a quorum holds is never replaced, and nobody leads without it;
//! - a restart finds in the log what was durable, and nothing that was written over;
//! - the member applies what the script has committed, in that order, and no more; who is a member, with which address
//!   and with or without a vote, is what etcd's rules make of the log;
//! - a linearizable read sees what was committed before it was asked for, also where the member says that reads need no
//!   round;
//! - a mark in the log names those who were members then;
//! - the member has one vote in a term, and neither term, commit nor applied index goes back;
//! - a start knows of all changes of members in its log but the last that they are committed;
//! - what the member says to be committed is held by a quorum; what it answers to clients is committed;
//! - whom the member wants to send a snapshot lacks an entry that its store had when the process began, and no other
//!   entry would do;
//! - once all is calm, everybody catches up.
//!
//! No snapshot is made in this world. Where the member says that a peer needs one, the script hands the peer what the
//! snapshot would contain ([`network`]), so nothing is excused: the cluster has to agree all the same.
//!
//! ```text
//!   world     the cluster and the member's turns       script    what the peers and clients do next
//!   peer      a scripted member                        network   messages, and snapshots
//!   boot      the member as a start makes it           look      what the member shows
//!   judge     what may be shown                        calm      when nothing is lost
//! ```
#![forbid(unsafe_code)]

mod boot;
mod calm;
mod judge;
mod look;
mod network;
mod peer;
mod script;
mod world;

pub use world::World;
