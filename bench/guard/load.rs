//! What the paths work on: keys as Kubernetes names things, puts of them, stores filled with them.

use bytes::Bytes;
use kevel::btree::{Applied, Read, Store, WriteTxn};
use kevel::mvcc::EventBatch;
use kevel::mvcc::write::initialize;
use kevel::proto::etcdserverpb::PutRequest;
use kevel::replica::apply::{State, apply};
use kevel::request::{Entry, Request};
use kevel::response::{Header, Response};
use kevel::stdx::prng::Prng;
use kevel::stdx::time::Instant;
use std::hint::black_box;
use std::sync::Arc;

/// Keys in a filled store.
pub const KEYS: u64 = 100_000;
/// Bytes of every value.
pub const VALUE_BYTES: usize = 256;
/// Entries that a turn of a busy replica applies in one transaction.
pub const TURN: usize = 64;
/// Ids as long as real ones.
pub const HEADER: Header = Header { cluster_id: u64::MAX / 3, member_id: u64::MAX / 7, raft_term: 3 };

/// The key of this number: 41 to 57 bytes. Neighbouring numbers are neighbours in order, ten to a namespace.
pub fn key(number: u64) -> Vec<u8> {
    let word = ["pods", "leases", "configmaps", "replicasets"][(number / 10 % 4) as usize];
    let key = format!("/registry/{word}/namespace-{:05}/{}-{number:06}", number / 10, &word[..3]);
    // Some names are longer, as generated ones are.
    let suffix = &"-7c9bf58d4"[..(number * 7 % 10) as usize];
    let key = (key + suffix).into_bytes();
    debug_assert!((32..=60).contains(&key.len()), "{} bytes", key.len());
    key
}

/// The interval of the ten keys in the namespace of this one.
pub fn namespace(number: u64) -> (Vec<u8>, Vec<u8>) {
    let first = number / 10 * 10;
    let mut end = key(first + 9);
    end.push(0);
    (key(first), end)
}

/// All numbers below `count`, in an order that is none.
pub fn shuffled(count: u64, prng: &mut Prng) -> Vec<u64> {
    let mut numbers: Vec<u64> = (0..count).collect();
    (1..numbers.len()).rev().for_each(|i| numbers.swap(i, prng.below(i as u64 + 1) as usize));
    numbers
}

/// A put of a key.
pub fn put(number: u64) -> PutRequest {
    let value = vec![number as u8; VALUE_BYTES];
    PutRequest { key: key(number).into(), value: value.into(), ..PutRequest::default() }
}

/// A log entry that puts a key, with an id as long as real ones.
pub fn entry(id: u64, number: u64) -> Bytes {
    Entry::new(id << 40 | number, Request::Put(put(number))).encode()
}

/// A store and what apply keeps beside it.
pub struct Replicated {
    pub store: Store,
    pub state: State,
    /// Draws the keys of [`Replicated::updates`].
    pub prng: Prng,
}

impl Replicated {
    /// A store without keys.
    pub fn empty() -> Self {
        let mut store = Store::in_memory();
        let mut txn = store.write();
        initialize(&mut txn);
        let state = State::restore(&txn, 2, 1).expect("a sound store");
        txn.commit();
        Self { store, state, prng: Prng::new(1) }
    }

    /// A store with [`KEYS`] keys, put in no order.
    pub fn filled() -> Self {
        let mut replicated = Self::empty();
        let numbers = shuffled(KEYS, &mut replicated.prng);
        numbers.chunks(10_000).for_each(|some| replicated.put(some));
        replicated
    }

    /// Puts keys, by entries whose ids those of [`Replicated::updates`] follow.
    pub fn put(&mut self, numbers: &[u64]) {
        self.apply(numbers.iter().map(|&number| entry(1, number)).collect());
    }

    /// Entries that put keys anew, chosen at random.
    pub fn updates(&mut self, count: usize) -> Vec<Bytes> {
        (0..count).map(|_| entry(2, self.prng.below(KEYS))).collect()
    }

    /// Decodes and applies entries in turns, as `replica/commit` does; one response and one batch each.
    pub fn apply(&mut self, entries: Vec<Bytes>) -> u64 {
        self.apply_to(entries, |response, batch| {
            black_box(response);
            black_box(batch);
        })
    }

    /// The same, handing on what comes out.
    pub fn apply_to(&mut self, entries: Vec<Bytes>, mut out: impl FnMut(Response, Arc<EventBatch>)) -> u64 {
        let count = entries.len() as u64;
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let mut txn = self.store.write();
            for entry in entries.by_ref().take(TURN) {
                let command = Entry::decode(entry).expect("an entry of ours");
                let applied = apply(&mut txn, &mut self.state, Instant::default(), &command.request, true)
                    .expect("a store that nothing has damaged");
                count_entry(&mut txn);
                let response = applied.reply.expect("nothing forbids it");
                out(response, Arc::new(applied.events.expect("a put is an event")));
            }
            txn.commit();
        }
        count
    }
}

/// Says in the store that one more entry is in it.
pub fn count_entry(txn: &mut WriteTxn<'_>) {
    let applied = txn.applied();
    txn.set_applied(Applied { index: applied.index + 1, term: HEADER.raft_term, ..applied });
}
