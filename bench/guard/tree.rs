//! The tree alone, with what tree `Index` holds: a key of ours with its revision, and some ten bytes of facts.

use super::load::{KEYS, TURN, VALUE_BYTES, key, shuffled};
use super::meter::Meter;
use kevel::btree::{Read, Store, Tree};
use kevel::mvcc::Revision;
use kevel::mvcc::schema::{IndexEntry, index_key};
use kevel::server::io::page_file::MappedFile;
use kevel::stdx::prng::Prng;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

type Pair = (Vec<u8>, Vec<u8>);

pub fn run(meter: &mut Meter) {
    let mut prng = Prng::new(3);
    let pairs: Vec<Pair> = shuffled(KEYS, &mut prng).into_iter().zip(2..).map(pair).collect();

    // Keys in no order into an empty tree, a transaction for a turn's worth of them.
    meter.measure("btree insert, 100 000 keys", "key", Store::in_memory, |store| fill(store, &pairs));

    // From here on, the tree is read as a session core does: from the mapped file, which holds all of it.
    let mut store = on_a_file();
    fill(&mut store, &pairs);
    checkpoint(&mut store);
    let order = shuffled(KEYS, &mut prng);
    let keys: Vec<Vec<u8>> = order.iter().map(|&at| pairs[at as usize].0.clone()).collect();
    let mut reader = store.readers().register();
    // Each in a snapshot of its own.
    meter.repeat("btree get, 100 000 keys", "key", || {
        for key in &keys {
            let snapshot = reader.snapshot();
            black_box(snapshot.get(Tree::Index, black_box(key)).expect("every key is there"));
        }
        KEYS
    });
    // In order, from the first to the last.
    meter.repeat("btree scan, 100 000 keys", "key", || {
        let snapshot = reader.snapshot();
        let mut cursor = snapshot.cursor(Tree::Index);
        cursor.seek(b"");
        let mut count = 0;
        while cursor.valid() {
            black_box((cursor.key(), cursor.value()));
            cursor.next();
            count += 1;
        }
        assert_eq!(count, KEYS, "every key is there");
        count
    });
}

fn pair((number, main): (u64, i64)) -> Pair {
    let (key, revision) = (key(number), Revision::new(main, 0));
    let kv_len = key.len() + VALUE_BYTES + 16;
    let entry = IndexEntry { tombstone: false, create_revision: main, version: 1, lease: 0, kv_len };
    (index_key(&key, revision).to_vec(), entry.encode(main).to_vec())
}

fn fill(store: &mut Store, pairs: &[Pair]) -> u64 {
    for turn in pairs.chunks(TURN) {
        let mut txn = store.write();
        turn.iter().for_each(|(key, value)| txn.put(Tree::Index, black_box(key), black_box(value)));
        txn.commit();
    }
    pairs.len() as u64
}

/// An empty store on a mapped file that is gone with the process.
fn on_a_file() -> Store {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(folder).expect("a folder for files of ours");
    let path = folder.join(format!("guard-{}.db", std::process::id()));
    let file = MappedFile::open(&path).expect("a file of our own").without_sync();
    std::fs::remove_file(&path).expect("it was there");
    Store::open(Arc::new(file)).expect("a new store")
}

fn checkpoint(store: &mut Store) {
    let job = store.begin_checkpoint().expect("there is something to write");
    job.execute().expect("a disk with room");
    let generation = job.generation();
    drop(job);
    store.finish_checkpoint(generation);
}
