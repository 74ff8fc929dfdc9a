//! The store alone: what a get, a step of a cursor and a put cost. `cargo bench --bench store [DIRECTORY]`; with a
//! directory the store is a mapped file in it. Times are CPU time of the thread, so that neighbours on the machine
//! disturb the cache but not the clock.
#![allow(unsafe_code)]

use kevel::btree::{Read, Store, Tree};
use kevel::page::{MemoryFile, PageFile};
use kevel::server::io::page_file::MappedFile;
use kevel::stdx::prng::Prng;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 1_000_000;
const VALUE: &[u8] = &[b'v'; 24];

fn main() {
    let directory = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).map(PathBuf::from);
    let file: Arc<dyn PageFile> = match &directory {
        Some(directory) => {
            Arc::new(MappedFile::open(&directory.join("bench.db")).expect("a file of our own"))
        }
        None => Arc::new(MemoryFile::default()),
    };
    let mut store = Store::open(file).expect("a new store");
    let mut prng = Prng::new(1);

    report("put, random order, 1 000 per turn", KEYS, || {
        let mut order: Vec<u64> = (0..KEYS).collect();
        (1..KEYS as usize).rev().for_each(|i| order.swap(i, prng.below(i as u64 + 1) as usize));
        for turn in order.chunks(1_000) {
            let mut txn = store.write();
            turn.iter().for_each(|&n| txn.put(Tree::Index, &key(n), VALUE));
            txn.commit();
        }
    });
    report("append, 1 000 per turn", KEYS, || {
        for turn in 0..KEYS / 1_000 {
            let mut txn = store.write();
            for n in 0..1_000 {
                txn.put(Tree::Garbage, &(turn * 1_000 + n).to_be_bytes(), VALUE);
            }
            txn.commit();
        }
    });
    report("append 16-byte keys with 300 bytes, 100 per turn", KEYS / 4, || {
        for turn in 0..KEYS / 400 {
            let mut txn = store.write();
            for n in 0..100 {
                let mut key = [0; 16];
                key[..8].copy_from_slice(&(turn * 100 + n).to_be_bytes());
                txn.put(Tree::Kv, &key, &[7; 300]);
            }
            txn.commit();
        }
    });
    reads(&store, &mut prng, "dirty");
    checkpoint(&mut store);
    reads(&store, &mut prng, "from the file");
    for batch in [1, 10, 100, 1_000] {
        let rounds = 100_000 / batch;
        report(&format!("overwrite a random key, {batch} per turn"), rounds * batch, || {
            for _ in 0..rounds {
                let mut txn = store.write();
                (0..batch).for_each(|_| txn.put(Tree::Index, &key(prng.below(KEYS)), VALUE));
                txn.commit();
            }
        });
        checkpoint(&mut store);
    }
    report("delete in order, 100 per turn", KEYS / 4, || {
        for turn in 0..KEYS / 400 {
            let mut txn = store.write();
            for n in 0..100 {
                let mut key = [0; 16];
                key[..8].copy_from_slice(&(turn * 100 + n).to_be_bytes());
                assert!(txn.delete(Tree::Kv, &key));
            }
            txn.commit();
        }
    });
    checkpoint(&mut store);
    let stats = store.stats();
    println!("file {} MB, free {} MB", stats.total_bytes >> 20, stats.free_bytes >> 20);
    if let Some(directory) = directory {
        let _ = std::fs::remove_file(directory.join("bench.db"));
    }
}

/// Fifty bytes that look like a key of the Index tree.
fn key(n: u64) -> [u8; 50] {
    let mut key = *b"/registry/pods/namespace-00/pod-000000000\x00\x01.......";
    let digits = format!("{:02}", n % 64);
    key[25..27].copy_from_slice(digits.as_bytes());
    key[32..41].copy_from_slice(format!("{n:09}").as_bytes());
    key
}

fn reads(store: &Store, prng: &mut Prng, from: &str) {
    let mut reader = store.readers().register();
    for round in ["first", "again"] {
        report(&format!("random get, {from}, {round}"), 300_000, || {
            let snapshot = reader.snapshot();
            for _ in 0..300_000 {
                black_box(snapshot.get(Tree::Index, &key(prng.below(KEYS)))).expect("every key is there");
            }
        });
    }
    report(&format!("random get with a snapshot each, {from}"), 300_000, || {
        for _ in 0..300_000 {
            let snapshot = reader.snapshot();
            black_box(snapshot.get(Tree::Index, &key(prng.below(KEYS)))).expect("every key is there");
        }
    });
    report("making 50-byte keys and nothing else", 300_000, || {
        for _ in 0..300_000 {
            black_box(key(prng.below(KEYS)));
        }
    });
    report("snapshot", 1_000_000, || (0..1_000_000).for_each(|_| drop(black_box(reader.snapshot()))));
    let snapshot = reader.snapshot();
    for (tree, keys) in [(Tree::Index, KEYS), (Tree::Kv, KEYS / 4)] {
        report(&format!("scan of {tree:?}, {from}, per key"), keys, || {
            let mut cursor = snapshot.cursor(tree);
            cursor.seek(b"");
            let mut bytes = 0;
            while cursor.valid() {
                bytes += cursor.key().len() + cursor.value().len();
                cursor.next();
            }
            black_box(bytes);
        });
    }
}

fn checkpoint(store: &mut Store) {
    let dirty = store.stats().dirty_bytes >> 20;
    let start = now();
    let Some(job) = store.begin_checkpoint() else { return };
    let begun = now() - start;
    job.execute().expect("a disk with room");
    let executed = now() - start - begun;
    let generation = job.generation();
    drop(job);
    let start = now();
    store.finish_checkpoint(generation);
    println!("checkpoint of {dirty} MB: begin {begun:?}, execute {executed:?}, finish {:?}", now() - start);
}

fn report(what: &str, count: u64, run: impl FnOnce()) {
    let start = now();
    run();
    println!("{what}: {} ns", (now() - start).as_nanos() / u128::from(count));
}

/// CPU time that this thread has used.
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, which is ours.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0, "every thread has a clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
