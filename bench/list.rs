//! What a long list costs by itself, on one core: `cargo bench --bench list [pairs]`.
//!
//! Nanoseconds per pair of 1000 bytes, planned and written into slices of 64 KB, by the order in which the keys
//! were put: in their own, as four connections do it that take turns, and in no order at all. Of
//! many rounds the shortest counts: others may have used the core in the rest.

use std::time::{Duration, Instant as Clock};

use bytes::BytesMut;
use kevel::btree::{Read, Store};
use kevel::mvcc::range::Plan;
use kevel::mvcc::remembered::PlanMemory;
use kevel::mvcc::write::initialize;
use kevel::mvcc::{Slices, View};
use kevel::proto::etcdserverpb::{PutRequest, RangeRequest};
use kevel::replica::apply::{State, apply};
use kevel::request::Request;
use kevel::response::Header;
use kevel::stdx::prng::Prng;
use kevel::stdx::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HEADER: Header = Header { cluster_id: u64::MAX - 5, member_id: u64::MAX - 7, raft_term: 3 };
const VALUE_BYTES: usize = 1000;
const SLICE_BYTES: usize = 64 << 10;
const PLAN_SLICE: usize = 1024;
/// Puts per turn of the store.
const TURN: usize = 64;
const ROUNDS: u32 = 20;

fn filled(numbers: &[u64]) -> Store {
    let mut store = Store::in_memory();
    let mut txn = store.write();
    initialize(&mut txn);
    let mut state = State::restore(&txn, 2, 1).expect("a sound store");
    txn.commit();
    for turn in numbers.chunks(TURN) {
        let mut txn = store.write();
        for number in turn {
            let put = PutRequest {
                key: format!("list/{number:019}").into(),
                value: vec![*number as u8; VALUE_BYTES].into(),
                ..PutRequest::default()
            };
            let applied = apply(&mut txn, &mut state, Instant::default(), &Request::Put(put), true)
                .expect("a store that nothing has damaged");
            assert!(applied.reply.is_ok());
        }
        txn.commit();
    }
    store
}

/// Time for the plan and for the whole list.
fn list(view: &View<'_, impl Read>, memory: &PlanMemory) -> (Duration, Duration) {
    let everything =
        RangeRequest { key: b"\0"[..].into(), range_end: b"\0"[..].into(), ..Default::default() };
    let begun = Clock::now();
    let mut plan = Plan::new(view, &everything).expect("a range");
    plan.remember_in(memory);
    let mut emission = plan.finish_in_legs(view, PLAN_SLICE).expect("a plan");
    let planned = begun.elapsed();
    let mut slice = BytesMut::with_capacity(SLICE_BYTES);
    while !emission.emit(view, &HEADER, &mut slice, SLICE_BYTES).expect("a slice") {
        std::hint::black_box(&slice);
        slice.clear();
    }
    (planned, begun.elapsed())
}

fn main() {
    let pairs: u64 = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(100_000);
    let mut shuffled: Vec<u64> = (0..pairs).collect();
    let mut prng = Prng::new(1);
    for at in (1..pairs).rev() {
        shuffled.swap(at as usize, prng.below(at + 1) as usize);
    }
    let in_turns = (0..pairs).map(|i| i % 4 * (pairs / 4) + i / 4).collect();
    for (order, numbers) in
        [("in order", (0..pairs).collect()), ("in four turns", in_turns), ("in no order", shuffled)]
    {
        let store = filled(&numbers);
        let mut reader = store.readers().register();
        let snapshot = reader.snapshot();
        let memory = PlanMemory::new(16 << 20);
        let best = (0..ROUNDS).map(|_| list(&View::new(&snapshot), &memory)).min_by_key(|round| round.1);
        let (plan, whole) = best.expect("at least one round");
        let each = |time: Duration| time.as_nanos() as u64 / pairs;
        println!("put {order:<14} plan {:>5} ns a pair, plan and values {:>5} ns", each(plan), each(whole));
    }
}
