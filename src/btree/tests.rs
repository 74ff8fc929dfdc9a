//! The store as its users see it.

use super::*;
use crate::page::MemoryFile;
use std::sync::Arc;

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
