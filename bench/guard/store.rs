//! The store as the replica uses it: applying, compacting, checkpoints. Each repetition has a store of its own with a
//! hundred thousand keys.

use super::load::{Replicated, count_entry};
use super::meter::Meter;
use bytes::Bytes;
use kevel::limits::SWEEP_SLICE;
use kevel::mvcc::compact;
use kevel::page::{MemoryFile, PAGE_SIZE};
use kevel::proto::etcdserverpb::CompactionRequest;
use kevel::replica::apply::apply;
use kevel::request::{Entry, Request};
use kevel::stdx::time::Instant;
use std::hint::black_box;

/// Puts in one repetition.
const PUTS: usize = 20_000;
/// Revisions that a compaction removes.
const GARBAGE: usize = 10_000;
/// Pages that a checkpoint writes.
const PAGES: u64 = 10_000;

pub fn run(meter: &mut Meter) {
    // From the bytes of a log entry to a response and an event; keys that are there, in no order, in turns.
    let updated = || {
        let mut replicated = Replicated::filled();
        let entries = replicated.updates(PUTS);
        (replicated, entries)
    };
    meter.measure("put, apply", "put", updated, |(replicated, entries)| {
        replicated.apply(std::mem::take(entries))
    });

    // The entry that compacts, and then turns that do nothing but remove what it left.
    let superseded = || {
        let mut replicated = Replicated::filled();
        let entries = replicated.updates(GARBAGE);
        replicated.apply(entries);
        let revision = replicated.store.applied().revision;
        let request = CompactionRequest { revision, physical: true };
        (replicated, Entry::new(3, Request::Compaction(request)).encode())
    };
    meter.measure("compaction of 10 000 revisions", "revision", superseded, |(replicated, entry)| {
        compact(replicated, entry)
    });

    // Freezing, copying, sealing and writing to memory, and letting go of the copies: all but the disk.
    let scratch = MemoryFile::default();
    let dirty = || {
        let mut replicated = Replicated::filled();
        while replicated.store.stats().dirty_bytes < PAGES * PAGE_SIZE as u64 {
            let entries = replicated.updates(640);
            replicated.apply(entries);
        }
        replicated
    };
    meter.measure("checkpoint of 10 000 pages", "page", dirty, |replicated| checkpoint(replicated, &scratch));
}

fn compact(replicated: &mut Replicated, entry: &Bytes) -> u64 {
    let Replicated { store, state, .. } = replicated;
    let command = Entry::decode(entry.clone()).expect("an entry of ours");
    let mut txn = store.write();
    let applied = apply(&mut txn, state, Instant::default(), &command.request, true)
        .expect("a store that nothing has damaged");
    black_box(applied.reply).expect("nothing was compacted before");
    count_entry(&mut txn);
    txn.commit();
    let mut removed = 0;
    loop {
        let mut txn = store.write();
        let swept = compact::sweep(&mut txn, None, SWEEP_SLICE).expect("a store that nothing has damaged");
        txn.commit();
        removed += swept.removed;
        if swept.done {
            assert_eq!(removed, GARBAGE, "each update supersedes one revision");
            return removed as u64;
        }
    }
}

/// The pages go to `file` instead of the store's own, which has room for them once it was used, as a disk has; the
/// store cannot be read any more.
fn checkpoint(replicated: &mut Replicated, file: &MemoryFile) -> u64 {
    let store = &mut replicated.store;
    let job = store.begin_checkpoint().expect("there is something to write");
    job.execute_on(file).expect("memory has room");
    let (generation, pages) = (job.generation(), job.bytes() / PAGE_SIZE as u64);
    drop(job);
    store.finish_checkpoint(generation);
    assert!(pages >= PAGES, "{pages} pages are too few");
    pages
}
