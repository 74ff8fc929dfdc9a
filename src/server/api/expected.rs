//! How long the answer to a write will be, as the published state has it: what earlier pairs and ranges come to that
//! the write answers. Room for it is kept before the write is proposed.
//!
//! Writes before this one may still change it, so it is no promise. It costs a look at the index for each key that is
//! answered; a write that answers none costs nothing. While few calls wait, those that answer one pair at most are not
//! looked up, and their answers are sent whatever room there is: together they are no longer than requests may be.
#![forbid(unsafe_code)]

use crate::btree::Snapshot;
use crate::limits::ANSWER_ASSEMBLED_BYTES_MAX;
use crate::mvcc::range::Plan;
use crate::mvcc::{Progress, Slices, View};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::response::Header;

/// Index entries that may be looked at. An answer that needs more is taken to be as long as an answer can be.
/// Twice as many operations as a transaction usually may have in both branches can find a key each.
const BUDGET: usize = 2048;
/// What a single key costs of it.
const FIND_COST: usize = 4;
/// What an operation of a transaction takes besides its pairs.
const OP_BYTES: usize = 32;

/// Calls that wait for the replica below which those that show one pair at most are taken without a look. Kubernetes
/// writes nothing but such transactions.
const FEW_CALLS: usize = 64;

/// What is known of the answer to a write before the write is proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It will have about so many bytes.
    Bytes(usize),
    /// It shows one stored pair at most, and few calls wait.
    OnePair,
}

/// The answer to a Txn that writes, where so many calls wait.
pub fn of_txn_beside(calls: usize, view: &View<'_, Snapshot<'_>>, request: &TxnRequest) -> Expected {
    if calls < FEW_CALLS && [&request.success, &request.failure].into_iter().all(|ops| shows_one_pair(ops)) {
        return Expected::OnePair;
    }
    Expected::Bytes(of_txn(view, request))
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
fn of_txn(view: &View<'_, Snapshot<'_>>, request: &TxnRequest) -> usize {
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
    if view.will_write(key) { view.find(key, at).map_or(0, |found| found.entry.kv_len) } else { 0 }
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
            writer.put(&PutRequest { key, value, ..PutRequest::default() });
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
        assert!(view.find(&put.key, view.revision()).is_some());
        assert!(of_put(&view, &put) > 100 && of_delete(&view, &delete) > 100, "it is in memory now");
    }

    #[test]
    fn one_pair_is_not_looked_up_while_few_calls_wait() {
        let mut store = Store::in_memory();
        fill(&mut store, 10);
        let mut reader = store.readers().register();
        let snapshot = reader.snapshot();
        let view = View::new(&snapshot);
        let range = |range_end: &'static str| RequestOp {
            request: Some(Op::RequestRange(RangeRequest {
                key: "k00001".into(),
                range_end: range_end.into(),
                ..RangeRequest::default()
            })),
        };
        let one = TxnRequest { failure: vec![range("")], ..TxnRequest::default() };
        assert_eq!(of_txn_beside(FEW_CALLS - 1, &view, &one), Expected::OnePair);
        for (calls, failure) in [(FEW_CALLS, vec![range("")]), (0, vec![range(""); 2]), (0, vec![range("l")])]
        {
            let request = TxnRequest { failure, ..TxnRequest::default() };
            let Expected::Bytes(bytes) = of_txn_beside(calls, &view, &request) else {
                panic!("not looked up")
            };
            assert!(bytes > 100, "{bytes}");
        }
    }
}
