//! Whole answers, put together from slices.

use bytes::BytesMut;
use prost::Message;

use super::query::Query;
use super::sort::{Item, Sorter};
use super::{Emission, Plan, SLICE_SURPLUS, put_tail};
use crate::btree::Read;
use crate::btree::Store;
use crate::error::Error;
use crate::mvcc::planned::{Planned, Progress, Slices};
use crate::mvcc::remembered::PlanMemory;
use crate::mvcc::revision::Revision;
use crate::mvcc::walk::{Interval, Step, Walk};
use crate::mvcc::write::{Writer, initialize};
use crate::mvcc::{View, compact};
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::{RangeRequest, RangeResponse};
use crate::response::Header;
use crate::stdx::prng::Prng;
use crate::wire::put_bytes_field;

/// Pairs, in no order, some put twice: more than an answer remembers without being given memory.
const PAIRS: u64 = 9_000;

fn fill(store: &mut Store, prng: &mut Prng) {
    let mut txn = store.write();
    initialize(&mut txn);
    for _ in 0..PAIRS {
        let mut writer = Writer::begin(&mut txn);
        for _ in 0..1 + prng.below(3) {
            let key = format!("{:05}", prng.below(2 * PAIRS));
            let len = if prng.chance(1, 500) { 3_000 } else { prng.below(40) as usize };
            let value = vec![prng.next_u64() as u8; len];
            writer
                .put(&PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() })
                .unwrap();
        }
        writer.finish();
    }
    txn.commit();
}

/// The answer's encoded pairs one by one, from the index and a lookup for each.
fn expected(view: &View<'_, impl Read>, request: &RangeRequest) -> Vec<Vec<u8>> {
    let interval = Interval::new(&request.key, &request.range_end);
    let mut walk = Walk::resume(view, &interval, view.revision(), &interval.start(), usize::MAX);
    let mut pairs = Vec::new();
    while let Step::Live(revision, _) = walk.next().unwrap() {
        if revision.main >= request.min_mod_revision {
            let mut pair = Vec::new();
            put_bytes_field(&mut pair, 2, view.stored(revision).unwrap());
            pairs.push(pair);
        }
    }
    pairs
}

#[test]
fn slices_are_the_same_whatever_the_plan_remembers_and_none_is_longer_than_asked_for() {
    let prng = &mut Prng::new(9);
    let mut store = Store::in_memory();
    fill(&mut store, prng);
    let mut reader = store.readers().register();
    let snapshot = reader.snapshot();
    let view = View::new(&snapshot);
    let header = Header::default();
    for round in 0..12 {
        let request = RangeRequest {
            key: b"00100"[..].into(),
            range_end: b"\0"[..].into(),
            min_mod_revision: if round % 2 == 0 { 0 } else { PAIRS as i64 / 3 },
            ..RangeRequest::default()
        };
        let pairs = expected(&view, &request);
        let mut plan = Plan::new(&view, &request).unwrap();
        plan.remember_in(&PlanMemory::new([0, 20_000, 1 << 20][round % 3]));
        let mut emission = plan.finish_in_legs(&view, 500).unwrap();
        assert_eq!((emission.kvs(), emission.remembers_all()), (pairs.len() as u64, round % 3 == 2));
        let mut out = BytesMut::new();
        loop {
            let bytes = prng.below([600, 100_000][round % 2]) as usize;
            let before = out.len();
            let complete = emission.emit(&view, &header, &mut out, bytes).unwrap();
            assert!(out.len() - before <= bytes + SLICE_SURPLUS, "a slice is too long");
            if complete {
                break;
            }
        }
        let mut whole = BytesMut::new();
        header.put_field(emission.revision(), &mut whole);
        pairs.iter().for_each(|pair| whole.extend_from_slice(pair));
        put_tail(&mut whole, false, emission.count());
        assert!(out == whole, "another answer, of {} bytes instead of {}", out.len(), whole.len());
    }
}

/// The pairs of an answer, whole.
fn emitted(mut emission: Emission, view: &View<'_, impl Read>) -> RangeResponse {
    let mut out = BytesMut::new();
    while !emission.emit(view, &Header::default(), &mut out, 10_000).unwrap() {}
    assert_eq!(out.len(), emission.encoded_len(&Header::default()));
    RangeResponse::decode(&out[..]).unwrap()
}

/// Values that differ late or not at all, and some that are long.
fn fill_alike(store: &mut Store, prng: &mut Prng, pairs: u64) {
    let mut txn = store.write();
    initialize(&mut txn);
    for number in 0..pairs {
        let mut value = b"all values begin with these bytes".to_vec();
        value.resize(if prng.chance(1, 100) { 40_000 } else { 40 }, b'.');
        value.extend_from_slice(prng.below(50).to_string().as_bytes());
        let key = format!("{:05}", number * 7919 % pairs);
        let mut writer = Writer::begin(&mut txn);
        for _ in 0..1 + prng.below(3) {
            let (key, value) = (key.clone().into(), value.clone().into());
            writer.put(&PutRequest { key, value, ..PutRequest::default() }).unwrap();
        }
        writer.finish();
    }
    txn.commit();
}

/// The pairs of all keys, sorted as etcd does it: stably, from key order.
fn sorted(view: &View<'_, impl Read>, request: &RangeRequest) -> Vec<Vec<u8>> {
    let everything = Plan::new(view, &everything()).unwrap().finish(view).unwrap();
    let mut kvs = emitted(everything, view).kvs;
    let descending = request.sort_order() == SortOrder::Descend;
    kvs.sort_by(|a, b| {
        let order = match request.sort_target() {
            SortTarget::Value => a.value.cmp(&b.value),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Key => a.key.cmp(&b.key),
        };
        if descending { order.reverse() } else { order }
    });
    let wanted = if request.limit > 0 { request.limit as usize } else { usize::MAX };
    kvs.into_iter().take(wanted).map(|kv| kv.key.to_vec()).collect()
}

fn everything() -> RangeRequest {
    RangeRequest { key: b"\0"[..].into(), range_end: b"\0"[..].into(), ..RangeRequest::default() }
}

#[test]
fn pairs_come_in_the_order_asked_for_and_memory_is_given_back() {
    let prng = &mut Prng::new(3);
    let mut store = Store::in_memory();
    fill_alike(&mut store, prng, PAIRS);
    let mut reader = store.readers().register();
    let snapshot = reader.snapshot();
    let view = View::new(&snapshot);
    let memory = PlanMemory::bounded(0, 64 << 20);
    for target in 0..5 {
        for limit in [0, 1, 500, 7_000] {
            let request = RangeRequest {
                sort_target: target,
                sort_order: 1 + prng.below(2) as i32,
                limit,
                keys_only: prng.chance(1, 2),
                ..everything()
            };
            let mut plan = Plan::new(&view, &request).unwrap();
            plan.remember_in(&memory);
            let answer = emitted(plan.finish_in_legs(&view, 300).unwrap(), &view);
            let keys: Vec<_> = answer.kvs.into_iter().map(|kv| kv.key.to_vec()).collect();
            assert!(keys == sorted(&view, &request), "{request:?}");
            assert_eq!((answer.count, answer.more), (PAIRS as i64, limit > 0));
        }
    }
    assert_eq!(memory.left_for_sorting(), 64 << 20);
}

#[test]
fn an_answer_that_cannot_be_sorted_in_memory_is_an_error() {
    let mut store = Store::in_memory();
    fill_alike(&mut store, &mut Prng::new(4), 5_000);
    let mut reader = store.readers().register();
    let snapshot = reader.snapshot();
    let view = View::new(&snapshot);
    let planned = |limit| {
        let request =
            RangeRequest { sort_target: SortTarget::Mod as i32, sort_order: 2, limit, ..everything() };
        let mut plan = Plan::new(&view, &request).unwrap();
        plan.remember_in(&PlanMemory::bounded(0, 100 * 1024));
        plan.finish(&view).map(|emission| emission.kvs())
    };
    assert_eq!(planned(0), Err(Error::TooManyRequests));
    assert_eq!(planned(10), Ok(10), "what is not wanted is not kept");
}

#[test]
fn pairs_that_are_merged_are_held_once() {
    const COUNT: u64 = 200_000;
    let store = Store::in_memory();
    let mut reader = store.readers().register();
    let snapshot = reader.snapshot();
    let view = View::new(&snapshot);
    let request = RangeRequest { sort_target: SortTarget::Mod as i32, sort_order: 1, ..everything() };
    let interval = Interval::new(&request.key, &request.range_end);
    let query = Query::new(&request, interval, 1, 1, true);
    // Beside the pairs: the run that is being filled, and the chunk of each run of a merge that is not taken yet.
    let memory = PlanMemory::bounded(0, (COUNT as usize + 66 * 1024) * size_of::<Item>());
    let free = memory.left_for_sorting();
    let mut sorter = Sorter::of(&query, &memory).unwrap();
    let mut prng = Prng::new(10);
    for place in 0..COUNT {
        let item = Item { number: prng.next_u64() as i64, place, revision: Revision::default(), len: 9 };
        sorter.push(&view, item, 9).unwrap();
    }
    while !sorter.merge(&view, true, &mut 1_000).unwrap() {}
    let mut sorted = sorter.into_sorted();
    let numbers: Vec<_> = sorted.by_ref().map(|item| item.number).collect();
    assert_eq!(numbers.len() as u64, COUNT);
    assert!(numbers.is_sorted());
    drop(sorted);
    assert_eq!(memory.left_for_sorting(), free);
}

#[test]
fn a_leg_of_a_sort_by_value_compares_no_more_than_its_budget() {
    let mut store = Store::in_memory();
    fill_alike(&mut store, &mut Prng::new(5), 20_000);
    let mut reader = store.readers().register();
    let snapshot = reader.snapshot();
    let view = View::new(&snapshot);
    let request = RangeRequest { sort_target: SortTarget::Value as i32, sort_order: 1, ..everything() };
    let mut plan = Plan::new(&view, &request).unwrap();
    let mut legs = 0;
    loop {
        legs += 1;
        match plan.step(&view, 1024).unwrap() {
            Progress::Pending(pending) => plan = pending,
            Progress::Done(emission) => break assert_eq!(emission.kvs(), 20_000),
        }
    }
    // The walk, the sorting of runs and one level of merging: each looks at every pair, and at long values longer.
    assert!(legs >= 3 * 20_000 / 1024, "{legs} legs");
}

#[test]
fn a_swept_revision_ends_plan_and_emission_with_an_error() {
    let mut store = Store::in_memory();
    fill(&mut store, &mut Prng::new(6));
    let at = PAIRS as i64 / 2;
    let request = RangeRequest { revision: at, ..everything() };
    let (mut earlier, mut later) = (store.readers().register(), store.readers().register());
    let snapshot = earlier.snapshot();
    let plan = Plan::new(&View::new(&snapshot), &request).unwrap();
    let pending = Plan::new(&View::new(&snapshot), &request).unwrap();
    let mut emission = plan.finish(&View::new(&snapshot)).unwrap();
    let emit = |emission: &mut Emission, view: &View<'_, _>| {
        emission.emit(view, &Header::default(), &mut BytesMut::new(), 1_000)
    };
    assert_eq!(emit(&mut emission, &View::new(&snapshot)), Ok(false));
    drop(snapshot);

    let mut txn = store.write();
    compact::mark(&mut txn, at + 1_000).unwrap();
    while !compact::sweep(&mut txn, None, usize::MAX).unwrap().done {}
    txn.commit();
    let snapshot = later.snapshot();
    let view = View::new(&snapshot);
    assert!(matches!(pending.step(&view, 10), Err(Error::Compacted)));
    assert_eq!(emit(&mut emission, &view), Err(Error::Compacted));
}

/// The bounds of a Range may be megabytes long, and its answer may wait for the client as long as that likes.
#[test]
fn an_answer_that_walks_no_more_keeps_no_bounds() {
    let mut store = Store::in_memory();
    fill(&mut store, &mut Prng::new(1));
    let mut reader = store.readers().register();
    let snapshot = reader.snapshot();
    let view = View::new(&snapshot);
    let held = |keys_only| {
        let (key, range_end) = (b"0".as_slice().into(), vec![b'z'; 1 << 20].into());
        let request = RangeRequest { key, range_end, limit: 10, keys_only, ..RangeRequest::default() };
        Plan::new(&view, &request).unwrap().finish(&view).unwrap().held_bytes()
    };
    assert!(held(false) < 16 << 10, "{} bytes", held(false));
    assert!(held(true) > 1 << 20, "the index is walked again");
}
