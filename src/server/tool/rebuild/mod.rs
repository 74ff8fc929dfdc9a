//! `kevel rebuild`: a member whose data are damaged is removed from its cluster and added again, and gets a data
//! directory from which it starts with its usual flags. The others send it all data.
//!
//! The member gets a new id because what it has promised to others, by its votes and by entries of its log, cannot be
//! known any more.
//!
//! ```text
//!   DIR/rebuilding/note       OLD ID, peer URLs, whether it votes      durable before anything is changed
//!   the cluster               remove OLD ID, add NEW ID with the same peer URLs
//!   DIR/rebuilding/note       NEW ID too
//!   DIR/rebuilding/member     an empty store and an empty log of NEW ID
//!   WALDIR/*.wal          ──▶ WALDIR/damaged/                          of a log apart, and its new segment comes there
//!   DIR/member            ──▶ DIR/member.damaged                       kept until the operator removes it
//!   DIR/rebuilding/member ──▶ DIR/member
//!   DIR/rebuilding            removed
//! ```
//!
//! An interruption at any of these steps is mended by the same command: it reads the note, looks which steps were done,
//! and goes on. Until then the locks of the old store and the old log are held, so the member does not start meanwhile.
//! Whether folders can be made, given to the member's user and renamed is tried before the cluster is asked.
//!
//! Whose the directory is, store and log both say. Where they differ nobody is removed: one of them is another
//! member's, which may be well. Nor is a member removed that answers at its client URLs.
//!
//! ```text
//!   command   the command line, and the steps one after the other
//!   note      what an interruption leaves
//!   place     the member's folders
//!   cluster   the other members
//! ```
#![forbid(unsafe_code)]

mod cluster;
pub mod command;
mod note;
mod place;
