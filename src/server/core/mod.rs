//! Who runs where: the replica core, the session cores, the lanes between them and the threads beside them.
//!
//! ```text
//!   plan          which executor runs on which CPU
//!   replica_loop  the loop that drives the one `Replica`: inputs, log writes, ticks
//!   log_task      the task that does log writes, one after the other
//!   session_loop  the loop that drives one core's `Session`: replies, published batches, progress
//!   checkpointer  the thread that writes the store file
//!   digester      the thread that hashes what a compaction is about to remove
//! ```
#![forbid(unsafe_code)]

pub mod checkpointer;
pub mod digester;
pub mod log_task;
pub mod plan;
pub mod replica_loop;
pub mod session_loop;
