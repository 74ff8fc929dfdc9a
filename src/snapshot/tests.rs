//! Files of states, read back and compared with what the trees have.

use bytes::BytesMut;

use super::buckets::is_digested;
use super::import::{BUCKETS, Import};
use super::*;
use crate::bbolt::fuzz::{Buckets, read};
use crate::btree::{Read, Store, Tree, WriteTxn};
use crate::lease::Lessor;
use crate::mvcc::answer_room::AnswerRoom;
use crate::mvcc::hash::etcd_key;
use crate::mvcc::revision::Revision;
use crate::mvcc::schema::split_kv_value;
use crate::mvcc::write::{Writer, initialize};
use crate::mvcc::{View, compact};
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest};
use crate::proto::membershippb::{Attributes, Member, RaftAttributes};
use crate::replica::bucket_hash::BucketHash;
use crate::stdx::prng::Prng;
use crate::stdx::time::Instant;

fn put(txn: &mut WriteTxn<'_>, key: &str, value: &[u8], lease: i64) {
    let (key, value) = (key.as_bytes().to_vec().into(), value.to_vec().into());
    let mut writer = Writer::begin(txn);
    writer.put(&PutRequest { key, value, lease, ..PutRequest::default() }).unwrap();
    writer.finish();
}

fn delete(txn: &mut WriteTxn<'_>, key: &str) {
    let request = DeleteRangeRequest { key: key.as_bytes().to_vec().into(), ..Default::default() };
    let mut writer = Writer::begin(txn);
    writer.delete_range(&request, &mut BytesMut::new(), &mut AnswerRoom::default()).unwrap();
    writer.finish();
}

/// Random changes to few keys, some of them long, some attached to one of the first leases.
fn change(txn: &mut WriteTxn<'_>, prng: &mut Prng, changes: u64) {
    for _ in 0..changes {
        let key = format!("key/{}", prng.below(60));
        let len = if prng.chance(1, 20) { prng.below(40_000) } else { prng.below(200) };
        let lease = 77 * prng.below(4) as i64;
        match prng.below(4) {
            0 => delete(txn, &key),
            _ => put(txn, &key, &vec![prng.below(256) as u8; len as usize], lease),
        }
    }
}

/// A cluster of one with leases, and as many changes as `prng` says.
fn filled(txn: &mut WriteTxn<'_>, prng: &mut Prng) {
    initialize(txn);
    let mut cluster = crate::cluster::Cluster::default();
    cluster.set_version(txn, "3.7.0");
    for id in [0xbdae_9bbc_11dd_390d, 0x90d] {
        let raft =
            RaftAttributes { peer_urls: vec!["http://127.0.0.1:2380".into()], is_learner: id == 0x90d };
        let attributes = Attributes { name: "m".into(), client_urls: vec![] };
        let (raft_attributes, member_attributes) = (Some(raft), Some(attributes));
        cluster.set_member(txn, Member { id, raft_attributes, member_attributes });
    }
    cluster.remove_member(txn, 7);
    let mut lessor = Lessor::new(1, 1);
    for id in 1..4 + prng.below(3000) as i64 {
        lessor.grant(txn, Instant::default(), id * 77, 10 + id).unwrap();
    }
    change(txn, prng, 300);
    let applied = txn.applied();
    txn.set_applied(crate::btree::Applied { index: 99, term: 3, ..applied });
}

fn gathered(txn: &WriteTxn<'_>, budget: usize) -> SnapshotFile {
    let mut gathering = Gathering::new(txn).unwrap();
    while !gathering.step(budget).unwrap() {}
    SnapshotFile::new(gathering.finish())
}

fn counted(txn: &WriteTxn<'_>, file: &mut SnapshotFile, budget: usize) -> u64 {
    loop {
        if let Some(layout) = file.count(&View::new(txn), budget).unwrap() {
            return layout.bytes();
        }
    }
}

fn written(txn: &WriteTxn<'_>, file: &mut SnapshotFile, bytes: usize, budget: usize) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let (piece, is_last) = file.write(&View::new(txn), bytes, budget).unwrap();
        whole.extend_from_slice(&piece);
        if is_last {
            return whole;
        }
    }
}

/// The pairs of bucket `key` that the tree has up to a revision.
fn changes(txn: &WriteTxn<'_>, revision: i64) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut cursor = txn.cursor(Tree::Kv);
    cursor.seek(&[]);
    let mut pairs = Vec::new();
    while cursor.valid() {
        let at = Revision::from_bytes(cursor.key()).unwrap();
        let (tombstone, kv) = split_kv_value(cursor.value()).unwrap();
        if at.main <= revision {
            pairs.push((etcd_key(at, tombstone).to_vec(), kv.to_vec()));
        }
        cursor.next();
    }
    pairs
}

fn bucket<'b>(buckets: &'b Buckets, name: &str) -> &'b [(Vec<u8>, Vec<u8>)] {
    &buckets.iter().find(|(found, _)| found == name.as_bytes()).expect("a bucket of that name").1
}

fn hash_of(buckets: &Buckets) -> u32 {
    let mut crc = 0;
    for (name, pairs) in buckets {
        crc = crc32c::crc32c_append(crc, name);
        let name = std::str::from_utf8(name).unwrap();
        for (key, value) in pairs.iter().filter(|(key, _)| is_digested(name, key)) {
            crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, key), value);
        }
    }
    crc
}

fn bucket_hash(txn: &WriteTxn<'_>) -> u32 {
    let mut hash = BucketHash::new(txn);
    std::iter::repeat_with(|| hash.step(txn, 1000).unwrap()).flatten().next().unwrap()
}

#[test]
fn the_file_has_what_the_hash_digests_however_it_is_sliced() {
    for seed in 1..8 {
        let prng = &mut Prng::new(seed);
        let mut store = Store::in_memory();
        let txn = &mut store.write();
        filled(txn, prng);
        let mut whole = None;
        for (bytes, budget) in [(1 << 20, usize::MAX), (1, 1), (1000, 7), (100_000, 100)] {
            let mut file = gathered(txn, budget);
            let len = counted(txn, &mut file, budget);
            let file = written(txn, &mut file, bytes, budget);
            assert_eq!(file.len() as u64, len);
            assert_eq!(whole.get_or_insert_with(|| file.clone()), &file, "{bytes} bytes, {budget} changes");
        }
        let buckets = read(&whole.unwrap()).unwrap();
        assert_eq!(hash_of(&buckets), bucket_hash(txn));
        assert_eq!(bucket(&buckets, "key"), changes(txn, i64::MAX));
        let meta = bucket(&buckets, "meta");
        let value = |key: &str| &meta.iter().find(|(found, _)| found == key.as_bytes()).unwrap().1[..];
        assert_eq!(value("consistent_index"), 99u64.to_be_bytes());
        assert_eq!(value("term"), 3u64.to_be_bytes());
        assert_eq!(value("storageVersion"), b"3.7.0");
        let conf_state = r#"{"voters":[13668033151171901709],"learners":[2317],"auto_leave":false}"#;
        assert_eq!(value("confState"), conf_state.as_bytes());
    }
}

#[test]
fn what_is_written_meanwhile_is_not_in_the_file() {
    let prng = &mut Prng::new(3);
    let mut store = Store::in_memory();
    let txn = &mut store.write();
    filled(txn, prng);
    let (then, hash) = (changes(txn, i64::MAX), bucket_hash(txn));
    let mut file = gathered(txn, 100);
    let pin = txn.applied().compact_revision;
    change(txn, prng, 100);
    counted(txn, &mut file, 50);
    change(txn, prng, 100);
    let compacted = txn.applied().revision;
    compact::mark(txn, compacted).unwrap();
    let mut whole = Vec::new();
    loop {
        let (piece, is_last) = file.write(&View::new(&*txn), 3000, 10).unwrap();
        whole.extend_from_slice(&piece);
        change(txn, prng, 1);
        compact::sweep(txn, Some(pin), 10).unwrap();
        if is_last {
            break;
        }
    }
    let buckets = read(&whole).unwrap();
    assert_eq!(bucket(&buckets, "key"), then);
    assert_eq!(hash_of(&buckets), hash);
}

#[test]
fn garbage_that_is_not_removed_yet_is_left_out() {
    for seed in 1..8 {
        let prng = &mut Prng::new(seed);
        let mut store = Store::in_memory();
        let txn = &mut store.write();
        filled(txn, prng);
        let revision = txn.applied().revision;
        let compacted = revision - prng.below(100) as i64;
        compact::mark(txn, compacted).unwrap();
        compact::sweep(txn, None, prng.below(100) as usize).unwrap();
        let mut file = gathered(txn, 100);
        assert!(file.count(&View::new(&*txn), 5).unwrap().is_none());
        compact::sweep(txn, Some(compacted), 50).unwrap();
        let len = counted(txn, &mut file, 1000);
        while !compact::sweep(txn, Some(compacted), 1000).unwrap().done {}
        let whole = written(txn, &mut file, 5000, 1000);
        assert_eq!(whole.len() as u64, len);
        let buckets = read(&whole).unwrap();
        assert_eq!(bucket(&buckets, "key"), changes(txn, revision));
        assert_eq!(hash_of(&buckets), bucket_hash(txn), "its compaction is finished");
    }
}

#[test]
fn a_record_that_cannot_be_read_is_an_error() {
    let mut store = Store::in_memory();
    let txn = &mut store.write();
    filled(txn, &mut Prng::new(1));
    txn.put(Tree::Kv, &Revision::new(50, 0).to_bytes(), b"\x07");
    let mut file = gathered(txn, 100);
    assert_eq!(file.count(&View::new(&*txn), usize::MAX).err(), Some(crate::error::Error::Corrupt));
    txn.put(Tree::Lease, b"short", b"");
    let mut gathering = Gathering::new(&*txn).unwrap();
    assert_eq!(gathering.step(usize::MAX), Err(crate::error::Error::Corrupt));
}

/// What a store has that took in a file, with the entries up to 1 of term 1.
fn imported<'s>(store: &'s mut Store, buckets: &Buckets, bump: u64) -> WriteTxn<'s> {
    let (mut import, mut txn) = (Import::new(), store.write());
    for name in BUCKETS {
        for (key, value) in bucket(buckets, name) {
            import.pair(&mut txn, name, key, value).unwrap();
        }
    }
    txn.set_applied(import.applied(1, 1, bump).unwrap());
    txn
}

fn tree(txn: &WriteTxn<'_>, tree: Tree) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut cursor = txn.cursor(tree);
    cursor.seek(&[]);
    let mut pairs = Vec::new();
    while cursor.valid() {
        pairs.push((cursor.key().to_vec(), cursor.value().to_vec()));
        cursor.next();
    }
    pairs
}

#[test]
fn a_store_that_took_in_a_file_has_what_the_store_of_the_file_has() {
    for seed in 1..8 {
        let prng = &mut Prng::new(seed);
        let mut store = Store::in_memory();
        let txn = &mut store.write();
        filled(txn, prng);
        if seed % 2 == 0 {
            compact::mark(txn, txn.applied().revision - prng.below(100) as i64).unwrap();
            while !compact::sweep(txn, None, 1000).unwrap().done {}
        }
        let mut file = gathered(txn, 100);
        counted(txn, &mut file, 1000);
        let buckets = read(&written(txn, &mut file, 100_000, 1000)).unwrap();
        let mut other = Store::in_memory();
        let taken = imported(&mut other, &buckets, 0);
        let same =
            [Tree::Kv, Tree::Index, Tree::Garbage, Tree::Lease, Tree::LeaseKey, Tree::Alarm, Tree::Meta];
        for name in same {
            assert!(tree(txn, name) == tree(&taken, name), "seed {seed}, {name:?}");
        }
        let (before, after) = (txn.applied(), taken.applied());
        assert_eq!(
            (before.revision, before.compact_revision),
            (after.revision, after.compact_revision),
            "seed {seed}"
        );
        assert_eq!((after.index, after.term), (1, 1));
    }
}

#[test]
fn a_bumped_revision_is_compacted_and_a_change_without_value_moves_it_alone() {
    let mut store = Store::in_memory();
    let at = |main: i64| etcd_key(Revision::new(main, 0), false).to_vec();
    let empty = |name: &str| (name.as_bytes().to_vec(), vec![]);
    let mut buckets: Buckets = BUCKETS.map(empty).to_vec();
    buckets[2].1 = vec![(at(7), vec![])];
    let txn = imported(&mut store, &buckets, 100);
    let applied = txn.applied();
    assert_eq!((applied.revision, applied.compact_revision), (107, 107));
    assert!(tree(&txn, Tree::Kv).is_empty());
}

#[test]
fn pairs_that_etcd_does_not_write_are_refused() {
    let mut store = Store::in_memory();
    let mut txn = store.write();
    let at = etcd_key(Revision::new(5, 0), false);
    let kv: &[u8] = &[0x0a, 1, b'k'];
    for (bucket, key, value, why) in [
        ("key", &b"short"[..], kv, "cannot be read"),
        ("key", &[&at[..], b"x"].concat(), kv, "cannot be read"),
        ("key", &at, &b"\x0a"[..], "cannot be read"),
        ("key", &at, kv, "cannot be read"),
        ("key", &[0xff; 17], kv, "cannot be read"),
        ("meta", b"scheduledCompactRev", b"1", "no revision"),
        ("lease", b"12345678", b"", "cannot be read"),
        ("alarm", b"\xff", b"", "no alarm"),
        ("cluster", b"downgrade", b"{", "cannot be read"),
        ("auth", b"authEnabled", &[1], "authentication"),
        ("authUsers", b"root", b"", "users"),
    ] {
        let said = Import::new().pair(&mut txn, bucket, key, value).unwrap_err().to_string();
        assert!(said.contains(why), "{bucket}: {said}");
    }
    Import::new().pair(&mut txn, "auth", b"authEnabled", &[0]).unwrap();
    Import::new().pair(&mut txn, "auth", b"authRevision", &1u64.to_be_bytes()).unwrap();
    let mut import = Import::new();
    import.pair(&mut txn, "meta", b"scheduledCompactRev", &at).unwrap();
    assert_eq!(import.applied(1, 1, 0).unwrap().revision, 5, "what came before is gone, and counts");
    assert!(import.applied(1, 1, u64::MAX).is_err());
}
