//! What mvcc costs by itself, on one core and a store in memory: `cargo bench --bench mvcc [keys]`.
//!
//! Nanoseconds of CPU per operation, or per key where a whole range is read.

use std::ops::ControlFlow;

use bytes::BytesMut;
use kevel::btree::{Read, Reader, Store, WriteTxn};
use kevel::mvcc::hash::HashKv;
use kevel::mvcc::range::Plan;
use kevel::mvcc::write::initialize;
use kevel::mvcc::{Slices, View, check, compact, range, txn};
use kevel::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kevel::proto::etcdserverpb::request_op::Request as Op;
use kevel::proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use kevel::replica::apply::{State, apply};
use kevel::request::{Entry, Request};
use kevel::response::{Header, encode};
use kevel::stdx::prng::Prng;
use kevel::stdx::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Entries per transaction: a turn under load.
const TURN: usize = 64;
const VALUE_BYTES: usize = 256;
const HEADER: Header = Header { cluster_id: u64::MAX - 5, member_id: u64::MAX - 7, raft_term: 3 };

fn key(i: u64) -> String {
    format!("/registry/pods/namespace-{:03}/pod-{i:010}", i % 100)
}

fn put_entry(i: u64) -> bytes::Bytes {
    let value = vec![b'v'; VALUE_BYTES];
    let put = PutRequest { key: key(i).into(), value: value.into(), ..PutRequest::default() };
    Entry::new(i + 1, Request::Put(put)).encode()
}

/// CPU time of this thread: the kernel's own account, which other processes don't disturb.
struct Clock(u64);

impl Clock {
    fn now() -> Self {
        let account =
            std::fs::read_to_string("/proc/thread-self/schedstat").expect("the account of a thread");
        Self(account.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("nanoseconds"))
    }
}

fn report(what: &str, count: u64, started: Clock) {
    let nanos = Clock::now().0 - started.0;
    println!("{what:<52} {:>8} ns each, {count} of them", nanos / count.max(1));
}

/// Applies entries in turns, as the replica does.
fn turns(store: &mut Store, state: &mut State, entries: impl Iterator<Item = bytes::Bytes>) -> u64 {
    let mut entries = entries.peekable();
    let mut count = 0;
    while entries.peek().is_some() {
        let mut txn: WriteTxn<'_> = store.write();
        for entry in entries.by_ref().take(TURN) {
            let entry = Entry::decode(entry).expect("an entry");
            let applied = apply(&mut txn, state, Instant::default(), &entry.request, true)
                .expect("a store that nothing has damaged");
            std::hint::black_box(encode(&applied.reply.expect("success"), &HEADER));
            std::hint::black_box(applied.events);
            count += 1;
        }
        txn.commit();
    }
    count
}

/// Applies entries in turns, and reports what each cost.
fn report_turns(what: &str, store: &mut Store, state: &mut State, entries: Vec<bytes::Bytes>) {
    let started = Clock::now();
    let count = turns(store, state, entries.into_iter());
    report(what, count, started);
}

/// Writes of one key each.
fn writes(store: &mut Store, state: &mut State, keys: u64, prng: &mut Prng) {
    let entries = (0..keys).map(put_entry).collect();
    report_turns("put of a new key: decode, apply, encode", store, state, entries);
    let entries = (0..keys / 2).map(|_| put_entry(prng.below(keys))).collect();
    report_turns("put of a key that is there", store, state, entries);
    let entries = (0..50_000).map(|i| put_entry(i % 64)).collect();
    report_turns("put of one of 64 hot keys", store, state, entries);

    let mut reader = store.readers().register();
    let updates = (0..50_000)
        .map(|i| {
            let name = key(prng.below(keys));
            let snapshot = reader.snapshot();
            let view = View::new(&snapshot);
            let revision = view
                .find(name.as_bytes(), view.revision())
                .ok()
                .flatten()
                .expect("it is there")
                .revision
                .main;
            Entry::new(i, Request::Txn(update(&name, revision))).encode()
        })
        .collect();
    report_turns("txn: if mod_revision = x then put else get", store, state, updates);
}

/// Reads of one key each.
fn gets(reader: &mut Reader, keys: u64, prng: &mut Prng) {
    let gets: Vec<_> = (0..200_000)
        .map(|_| RangeRequest { key: key(prng.below(keys)).into(), ..Default::default() })
        .collect();
    let started = Clock::now();
    for request in &gets {
        let snapshot = reader.snapshot();
        std::hint::black_box(range::answer(&View::new(&snapshot), &HEADER, request)).expect("an answer");
    }
    report("get of one key, a snapshot each", gets.len() as u64, started);
}

/// Counts and lists of all keys; how many there are.
fn lists(view: &View<'_, impl Read>) -> u64 {
    let everything =
        RangeRequest { key: b"\0"[..].into(), range_end: b"\0"[..].into(), ..Default::default() };
    let request = RangeRequest { count_only: true, ..everything.clone() };
    let started = Clock::now();
    let counting = Plan::new(view, &request).expect("a range");
    let live = counting.finish_in_legs(view, 4096).expect("a count").count() as u64;
    report("count, per key", live, started);

    let started = Clock::now();
    let list = Plan::new(view, &everything).expect("a range");
    let mut list = list.finish_in_legs(view, 4096).expect("a plan");
    report("list: plan, per key", live, started);
    let started = Clock::now();
    let mut slice = BytesMut::with_capacity(256 << 10);
    let mut bytes = 0;
    while !list.emit(view, &HEADER, &mut slice, 128 << 10).expect("a slice") {
        bytes += slice.len();
        slice.clear();
    }
    report(&format!("list: {} MB emitted, per key", bytes >> 20), live, started);

    let page = RangeRequest { limit: 500, ..everything };
    let started = Clock::now();
    for _ in 0..20 {
        std::hint::black_box(range::answer(view, &HEADER, &page)).expect("an answer");
    }
    report("list of 500 (and count of the rest)", 20, started);
    live
}

/// Everything that was ever written: what watchers that fell behind read, and HashKV.
fn histories(view: &View<'_, impl Read>) {
    let started = Clock::now();
    let mut events = 0;
    let told = view.events(0, i64::MAX, &mut |event| {
        std::hint::black_box(event);
        events += 1;
        ControlFlow::Continue(())
    });
    told.expect("a store that nothing has damaged");
    report("catch-up, per event", events, started);

    let started = Clock::now();
    let mut hash = HashKv::new(view, 0).expect("a hash");
    while hash.step(view, 4096).expect("a store that nothing has damaged").is_none() {}
    report("HashKV, per change", events, started);
}

/// A compaction of everything, and what its hash costs where `live` keys are older.
fn compaction(store: &mut Store, live: u64) {
    let revision = store.applied().revision;
    let mut txn = store.write();
    compact::mark(&mut txn, revision).expect("a compaction");
    txn.commit();
    let started = Clock::now();
    let mut swept = 0;
    loop {
        let mut txn = store.write();
        let slice = compact::sweep(&mut txn, None, 128).expect("a store that nothing has damaged");
        swept += slice.removed as u64;
        txn.commit();
        if slice.done {
            break;
        }
    }
    report("sweep, per revision removed", swept, started);

    let mut reader = store.readers().register();
    let snapshot = reader.snapshot();
    let view = View::new(&snapshot);
    let started = Clock::now();
    let mut hash = HashKv::of_compaction(revision, revision - 1);
    while hash.step(&view, 256).expect("a store that nothing has damaged").is_none() {}
    report("hash of a compaction, per key that is older", live, started);
}

/// A transaction of as many puts as one may have.
fn long_txn(store: &mut Store) {
    let put = |i| {
        let put = PutRequest { key: key(i).into(), ..PutRequest::default() };
        RequestOp { request: Some(Op::RequestPut(put)) }
    };
    let request = TxnRequest { success: (0..128).map(put).collect(), ..TxnRequest::default() };
    let started = Clock::now();
    for _ in 0..1000 {
        std::hint::black_box(check::txn(&request, 128)).expect("a good transaction");
    }
    report("check of a txn of 128 puts", 1000, started);
    let mut txn = store.write();
    let revision = txn.applied().revision;
    let started = Clock::now();
    for _ in 0..1000 {
        txn::apply(&mut txn, &request, &|_| true, true).map(|_| ()).expect("success");
    }
    report("txn of 128 puts", 1000, started);
    assert!(txn.applied().revision > revision);
}

fn main() {
    let keys: u64 = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(200_000);
    let mut prng = Prng::new(1);
    let mut store = Store::in_memory();
    let mut txn = store.write();
    initialize(&mut txn);
    let mut state = State::restore(&txn, 2, 1).expect("a sound store");
    txn.commit();

    writes(&mut store, &mut state, keys, &mut prng);
    let mut reader = store.readers().register();
    gets(&mut reader, keys, &mut prng);
    let live = {
        let snapshot = reader.snapshot();
        let view = View::new(&snapshot);
        let live = lists(&view);
        histories(&view);
        live
    };
    compaction(&mut store, live);
    long_txn(&mut store);
}

/// What the apiserver sends for an update.
fn update(name: &str, revision: i64) -> TxnRequest {
    let op = |request| vec![RequestOp { request: Some(request) }];
    let put = PutRequest {
        key: name.to_owned().into(),
        value: vec![b'w'; VALUE_BYTES].into(),
        ..PutRequest::default()
    };
    TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: name.to_owned().into(),
            target_union: Some(TargetUnion::ModRevision(revision)),
            ..Compare::default()
        }],
        success: op(Op::RequestPut(put)),
        failure: op(Op::RequestRange(RangeRequest { key: name.to_owned().into(), ..Default::default() })),
    }
}
