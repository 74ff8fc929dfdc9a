//! The store as its users see it.

use super::*;
use crate::page::check::check;
use crate::page::hostile::HostileFile;
use crate::page::{MemoryFile, PAGE_SIZE, PageFile};
use crate::stdx::prng::Prng;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

#[test]
fn it_agrees_with_a_plain_map_through_crashes() {
    for seed in 0..12 {
        fuzz::run(seed, 60);
    }
}

#[test]
fn a_dropped_transaction_leaves_no_trace() {
    let mut store = Store::in_memory();
    let mut txn = store.write();
    txn.put(Tree::Kv, b"a", b"1");
    txn.commit();
    let mut txn = store.write();
    txn.put(Tree::Kv, b"a", b"2");
    txn.put(Tree::Kv, b"b", &vec![7; 100_000]);
    assert_eq!(txn.get(Tree::Kv, b"a"), Some(&b"2"[..]));
    drop(txn);
    let mut reader = store.readers().register();
    let snapshot = reader.snapshot();
    assert_eq!(snapshot.get(Tree::Kv, b"a"), Some(&b"1"[..]));
    assert_eq!(snapshot.get(Tree::Kv, b"b"), None);
}

#[test]
fn the_longest_keys_and_values_are_kept() {
    let file = Arc::new(MemoryFile::default());
    let mut store = Store::open(file.clone()).unwrap();
    let keys = [vec![b'a'; 2 << 20], vec![b'a'; (2 << 20) - 1], vec![b'b'; 1025], vec![b'b'; 1024]];
    let mut txn = store.write();
    for (key, i) in keys.iter().zip(0..) {
        txn.put(Tree::Index, key, &vec![i; 3 << 20]);
    }
    txn.commit();
    let job = store.begin_checkpoint().unwrap();
    job.execute().unwrap();
    store.finish_checkpoint(job.generation());
    drop(store);
    let mut store = Store::open(file).unwrap();
    let txn = store.write();
    for (key, i) in keys.iter().zip(0..) {
        assert!(txn.get(Tree::Index, key).unwrap() == vec![i; 3 << 20]);
    }
    let mut cursor = txn.cursor(Tree::Index);
    cursor.seek(b"");
    assert!(cursor.key() == keys[1]);
    cursor.seek_last();
    assert!(cursor.key() == keys[2]);
}

fn checkpoint(store: &mut Store) {
    let job = store.begin_checkpoint().expect("something has changed");
    job.execute().expect("a disk with room");
    store.finish_checkpoint(job.generation());
}

/// Turn `turn` of a store whose content says which turn it was: every key has the turn's number, and so has `Applied`.
fn mark(store: &mut Store, turn: u64, keys: u64) {
    let mut txn = store.write();
    for n in 0..keys {
        let value = vec![turn as u8; if n % 16 == 0 { 3_000 } else { 50 }];
        txn.put(Tree::Index, &n.to_be_bytes(), &value);
    }
    txn.set_applied(Applied { index: turn, ..Applied::default() });
    txn.commit();
}

/// Panics if a state is not exactly that of one turn.
fn assert_one_turn(state: &impl Read, keys: u64) -> u64 {
    let turn = state.applied().index;
    let mut cursor = state.cursor(Tree::Index);
    cursor.seek(b"");
    let mut count = 0;
    while cursor.valid() {
        assert!(cursor.value().iter().all(|&byte| byte == turn as u8), "turn {turn} sees another");
        count += 1;
        cursor.next();
    }
    assert_eq!(count, if turn == 0 { 0 } else { keys });
    turn
}

/// A store with two turns, of which the file has the first.
fn one_turn_ahead(keys: u64) -> (Arc<HostileFile>, Store) {
    let file = Arc::new(HostileFile::default());
    let mut store = Store::open(file.clone()).unwrap();
    mark(&mut store, 1, keys);
    checkpoint(&mut store);
    mark(&mut store, 2, keys);
    (file, store)
}

#[test]
fn a_crash_at_every_call_of_a_checkpoint_falls_back_to_a_whole_state() {
    const KEYS: u64 = 150;
    let (mut calls, mut old, mut new) = (0, 0, 0);
    loop {
        let (file, mut store) = one_turn_ahead(KEYS);
        let job = store.begin_checkpoint().unwrap();
        file.fail_after(Some(calls));
        let result = job.execute();
        for seed in 0..20 {
            let after = HostileFile::new(file.crash(&mut Prng::new(seed)));
            let after = Arc::new(after);
            let mut store = Store::open(after.clone()).expect("what a crash leaves can be opened");
            let turn = assert_one_turn(&store.write(), KEYS);
            assert!(check(&*after, Tree::NAMES).unwrap().is_sound());
            match result {
                Ok(()) => assert_eq!(turn, 2, "what was synced is there"),
                Err(CheckpointError::Write(_)) => assert_eq!(turn, 1),
                Err(CheckpointError::Sync(_)) => assert!(turn == 1 || turn == 2),
            }
            *(if turn == 1 { &mut old } else { &mut new }) += 1;
            // And life goes on from there.
            mark(&mut store, 3, KEYS);
            checkpoint(&mut store);
            assert!(check(&*after, Tree::NAMES).unwrap().is_sound());
        }
        if result.is_ok() {
            break;
        }
        calls += 1;
    }
    assert!(calls >= 5 && old > 20 && new > 20, "{calls} calls, {old} old, {new} new");
}

#[test]
fn what_a_start_found_in_the_page_cache_is_durable_from_then_on() {
    const KEYS: u64 = 20;
    let (mut calls, mut unsynced) = (0, 0);
    loop {
        let (file, mut store) = one_turn_ahead(KEYS);
        // A checkpoint ends anywhere because the process is killed; the page cache stays.
        file.fail_after(Some(calls));
        let result = store.begin_checkpoint().unwrap().execute();
        file.fail_after(None);
        drop(store);
        let found = assert_one_turn(&Store::open(file.clone()).unwrap().write(), KEYS);
        unsynced += u64::from(result.is_err() && found == 2);
        for seed in 0..20 {
            let after = Arc::new(HostileFile::new(file.crash(&mut Prng::new(seed))));
            let turn = assert_one_turn(&Store::open(after).unwrap().write(), KEYS);
            assert_eq!(turn, found, "after {calls} calls");
        }
        if result.is_ok() {
            break;
        }
        calls += 1;
    }
    assert!(unsynced > 0, "no start found a checkpoint that was not synced");
}

#[test]
fn a_rotten_byte_is_refused_and_never_served() {
    const KEYS: u64 = 100;
    let clean = {
        let file = Arc::new(MemoryFile::default());
        let mut store = Store::open(file.clone()).unwrap();
        mark(&mut store, 7, KEYS);
        checkpoint(&mut store);
        file.bytes().clone()
    };
    let mut refused = 0;
    for at in (0..clean.len()).step_by(311) {
        let mut rotten = clean.clone();
        rotten[at] ^= 1 << (at % 8);
        let read = catch_unwind(AssertUnwindSafe(|| {
            let mut store =
                Store::open(Arc::new(MemoryFile::new(rotten))).map_err(|error| error.to_string())?;
            Ok::<_, String>(assert_one_turn(&store.write(), KEYS))
        }));
        match read {
            // The other meta slot is the one that the open wrote into the empty file.
            Ok(Ok(turn)) => assert!(turn == 7 || (turn == 0 && at / PAGE_SIZE == 0)),
            Ok(Err(message)) => assert!(message.contains("ut back a copy of")),
            Err(panic) => {
                let message = panic.downcast_ref::<String>().expect("a message");
                assert!(
                    message.contains("fails its checksum") && message.contains("ut back a copy of"),
                    "{message}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 100);
}

#[test]
fn a_write_that_the_disk_lost_is_found() {
    let file = Arc::new(MemoryFile::default());
    let mut store = Store::open(file.clone()).unwrap();
    let mut lost = 0;
    for turn in 1..6 {
        let before = file.bytes().clone();
        mark(&mut store, turn, 100);
        checkpoint(&mut store);
        let after = file.bytes().clone();
        for page in 2..before.len() / PAGE_SIZE {
            let bytes = page * PAGE_SIZE..(page + 1) * PAGE_SIZE;
            let mut forgetful = after.clone();
            forgetful[bytes.clone()].copy_from_slice(&before[bytes]);
            let changed = forgetful != after;
            let report = check(&MemoryFile::new(forgetful), Tree::NAMES);
            if changed {
                lost += 1;
                assert!(!report.is_ok_and(|report| report.is_sound()), "page {page} is from an earlier turn");
            }
        }
    }
    assert!(lost > 20, "{lost}");
}

#[test]
fn steady_overwriting_does_not_grow_the_file() {
    let file = Arc::new(MemoryFile::default());
    let mut store = Store::open(file.clone()).unwrap();
    let mut prng = Prng::new(5);
    let mut turn = |store: &mut Store, puts| {
        let mut txn = store.write();
        for _ in 0..puts {
            let key = prng.below(20_000).to_be_bytes();
            txn.put(Tree::Index, &key, &[prng.next_u64() as u8; 60]);
        }
        txn.commit();
    };
    (0..100).for_each(|_| turn(&mut store, 2_000));
    checkpoint(&mut store);
    let live = u64::from(file.pages()) - store.stats().free_bytes / PAGE_SIZE as u64;
    let mut most = 0;
    for _ in 0..30 {
        (0..50).for_each(|_| turn(&mut store, 20));
        checkpoint(&mut store);
        most = most.max(u64::from(file.pages()));
    }
    // A checkpoint needs room beside the one before, and what was overwritten meanwhile a place of its own.
    assert!(most < 3 * live, "{most} pages for {live} living ones");
    store.check_invariants();
}

#[test]
fn what_is_deleted_is_given_back() {
    let file = Arc::new(MemoryFile::default());
    let mut store = Store::open(file.clone()).unwrap();
    mark(&mut store, 1, 20_000);
    checkpoint(&mut store);
    let full = file.pages();
    let mut txn = store.write();
    (0..20_000u64).filter(|n| n % 100 != 0).for_each(|n| assert!(txn.delete(Tree::Index, &n.to_be_bytes())));
    txn.commit();
    for _ in 0..3 {
        let mut txn = store.write();
        txn.put(Tree::Meta, b"turn", b"over");
        txn.put(Tree::Meta, b"turn", &[0; 4]);
        txn.set_applied(Applied { index: txn.applied().index + 1, ..Applied::default() });
        txn.commit();
        checkpoint(&mut store);
    }
    let report = check(&*file, Tree::NAMES).unwrap();
    assert!(report.is_sound() && report.trees[Tree::Index as usize].keys == 200);
    assert!(report.trees[Tree::Index as usize].leaves < 30, "small leaves are merged: {report}");
    let mut txn = store.write();
    (0..20_000u64).for_each(|n| {
        txn.delete(Tree::Index, &n.to_be_bytes());
    });
    txn.commit();
    checkpoint(&mut store);
    checkpoint_again(&mut store);
    assert!(file.pages() < full / 20, "the free tail is cut off: {} of {full} pages", file.pages());
}

fn checkpoint_again(store: &mut Store) {
    let mut txn = store.write();
    txn.set_applied(Applied { index: txn.applied().index + 1, ..Applied::default() });
    txn.commit();
    checkpoint(store);
}

#[test]
fn readers_on_other_threads_see_whole_turns_only() {
    const KEYS: u64 = 300;
    let file: Arc<dyn PageFile> = Arc::new(MemoryFile::default());
    let mut store = Store::open(file).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let threads = [(); 3].map(|()| {
        let (readers, done) = (store.readers(), done.clone());
        thread::spawn(move || {
            let (mut reader, mut last, mut looks) = (readers.register(), 0, 0);
            while !done.load(Ordering::Relaxed) || looks < 10 {
                let turn = assert_one_turn(&reader.snapshot(), KEYS);
                assert!(turn >= last, "a reader went back in time");
                (last, looks) = (turn, looks + 1);
            }
        })
    });
    for turn in 1..400 {
        mark(&mut store, turn, KEYS);
        if turn % 7 == 0 {
            checkpoint(&mut store);
        }
    }
    // Readers may stay when the writer goes.
    drop(store);
    done.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("no reader saw anything else"));
}

#[test]
fn a_small_store_is_small_and_mostly_in_use() {
    let file = Arc::new(MemoryFile::default());
    let mut store = Store::open(file.clone()).unwrap();
    for turn in 0..100u32 {
        let mut txn = store.write();
        txn.put(Tree::Meta, b"version", b"3.7.0");
        txn.put(Tree::Member, b"member", &turn.to_be_bytes());
        txn.commit();
        checkpoint(&mut store);
        let stats = store.stats();
        assert!(stats.total_bytes <= 10 * PAGE_SIZE as u64, "{stats:?}");
        assert!(2 * stats.used_bytes >= stats.total_bytes, "{stats:?}");
    }
}
