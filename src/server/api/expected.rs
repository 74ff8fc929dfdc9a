//! How long the answer to a write will be, as the published state has it: what earlier pairs and ranges come to that
//! the write answers. Room for it is kept before the write is proposed.
//!
//! Writes before this one may still change it, so it is no promise. It costs a look at the index for each key that is
//! answered; a write that answers none costs nothing. Of transactions that answer one pair at most, few are looked up
//! ([`Looks`]): Kubernetes writes nothing else, and its pairs are short.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};

use crate::btree::Snapshot;
use crate::limits::ANSWER_ASSEMBLED_BYTES_MAX;
use crate::mvcc::range::Plan;
use crate::mvcc::{Progress, Slices, View};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::response::Header;
use crate::stdx::prng::Prng;

/// Index entries that may be looked at. An answer that needs more is taken to be as long as an answer can be.
/// Twice as many operations as a transaction usually may have in both branches can find a key each.
const BUDGET: usize = 2048;
/// What a single key costs of it.
const FIND_COST: usize = 4;
/// What an operation of a transaction takes besides its pairs.
const OP_BYTES: usize = 32;

/// Calls that wait for the replica below which no answer of one pair is looked up.
const FEW_CALLS: usize = 64;
/// Beside more calls, one of so many is.
const LOOK_EACH: u64 = 8;
/// From this length on an answer needs room of its own.
const LONG_BYTES: usize = 4 * 1024;

/// What is known of the answer to a write before the write is proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It will have about so many bytes.
    Bytes(usize),
    /// It shows one stored pair at most, and was not looked up. It is sent whatever room there is then: the core had
    /// enough when the write was proposed.
    OnePair,
}

/// Which answers of one pair a core looks up.
///
/// Beside few calls it looks up none: so many answers are together no longer than requests may be. Beside more calls it
/// looks up some, by chance, until it finds a long one; then all, until few calls wait. So of long answers that wait at
/// the same time, few pass without a look: [`LOOK_EACH`] on an average, beside those of few calls.
///
/// Answers that nobody takes do not wait for the replica any more, and few calls follow few calls. So none passes while
/// the unsent answers of the core crowd its memory.
pub struct Looks {
    prng: RefCell<Prng>,
    found_long: Cell<bool>,
}

impl Looks {
    /// Nothing is found yet. No client may know the seed.
    pub fn new(seed: u64) -> Self {
        Self { prng: RefCell::new(Prng::new(seed)), found_long: Cell::new(false) }
    }

    /// What is known of the answer to a Txn that writes, where so many calls wait, and unsent answers crowd the core or
    /// do not. `look` looks it up.
    pub fn expect(
        &self,
        calls: usize,
        is_crowded: bool,
        request: &TxnRequest,
        look: impl FnOnce() -> usize,
    ) -> Expected {
        let shows_one_pair = [&request.success, &request.failure].into_iter().all(|ops| shows_one_pair(ops));
        if shows_one_pair && !is_crowded && self.spares(calls) {
            return Expected::OnePair;
        }
        let bytes = look();
        self.found_long.set(self.found_long.get() || shows_one_pair && bytes >= LONG_BYTES);
        Expected::Bytes(bytes)
    }

    fn spares(&self, calls: usize) -> bool {
        if calls < FEW_CALLS {
            self.found_long.set(false);
            return true;
        }
        !self.found_long.get() && !self.prng.borrow_mut().chance(1, LOOK_EACH)
    }
}

/// Whether a branch shows one stored pair at most.
fn shows_one_pair(ops: &[RequestOp]) -> bool {
    match ops {
        [] => true,
        [op] => match &op.request {
            Some(Op::RequestRange(range)) => range.range_end.is_empty(),
            Some(Op::RequestDeleteRange(delete)) => delete.range_end.is_empty() || !delete.prev_kv,
            Some(Op::RequestPut(_)) | None => true,
            Some(Op::RequestTxn(_)) => false,
        },
        _ => false,
    }
}

/// Length of the answer to a Put.
pub fn of_put(view: &View<'_, Snapshot<'_>>, request: &PutRequest) -> usize {
    if request.prev_kv { pair(view, &request.key, view.revision()) } else { 0 }
}

/// Length of the answer to a DeleteRange.
pub fn of_delete(view: &View<'_, Snapshot<'_>>, request: &DeleteRangeRequest) -> usize {
    let mut budget = BUDGET;
    let bytes = deleted(view, request, &mut budget);
    if budget == 0 { ANSWER_ASSEMBLED_BYTES_MAX } else { bytes.min(ANSWER_ASSEMBLED_BYTES_MAX) }
}

/// Length of the answer to a Txn that writes: of both branches together.
pub fn of_txn(view: &View<'_, Snapshot<'_>>, request: &TxnRequest) -> usize {
    let (mut bytes, mut budget) = (0, BUDGET);
    let (mut nested, mut txn) = (Vec::new(), Some(request));
    while let Some(request) = txn {
        for op in request.success.iter().chain(&request.failure) {
            bytes += OP_BYTES;
            bytes += match &op.request {
                Some(Op::RequestRange(range)) => pairs(view, range, &mut budget),
                Some(Op::RequestPut(put)) => {
                    budget = budget.saturating_sub(if put.prev_kv { FIND_COST } else { 0 });
                    of_put(view, put)
                }
                Some(Op::RequestDeleteRange(delete)) => deleted(view, delete, &mut budget),
                Some(Op::RequestTxn(inner)) => {
                    nested.push(inner);
                    0
                }
                None => 0,
            };
            if budget == 0 || bytes > ANSWER_ASSEMBLED_BYTES_MAX {
                return ANSWER_ASSEMBLED_BYTES_MAX;
            }
        }
        txn = nested.pop();
    }
    bytes
}

fn deleted(view: &View<'_, Snapshot<'_>>, request: &DeleteRangeRequest, budget: &mut usize) -> usize {
    if !request.prev_kv {
        return 0;
    }
    let (key, range_end) = (request.key.clone(), request.range_end.clone());
    pairs(view, &RangeRequest { key, range_end, ..RangeRequest::default() }, budget)
}

/// Length of the pairs of a Range. One that cannot be read is an error, which is short.
fn pairs(view: &View<'_, Snapshot<'_>>, request: &RangeRequest, budget: &mut usize) -> usize {
    if request.range_end.is_empty() {
        *budget = budget.saturating_sub(FIND_COST);
        let is_whole = !(request.count_only || request.keys_only);
        let at = view.resolve(request.revision).unwrap_or_default();
        return if is_whole { pair(view, &request.key, at) } else { request.key.len() };
    }
    if request.count_only {
        return 0;
    }
    *budget = budget.saturating_sub(FIND_COST);
    let planned = Plan::of_pairs(view, request).and_then(|plan| plan.step_within(view, budget));
    match planned {
        Ok(Progress::Done(emission)) => emission.encoded_len(&Header::default()),
        Ok(Progress::Pending(_)) => {
            *budget = 0;
            0
        }
        Err(_) => 0,
    }
}

/// Bytes of the pair that a key has at a revision; none where the disk would have to be waited for.
fn pair(view: &View<'_, Snapshot<'_>>, key: &[u8], at: i64) -> usize {
    let found = if view.will_write(key) { view.find(key, at) } else { Ok(None) };
    found.ok().flatten().map_or(0, |found| found.entry.kv_len)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::btree::Store;
    use crate::limits::LARGE_STORE_BYTES;
    use crate::mvcc::write::{Writer, initialize};
    use crate::page::{MemoryFile, PAGE_SIZE, PageFile};
    use crate::proto::etcdserverpb::RequestOp;
    use crate::proto::etcdserverpb::range_request::SortTarget;

    fn fill(store: &mut Store, keys: usize) {
        let mut txn = store.write();
        initialize(&mut txn);
        let mut writer = Writer::begin(&mut txn);
        for n in 0..keys {
            let (key, value) = (format!("k{n:05}").into(), vec![b'v'; 100].into());
            writer.put(&PutRequest { key, value, ..PutRequest::default() }).unwrap();
        }
        writer.finish();
        txn.commit();
    }

    fn all() -> RangeRequest {
        RangeRequest { key: "k".into(), range_end: "l".into(), ..RangeRequest::default() }
    }

    fn txn(ranges: impl IntoIterator<Item = RangeRequest>) -> TxnRequest {
        let op = |range| RequestOp { request: Some(Op::RequestRange(range)) };
        TxnRequest { success: ranges.into_iter().map(op).collect(), ..TxnRequest::default() }
    }

    #[test]
    fn what_is_only_counted_needs_no_room() {
        let mut store = Store::in_memory();
        fill(&mut store, 3 * BUDGET);
        let mut reader = store.readers().register();
        let snapshot = reader.snapshot();
        let view = View::new(&snapshot);
        let first = RangeRequest { limit: 1, ..all() };
        let count = RangeRequest { count_only: true, ..all() };
        let ranges = [first, count].into_iter().cycle().take(256);
        assert!((128 * 100..64 * 1024).contains(&of_txn(&view, &txn(ranges))));
        let gets =
            (0..256).map(|n| RangeRequest { key: format!("k{n:05}").into(), ..RangeRequest::default() });
        assert!((256 * 100..64 * 1024).contains(&of_txn(&view, &txn(gets))));
        // What is sorted is looked at as a whole.
        let newest = RangeRequest { limit: 1, sort_target: SortTarget::Mod as i32, sort_order: 2, ..all() };
        for range in [all(), newest] {
            assert_eq!(of_txn(&view, &txn([range])), ANSWER_ASSEMBLED_BYTES_MAX);
        }
    }

    /// A file that says that it is large.
    #[derive(Default)]
    struct LargeFile {
        file: MemoryFile,
        is_large: AtomicBool,
        reads: AtomicUsize,
    }

    impl PageFile for LargeFile {
        fn name(&self) -> String {
            self.file.name()
        }

        fn pages(&self) -> u32 {
            let large = (LARGE_STORE_BYTES / PAGE_SIZE as u64) as u32;
            if self.is_large.load(Ordering::Relaxed) { large } else { self.file.pages() }
        }

        fn read(&self, first: u32, into: &mut [u8]) -> io::Result<()> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.file.read(first, into)
        }

        fn write(&self, first: u32, bytes: &[u8]) -> io::Result<()> {
            self.file.write(first, bytes)
        }

        fn resize(&self, pages: u32) -> io::Result<()> {
            self.file.resize(pages)
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_disk_is_not_waited_for() {
        let file = Arc::new(LargeFile::default());
        let mut store = Store::open(file.clone()).expect("an empty file");
        fill(&mut store, 1000);
        store.begin_checkpoint().expect("pages to write").execute().expect("a file in memory");
        drop(store);
        let store = Store::open(file.clone()).expect("what was written");
        file.is_large.store(true, Ordering::Relaxed);
        let mut reader = store.readers().register();
        let snapshot = reader.snapshot();
        let view = View::new(&snapshot);
        let put = PutRequest { key: "k00500".into(), prev_kv: true, ..PutRequest::default() };
        let delete =
            DeleteRangeRequest { key: put.key.clone(), prev_kv: true, ..DeleteRangeRequest::default() };
        let reads = file.reads.load(Ordering::Relaxed);
        assert_eq!((of_put(&view, &put), of_delete(&view, &delete)), (0, 0));
        assert_eq!(file.reads.load(Ordering::Relaxed), reads);
        assert!(view.find(&put.key, view.revision()).unwrap().is_some());
        assert!(of_put(&view, &put) > 100 && of_delete(&view, &delete) > 100, "it is in memory now");
    }

    fn get() -> RequestOp {
        RequestOp { request: Some(Op::RequestRange(RangeRequest { key: "k".into(), ..Default::default() })) }
    }

    fn gets(count: usize) -> TxnRequest {
        TxnRequest { failure: vec![get(); count], ..TxnRequest::default() }
    }

    #[test]
    fn one_pair_is_seldom_looked_up_and_more_always_are() {
        let looks = Looks::new(1);
        let looked_up = |calls, request: &TxnRequest| {
            let is_looked_up = |_: &u32| looks.expect(calls, false, request, || 300) == Expected::Bytes(300);
            (0..8_000).filter(is_looked_up).count()
        };
        assert_eq!(looked_up(FEW_CALLS - 1, &gets(1)), 0);
        assert!((900..1_100).contains(&looked_up(FEW_CALLS, &gets(1))));
        assert_eq!(looked_up(0, &gets(2)), 8_000);
        assert_eq!(looks.expect(0, true, &gets(1), || 300), Expected::Bytes(300), "the core is crowded");
        assert_eq!(looked_up(0, &txn([all()])), 8_000);
    }

    #[test]
    fn few_long_pairs_pass_without_a_look() {
        let passed: Vec<usize> = (0..1_000)
            .map(|seed| {
                let looks = Looks::new(seed);
                let expect = |calls| looks.expect(calls, false, &gets(1), || LONG_BYTES);
                let passed = (0..1_000).filter(|_| expect(FEW_CALLS) == Expected::OnePair).count();
                let all = (0..1_000).all(|_| expect(FEW_CALLS) == Expected::Bytes(LONG_BYTES));
                assert!(all && expect(FEW_CALLS - 1) == Expected::OnePair);
                passed
            })
            .collect();
        assert!((6_000..8_000).contains(&passed.iter().sum::<usize>()), "7 of each thousand, on an average");
        assert!(passed.iter().all(|passed| *passed < 100), "{:?}", passed.iter().max());
    }
}
