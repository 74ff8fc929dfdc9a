//! The thread that takes compactions' hashes, at leisure: only the removal of garbage waits for it.
#![forbid(unsafe_code)]

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::checkpointer::tell;
use crate::mvcc::compact_hash::CompactionDigest;
use crate::replica::port::Input;
use crate::server::mesh::Sender;

/// Changes digested between two naps: at most some 0.2 ms, so that whoever else needs this CPU waits no longer.
const SLICE: usize = 128;

/// With it, a digest takes at most a quarter of one CPU, and a million pairs some 6 s.
const NAP: Duration = Duration::from_micros(600);

/// Starts the thread; it ends when the sender is dropped.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(replica: Sender<Input>) -> std::io::Result<mpsc::Sender<Box<CompactionDigest>>> {
    let (jobs, inbox) = mpsc::channel::<Box<CompactionDigest>>();
    thread::Builder::new().name("digester".into()).spawn(move || {
        while let Ok(mut job) = inbox.recv() {
            let began = Instant::now();
            let hash = loop {
                match job.step(SLICE) {
                    Some(hash) => break hash,
                    None => thread::sleep(NAP),
                }
            };
            drop(job);
            tracing::debug!(revision = hash.hash_revision, hash = hash.hash, took = ?began.elapsed(), "took a hash");
            tell(&replica, Input::CompactionDigested { hash });
        }
    })?;
    Ok(jobs)
}
