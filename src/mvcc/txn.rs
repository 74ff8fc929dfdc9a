//! Transactions: conditions on the state before, then operations that see each other.
//!
//! Evaluation has three phases, as etcd has them. The *path* says for the transaction and every nested one on the
//! way which branch is taken; all conditions look at the state before. The *check* finds out whether every
//! operation on that path can succeed, again on the state before; only a put that keeps what an operation before it
//! deletes needs a look at both. Only then are operations executed, in order, and
//! nothing can fail any more.
#![forbid(unsafe_code)]

use bytes::{BufMut, BytesMut};

use super::answer_room::AnswerRoom;
use super::condition::holds;
use super::event::EventBatch;
use super::key_set::KeySet;
use super::range::Plan;
use super::view::View;
use super::write::{Writer, put_put_response, put_response_len};
use crate::btree::{Read, WriteTxn};
use crate::error::Error;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::response::{Header, Response};
use crate::wire::{bytes_field_len, int_field_len, put_bytes_field, put_bytes_head, put_int_field};

/// True if no operation of either branch can write: such a transaction is answered like a Range. etcd API
/// guarantee: a nested transaction counts as a write, whatever is in it.
pub fn is_read_only(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(op.request, Some(Op::RequestRange(_))))
}

/// True if some operation names the revision that it reads.
pub fn names_revision(request: &TxnRequest) -> bool {
    ops(request).any(|op| matches!(&op.request, Some(Op::RequestRange(range)) if range.revision > 0))
}

/// True if every operation is a serializable Range, so that local state will do.
pub fn is_serializable(request: &TxnRequest) -> bool {
    ops(request).all(|op| matches!(&op.request, Some(Op::RequestRange(range)) if range.serializable))
}

/// Keys that the transaction itself puts, in either branch.
pub fn put_keys(request: &TxnRequest) -> impl Iterator<Item = &[u8]> {
    ops(request).filter_map(|op| match &op.request {
        Some(Op::RequestPut(put)) => Some(&put.key[..]),
        _ => None,
    })
}

fn ops(request: &TxnRequest) -> impl Iterator<Item = &RequestOp> {
    request.success.iter().chain(&request.failure)
}

/// Operations that were executed, as etcd counts them: each as one, whatever it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ops {
    /// Ranges, with those that a put or a deletion needed.
    pub ranges: u32,
    /// Puts.
    pub puts: u32,
    /// Deletions of a key or a range.
    pub deletes: u32,
}

impl Ops {
    /// Adds a put.
    pub fn put(&mut self, put: &PutRequest) {
        self.puts += 1;
        self.ranges += u32::from(put.prev_kv || put.ignore_value || put.ignore_lease);
    }

    /// Adds a deletion.
    pub fn delete(&mut self, delete: &DeleteRangeRequest) {
        self.deletes += 1;
        self.ranges += u32::from(delete.prev_kv);
    }

    /// All of them.
    pub fn sum(&self) -> u32 {
        self.ranges + self.puts + self.deletes
    }
}

/// What a transaction came to.
pub struct Outcome {
    /// Its answer. An error here is of a Range in it, whose answer could not be read; the writes are done all the same.
    pub response: Result<Response, Error>,
    /// What was executed.
    pub ops: Ops,
}

/// Applies a transaction. `reply_wanted` is false where no client waits: Ranges are skipped then.
pub fn apply(
    txn: &mut WriteTxn<'_>,
    request: &TxnRequest,
    lease_exists: &dyn Fn(i64) -> bool,
    reply_wanted: bool,
) -> Result<(Outcome, Option<EventBatch>), Error> {
    let mut path = Vec::new();
    let view = View::new(&*txn);
    take_path(&view, request, &mut path)?;
    let keeps = check(&view, request, &mut path.iter(), lease_exists)?;
    if keeps && leaves_nothing_to_keep(request, &mut path.iter(), &mut KeySet::default()) {
        return Err(Error::KeyNotFound);
    }
    let mut writer = Writer::begin(txn);
    let mut body = BytesMut::new();
    let mut done = Done::default();
    execute(&mut writer, request, &mut path.iter(), reply_wanted, &mut body, &mut done);
    let revision = writer.revision();
    let response = match (done.failed, done.room.overlong()) {
        (Some(error), _) => Err(error),
        (None, Some(len)) => Ok(Response::Overlong { revision, len }),
        (None, None) => Ok(Response::Txn { revision, body: body.freeze() }),
    };
    Ok((Outcome { response, ops: done.ops }, writer.finish()))
}

pub(super) fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

/// Which branch is taken, here and in every nested transaction on the way, in the order they are met.
fn take_path<R: Read>(view: &View<'_, R>, request: &TxnRequest, path: &mut Vec<bool>) -> Result<(), Error> {
    let mut succeeded = true;
    for compare in &request.compare {
        succeeded = succeeded && holds(view, compare)?;
    }
    path.push(succeeded);
    for op in branch(request, succeeded) {
        if let Some(Op::RequestTxn(nested)) = &op.request {
            take_path(view, nested, path)?;
        }
    }
    Ok(())
}

/// Whether everything on the path can succeed on the state before. True if some put keeps its key's value or lease.
fn check<R: Read>(
    view: &View<'_, R>,
    request: &TxnRequest,
    path: &mut core::slice::Iter<'_, bool>,
    lease_exists: &dyn Fn(i64) -> bool,
) -> Result<bool, Error> {
    let mut keeps = false;
    for op in branch(request, *path.next().expect("the path covers every transaction on it")) {
        match &op.request {
            Some(Op::RequestRange(range)) => check_range(view.revision(), view.compact_revision(), range)?,
            Some(Op::RequestPut(put)) => {
                check_put(view, put, lease_exists)?;
                keeps |= put.ignore_value || put.ignore_lease;
            }
            Some(Op::RequestTxn(nested)) => keeps |= check(view, nested, path, lease_exists)?,
            Some(Op::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(keeps)
}

/// Whether a put on the path keeps value or lease of a key that an operation before it deletes, in one of the few ways
/// that the search for duplicate keys does not see. etcd finds out in the middle of the transaction, and dies.
/// `deleted` are the keys that were deleted by an operation before and not put since.
fn leaves_nothing_to_keep<'r>(
    request: &'r TxnRequest,
    path: &mut core::slice::Iter<'_, bool>,
    deleted: &mut KeySet<'r>,
) -> bool {
    for op in branch(request, *path.next().expect("the path covers every transaction on it")) {
        match &op.request {
            Some(Op::RequestTxn(nested)) => {
                if leaves_nothing_to_keep(nested, path, deleted) {
                    return true;
                }
            }
            Some(Op::RequestPut(put)) if put.ignore_value || put.ignore_lease => {
                if deleted.contains(&put.key) {
                    return true;
                }
            }
            Some(Op::RequestPut(put)) => deleted.remove_key(&put.key),
            Some(Op::RequestDeleteRange(delete)) => match &delete.range_end[..] {
                [] => deleted.insert_key(&delete.key),
                [0] => deleted.insert_from(&delete.key),
                end => deleted.insert_range(&delete.key, end),
            },
            Some(Op::RequestRange(_)) | None => {}
        }
    }
    false
}

/// Unlike a plain Range, etcd compares a negative revision with the compaction too.
pub(super) fn check_range(revision: i64, compact_revision: i64, range: &RangeRequest) -> Result<(), Error> {
    if range.revision == 0 {
        Ok(())
    } else if range.revision > revision {
        Err(Error::FutureRevision)
    } else if range.revision < compact_revision {
        Err(Error::Compacted)
    } else {
        Ok(())
    }
}

/// Whether a put can succeed on this state.
pub fn check_put<R: Read>(
    view: &View<'_, R>,
    put: &PutRequest,
    lease_exists: &dyn Fn(i64) -> bool,
) -> Result<(), Error> {
    if put.lease != 0 && !lease_exists(put.lease) {
        return Err(Error::LeaseNotFound);
    }
    if (put.ignore_value || put.ignore_lease) && view.find(&put.key, view.revision()).is_none() {
        return Err(Error::KeyNotFound);
    }
    Ok(())
}

/// What executing a transaction has come to so far.
#[derive(Default)]
struct Done {
    ops: Ops,
    /// What the answers of its operations may take.
    room: AnswerRoom,
    /// Why an answer could not be read.
    failed: Option<Error>,
}

/// Executes what the check has found possible, and appends fields 2 and 3 of the TxnResponse.
fn execute(
    writer: &mut Writer<'_, '_>,
    request: &TxnRequest,
    path: &mut core::slice::Iter<'_, bool>,
    reply_wanted: bool,
    out: &mut BytesMut,
    done: &mut Done,
) {
    let succeeded = *path.next().expect("the path covers every transaction on it");
    put_int_field(out, 2, i64::from(succeeded));
    for op in branch(request, succeeded) {
        match &op.request {
            Some(Op::RequestRange(range)) if reply_wanted => {
                done.ops.ranges += 1;
                if let Err(error) = put_range_op(out, &writer.view(), range, &mut done.room) {
                    done.failed = Some(error);
                }
            }
            Some(Op::RequestRange(_)) => {}
            Some(Op::RequestPut(put)) => {
                done.ops.put(put);
                let prev_kv = writer.put(put);
                let prev_kv = prev_kv.filter(|kv| done.room.admit(kv.len()));
                put_op_head(out, 2, put_response_len(writer.revision(), prev_kv.as_ref()));
                put_put_response(out, writer.revision(), prev_kv.as_ref());
            }
            Some(Op::RequestDeleteRange(delete)) => {
                done.ops.delete(delete);
                let deleted = writer.delete_range(delete, &mut done.room);
                let header = Header::default();
                let len = header.field_len(writer.revision())
                    + int_field_len(deleted.keys)
                    + deleted.prev_kvs.len();
                put_op_head(out, 3, len);
                header.put_field(writer.revision(), out);
                put_int_field(out, 2, deleted.keys);
                out.put_slice(&deleted.prev_kvs);
            }
            Some(Op::RequestTxn(nested)) => {
                let mut body = BytesMut::new();
                // etcd API guarantee: the header of a nested answer is there, and empty.
                put_bytes_head(&mut body, 1, 0);
                execute(writer, nested, path, reply_wanted, &mut body, done);
                put_op_head(out, 4, body.len());
                out.put_slice(&body);
            }
            None => put_bytes_field(out, 3, &[]),
        }
    }
}

/// Appends the answer of a Range inside a transaction, whose header has only a revision.
fn put_range_op<R: Read>(
    out: &mut BytesMut,
    view: &View<'_, R>,
    request: &RangeRequest,
    room: &mut AnswerRoom,
) -> Result<(), Error> {
    let header = Header::default();
    let mut emission = Plan::new(view, request)?.finish(view)?;
    let len = emission.encoded_len(&header);
    if !room.admit(len) {
        return Ok(());
    }
    put_op_head(out, 1, len);
    out.reserve(len);
    while !emission.emit(view, &header, out, usize::MAX)? {}
    Ok(())
}

/// Tag and length of a ResponseOp (field 3 of a TxnResponse) and of the response in its field `field`.
fn put_op_head(out: &mut BytesMut, field: u8, len: usize) {
    put_bytes_head(out, 3, bytes_field_len(len));
    put_bytes_head(out, field, len);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;
    use crate::limits::ANSWER_ASSEMBLED_BYTES_MAX;
    use crate::mvcc::write::initialize;
    use crate::proto::etcdserverpb::DeleteRangeRequest;

    fn put(key: &'static str, ignore_value: bool) -> RequestOp {
        let put = PutRequest { key: key.into(), ignore_value, ..PutRequest::default() };
        RequestOp { request: Some(Op::RequestPut(put)) }
    }

    fn delete_from(key: &'static str) -> RequestOp {
        let delete = DeleteRangeRequest {
            key: key.into(),
            range_end: b"\0"[..].into(),
            ..DeleteRangeRequest::default()
        };
        RequestOp { request: Some(Op::RequestDeleteRange(delete)) }
    }

    fn nested(success: Vec<RequestOp>) -> RequestOp {
        RequestOp { request: Some(Op::RequestTxn(TxnRequest { success, ..TxnRequest::default() })) }
    }

    /// Each transaction holds `puts`, all with the same key, and the next one, `depth` times over: no limit on the
    /// operations of one transaction bounds them all.
    fn deep(puts: usize, depth: usize) -> RequestOp {
        let more = (depth > 0).then(|| deep(puts, depth - 1));
        nested(std::iter::repeat_n(put("k", true), puts).chain(more).collect())
    }

    #[test]
    fn puts_that_keep_values_cost_no_more_together_than_each() {
        let mut store = Store::in_memory();
        let txn = &mut store.write();
        initialize(txn);
        let mut run = |success: Vec<RequestOp>| {
            let request = TxnRequest { success, ..TxnRequest::default() };
            apply(txn, &request, &|_| true, true).map(|(outcome, _)| outcome.ops.puts)
        };
        assert_eq!(run(vec![put("k", false)]), Ok(1));
        let deletions = std::iter::repeat_n(delete_from("l"), 40_000);
        let began = std::time::Instant::now();
        assert_eq!(run(deletions.chain([deep(1000, 40)]).collect()), Ok(41_000));
        // With a look at every operation before it, each put takes 0.2 ms: 8 s in a fast build, a minute in this one.
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    }

    #[test]
    fn a_value_that_the_transaction_itself_deletes_cannot_be_kept() {
        let mut store = Store::in_memory();
        let txn = &mut store.write();
        initialize(txn);
        let mut run = |success: Vec<RequestOp>| {
            let request = TxnRequest { success, ..TxnRequest::default() };
            apply(txn, &request, &|_| true, true).map(|(outcome, _)| outcome.response.unwrap().revision())
        };
        assert_eq!(run(vec![put("k", false)]), Ok(2));
        assert_eq!(run(vec![delete_from("a"), put("k", true)]), Err(Error::KeyNotFound));
        assert_eq!(run(vec![nested(vec![delete_from("k")]), put("k", true)]), Err(Error::KeyNotFound));
        assert_eq!(run(vec![put("k", true), delete_from("l")]), Ok(3), "nothing was applied before");
        assert_eq!(run(vec![delete_from("l"), put("k", true)]), Ok(4));
        assert_eq!(run(vec![delete_from("a"), nested(vec![put("k", false)]), put("k", true)]), Ok(5));
        assert_eq!(run(vec![put("k", true), delete_from("a")]), Ok(6));
        assert_eq!(run(vec![put("k", true)]), Err(Error::KeyNotFound));
    }

    /// A store with one key more than an answer can show, and what deletes them all.
    fn too_much() -> (Store, DeleteRangeRequest) {
        const VALUE_BYTES: usize = 1 << 20;
        let mut store = Store::in_memory();
        let mut txn = store.write();
        initialize(&mut txn);
        let mut writer = Writer::begin(&mut txn);
        for number in 0..=ANSWER_ASSEMBLED_BYTES_MAX / VALUE_BYTES {
            let (key, value) = (format!("{number:03}").into(), vec![7; VALUE_BYTES].into());
            writer.put(&PutRequest { key, value, ..PutRequest::default() });
        }
        writer.finish();
        txn.commit();
        let all = b"\0"[..].into();
        (store, DeleteRangeRequest { key: b"0"[..].into(), range_end: all, prev_kv: true })
    }

    #[test]
    fn a_write_whose_answer_is_too_long_is_applied_and_only_its_length_is_kept() {
        let (mut store, delete) = too_much();
        let mut txn = store.write();
        let deletion = RequestOp { request: Some(Op::RequestDeleteRange(delete.clone())) };
        let range = RangeRequest { key: delete.key, range_end: delete.range_end, ..RangeRequest::default() };
        let list = RequestOp { request: Some(Op::RequestRange(range)) };
        for success in [vec![list, put("k", false)], vec![nested(vec![deletion])]] {
            let request = TxnRequest { success, ..TxnRequest::default() };
            let (outcome, events) = apply(&mut txn, &request, &|_| true, true).unwrap();
            let Ok(Response::Overlong { revision, len }) = outcome.response else {
                panic!("an answer of more than {ANSWER_ASSEMBLED_BYTES_MAX} bytes")
            };
            assert!(len > ANSWER_ASSEMBLED_BYTES_MAX && revision == events.expect("a write").revision);
        }
    }

    #[test]
    fn a_deletion_keeps_what_there_is_room_for_and_deletes_all() {
        let (mut store, delete) = too_much();
        let mut txn = store.write();
        let mut room = AnswerRoom::default();
        let mut writer = Writer::begin(&mut txn);
        let deleted = writer.delete_range(&delete, &mut room);
        assert!(room.overlong().is_some() && deleted.prev_kvs.len() <= ANSWER_ASSEMBLED_BYTES_MAX);
        assert_eq!(deleted.keys, (ANSWER_ASSEMBLED_BYTES_MAX >> 20) as i64 + 1);
    }
}
