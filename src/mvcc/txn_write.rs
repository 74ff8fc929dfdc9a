//! Executing a transaction that writes, in slices.
//!
//! There are three phases, as etcd has them. The *path* says for the transaction and every nested one on the way which
//! branch is taken; all conditions look at the state before. The *check* finds out whether every operation on that path
//! can succeed, again on the state before; only a put that keeps what an operation before it deletes needs a look at
//! both. Only then are operations executed, in order, and nothing can fail any more. What a slice has left to do is a
//! place in the request and the state of the one operation that is under way.
#![forbid(unsafe_code)]

use bytes::{Bytes, BytesMut};

use super::answer_body::{AnswerBody, Opened};
use super::answer_room::AnswerRoom;
use super::condition::{Evaluation, FIND_COST, judge};
use super::event::EventBatch;
use super::key_set::KeySet;
use super::op_walk::{OpWalk, Position, Visit};
use super::planned::{Progress, Slices};
use super::range::{Emission, Plan};
use super::txn::{Ops, Outcome, check_put, check_range};
use super::view::View;
use super::write::{CHANGE_COST, Deletion, Writer, Written, put_put_response, put_response_len};
use crate::btree::{Read, WriteTxn};
use crate::error::Error;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::response::{Header, Response};
use crate::wire::{bytes_field_len, int_field_len, put_bytes_field, put_bytes_head, put_int_field};

/// Bytes of pairs that are looked up and written in the time that looking at an index entry takes.
const BYTES_EMITTED_PER_ENTRY: usize = 128;

/// A transaction that is being executed. The request is the caller's, and the same in every step.
pub struct TxnWrite {
    /// A client waits for the answer.
    reply_wanted: bool,
    events_max: usize,
    phase: Phase,
    place: Position,
    /// Which branch is taken, here and in every nested transaction on the way, in the order in which they are met.
    path: Vec<bool>,
    /// Conditions of the next transaction on the path that hold.
    held: usize,
    /// The condition behind them, if it takes several slices.
    leg: Option<Evaluation>,
    /// Some put on the path keeps its key's value or lease.
    keeps: bool,
    /// Keys that an operation before deletes, and none puts since.
    deleted: KeySet<Bytes>,
    execution: Execution,
    written: Option<Written>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Path,
    Check,
    Keep,
    Execute,
    Answer,
}

/// Operations being executed, and what they have come to so far.
#[derive(Default)]
struct Execution {
    /// Transactions entered.
    entered: usize,
    /// The next operation, if it takes several slices.
    doing: Doing,
    /// Fields 2 and 3 of the TxnResponse.
    body: AnswerBody,
    /// Answers of nested transactions that are not complete, the outermost first.
    opened: Vec<Opened>,
    ops: Ops,
    /// What the answers of operations may take.
    room: AnswerRoom,
    /// Why an answer could not be read.
    failed: Option<Error>,
}

/// An operation that takes several slices.
#[derive(Default)]
enum Doing {
    #[default]
    Nothing,
    Deleting(Box<Deletion>, Opened),
    Planning(Box<Plan>),
    Emitting(Box<Emission>),
}

/// What a transaction came to, and what watchers are told.
type Done = Result<(Outcome, Option<EventBatch>), Error>;

impl TxnWrite {
    /// Not begun. Where no client waits for the reply, Ranges are skipped.
    pub fn new(reply_wanted: bool, events_max: usize) -> Self {
        Self {
            reply_wanted,
            events_max,
            phase: Phase::Path,
            place: Position::default(),
            path: Vec::new(),
            held: 0,
            leg: None,
            keeps: false,
            deleted: KeySet::default(),
            execution: Execution::default(),
            written: None,
        }
    }

    /// Goes on as far as `budget` index entries, or as much other work, allow. None if there is more to do: then `txn`
    /// is to be suspended, or used for the next step at once.
    ///
    /// # Errors
    /// When an operation on the path is impossible; nothing was changed then. [`Error::Corrupt`] when the store has a
    /// record that cannot be read, or lacks one: what was changed has to be dropped with `txn`.
    pub fn step(
        &mut self,
        txn: &mut WriteTxn<'_>,
        request: &TxnRequest,
        lease_exists: &dyn Fn(i64) -> bool,
        budget: &mut usize,
    ) -> Option<Done> {
        loop {
            let done = match self.phase {
                Phase::Path => self.take_path(&View::new(&*txn), request, budget),
                Phase::Check => self.check(&View::new(&*txn), request, lease_exists, budget),
                Phase::Keep => self.check_kept(request, budget),
                Phase::Execute => self.execute(txn, request, budget),
                Phase::Answer => return self.answer(txn, budget).map(Ok),
            };
            match done {
                Err(error) => return Some(Err(error)),
                Ok(false) => return None,
                Ok(true) => self.begin_phase(),
            }
        }
    }

    fn begin_phase(&mut self) {
        self.phase = match self.phase {
            Phase::Path => Phase::Check,
            Phase::Check if self.keeps => Phase::Keep,
            Phase::Check | Phase::Keep => Phase::Execute,
            Phase::Execute | Phase::Answer => Phase::Answer,
        };
        self.place = Position::default();
        self.execution.entered = 0;
    }

    /// Evaluates the conditions; true once the path is known.
    fn take_path<R: Read>(
        &mut self,
        view: &View<'_, R>,
        request: &TxnRequest,
        budget: &mut usize,
    ) -> Result<bool, Error> {
        let mut walk = OpWalk::resume(request, &mut self.place);
        while let Some(visit) = walk.peek() {
            if *budget == 0 {
                return Ok(false);
            }
            let Visit::Enter(entered) = visit else {
                *budget -= 1;
                walk.advance();
                continue;
            };
            let mut succeeded = true;
            while let Some(compare) = entered.compare.get(self.held)
                && succeeded
            {
                if *budget == 0 {
                    return Ok(false);
                }
                let Some(holds) = judge(view, compare, &mut self.leg, budget)? else { return Ok(false) };
                self.leg = None;
                self.held += 1;
                succeeded = holds;
            }
            *budget = budget.saturating_sub(1);
            self.held = 0;
            self.path.push(succeeded);
            walk.enter(entered, succeeded);
        }
        Ok(true)
    }

    /// Whether everything on the path can succeed on the state before; true once it was all looked at.
    fn check<R: Read>(
        &mut self,
        view: &View<'_, R>,
        request: &TxnRequest,
        lease_exists: &dyn Fn(i64) -> bool,
        budget: &mut usize,
    ) -> Result<bool, Error> {
        let walk = OpWalk::resume(request, &mut self.place);
        look_at(walk, &self.path, &mut self.execution.entered, budget, |op, budget| {
            match op {
                Op::RequestRange(range) => {
                    check_range(view.revision(), view.compact_revision(), range)?;
                }
                Op::RequestPut(put) => {
                    check_put(view, put, lease_exists)?;
                    if put.ignore_value || put.ignore_lease {
                        self.keeps = true;
                        *budget = budget.saturating_sub(FIND_COST);
                    }
                }
                Op::RequestDeleteRange(_) | Op::RequestTxn(_) => {}
            }
            Ok(())
        })
    }

    /// An error if a put on the path keeps value or lease of a key that an operation before it deletes, in one of the
    /// few ways that the search for duplicate keys does not see. etcd finds out in the middle of the transaction, and
    /// dies. True once all were looked at.
    fn check_kept(&mut self, request: &TxnRequest, budget: &mut usize) -> Result<bool, Error> {
        let walk = OpWalk::resume(request, &mut self.place);
        look_at(walk, &self.path, &mut self.execution.entered, budget, |op, budget| {
            match op {
                Op::RequestPut(put) => {
                    *budget = budget.saturating_sub(1);
                    if !(put.ignore_value || put.ignore_lease) {
                        self.deleted.remove_key(put.key.clone());
                    } else if self.deleted.contains(put.key.clone()) {
                        return Err(Error::KeyNotFound);
                    }
                }
                Op::RequestDeleteRange(delete) => {
                    *budget = budget.saturating_sub(1);
                    match &delete.range_end[..] {
                        [] => self.deleted.insert_key(delete.key.clone()),
                        [0] => self.deleted.insert_from(delete.key.clone()),
                        _ => self.deleted.insert_range(delete.key.clone(), delete.range_end.clone()),
                    }
                }
                Op::RequestRange(_) | Op::RequestTxn(_) => {}
            }
            Ok(())
        })
    }

    /// The write so far.
    fn writer<'t, 's>(&mut self, txn: &'t mut WriteTxn<'s>) -> Writer<'t, 's> {
        match self.written.take() {
            Some(written) => Writer::resume(txn, written),
            None => Writer::begin_with(txn, self.events_max),
        }
    }

    /// Executes what the check has found possible; true once all of it is done.
    fn execute(
        &mut self,
        txn: &mut WriteTxn<'_>,
        request: &TxnRequest,
        budget: &mut usize,
    ) -> Result<bool, Error> {
        let mut writer = self.writer(txn);
        let walk = OpWalk::resume(request, &mut self.place);
        let done = self.execution.proceed(&mut writer, walk, &self.path, self.reply_wanted, budget)?;
        self.written = Some(writer.pause());
        Ok(done)
    }

    fn answer(
        &mut self,
        txn: &mut WriteTxn<'_>,
        budget: &mut usize,
    ) -> Option<(Outcome, Option<EventBatch>)> {
        let Execution { body, ops, room, failed, .. } = &mut self.execution;
        let joined = match (failed, room.overlong()) {
            (Some(error), _) => Err(*error),
            (None, Some(len)) => Ok(Err(len)),
            (None, None) => Ok(Ok(body.join(budget)?)),
        };
        let mut ops = *ops;
        let writer = self.writer(txn);
        let revision = writer.revision();
        ops.growth = writer.growth();
        let response = joined.map(|joined| match joined {
            Ok(body) => Response::Txn { revision, body },
            Err(len) => Response::Overlong { revision, len },
        });
        Some((Outcome { response, ops }, writer.finish()))
    }
}

/// Has `look` look at the operations on the path, as far as `budget` allows; true once it has seen all.
fn look_at(
    mut walk: OpWalk<'_, '_>,
    path: &[bool],
    entered: &mut usize,
    budget: &mut usize,
    mut look: impl FnMut(&Op, &mut usize) -> Result<(), Error>,
) -> Result<bool, Error> {
    while let Some(visit) = walk.peek() {
        if *budget == 0 {
            return Ok(false);
        }
        *budget -= 1;
        match visit {
            Visit::Enter(into) => {
                walk.enter(into, next_branch(path, entered));
                continue;
            }
            Visit::Op(RequestOp { request: Some(op) }) => look(op, budget)?,
            Visit::Op(RequestOp { request: None }) | Visit::Leave => {}
        }
        walk.advance();
    }
    Ok(true)
}

/// The branch of the next transaction on the path.
fn next_branch(path: &[bool], entered: &mut usize) -> bool {
    *entered += 1;
    path[*entered - 1]
}

impl Execution {
    /// Executes operations as far as `budget` allows, and appends fields 2 and 3 of the TxnResponse; true once all are
    /// done.
    fn proceed(
        &mut self,
        writer: &mut Writer<'_, '_>,
        mut walk: OpWalk<'_, '_>,
        path: &[bool],
        reply_wanted: bool,
        budget: &mut usize,
    ) -> Result<bool, Error> {
        while let Some(visit) = walk.peek() {
            if *budget == 0 {
                return Ok(false);
            }
            match visit {
                Visit::Enter(entered) => {
                    *budget -= 1;
                    if !walk.is_at_root() {
                        self.opened.push(self.body.open());
                        // etcd API guarantee: the header of a nested answer is there, and empty.
                        put_bytes_head(self.body.out(), 1, 0);
                    }
                    let succeeded = next_branch(path, &mut self.entered);
                    put_int_field(self.body.out(), 2, i64::from(succeeded));
                    walk.enter(entered, succeeded);
                }
                Visit::Leave => {
                    if let Some(opened) = self.opened.pop() {
                        let len = self.body.len_since(&opened);
                        self.body.close(&opened, |out| put_op_head(out, 4, len));
                    }
                    walk.advance();
                }
                Visit::Op(op) => {
                    if !self.execute_op(writer, op, reply_wanted, budget)? {
                        return Ok(false);
                    }
                    walk.advance();
                }
            }
        }
        Ok(true)
    }

    /// One operation, or one slice of it; true once it is done.
    fn execute_op(
        &mut self,
        writer: &mut Writer<'_, '_>,
        op: &RequestOp,
        reply_wanted: bool,
        budget: &mut usize,
    ) -> Result<bool, Error> {
        match &op.request {
            Some(Op::RequestRange(range)) if reply_wanted => {
                match self.range(&writer.view(), range, budget) {
                    Ok(done) => return Ok(done),
                    // The writes of the transaction count all the same.
                    Err(error) => self.failed = Some(error),
                }
            }
            Some(Op::RequestPut(put)) => self.put(writer, put, budget)?,
            Some(Op::RequestDeleteRange(delete)) if delete.range_end.is_empty() => {
                self.delete(writer, delete, budget)?;
            }
            Some(Op::RequestDeleteRange(delete)) => return self.delete_range(writer, delete, budget),
            Some(Op::RequestRange(_) | Op::RequestTxn(_)) => {}
            None => put_bytes_field(self.body.out(), 3, &[]),
        }
        Ok(true)
    }

    fn put(
        &mut self,
        writer: &mut Writer<'_, '_>,
        put: &PutRequest,
        budget: &mut usize,
    ) -> Result<(), Error> {
        self.ops.put(put);
        let room = &mut self.room;
        let prev_kv = writer.put_within(put, |len| room.admit(len))?;
        *budget = budget.saturating_sub(CHANGE_COST + writer.copy_cost());
        let out = self.body.out();
        put_op_head(out, 2, put_response_len(writer.revision(), prev_kv.as_ref()));
        put_put_response(out, writer.revision(), prev_kv.as_ref());
        Ok(())
    }

    fn delete(
        &mut self,
        writer: &mut Writer<'_, '_>,
        delete: &DeleteRangeRequest,
        budget: &mut usize,
    ) -> Result<(), Error> {
        self.ops.delete(delete);
        let opened = self.body.open();
        let keys = i64::from(writer.delete_one(delete, self.body.out(), &mut self.room)?);
        *budget = budget.saturating_sub(CHANGE_COST + writer.copy_cost());
        self.close_delete(&opened, writer.revision(), keys);
        Ok(())
    }

    fn delete_range(
        &mut self,
        writer: &mut Writer<'_, '_>,
        delete: &DeleteRangeRequest,
        budget: &mut usize,
    ) -> Result<bool, Error> {
        let (mut deletion, opened) = match std::mem::take(&mut self.doing) {
            Doing::Deleting(deletion, opened) => (deletion, opened),
            _ => {
                self.ops.delete(delete);
                *budget = budget.saturating_sub(FIND_COST);
                (Box::new(Deletion::new(delete)), self.body.open())
            }
        };
        let (body, room) = (&mut self.body, &mut self.room);
        while !writer.delete_some(delete, &mut deletion, body.out(), room, budget)? {
            if *budget == 0 {
                self.doing = Doing::Deleting(deletion, opened);
                return Ok(false);
            }
        }
        self.close_delete(&opened, writer.revision(), deletion.keys());
        Ok(true)
    }

    /// What comes before the pairs in the answer to a deletion.
    fn close_delete(&mut self, opened: &Opened, revision: i64, keys: i64) {
        let header = Header::default();
        let len = header.field_len(revision) + int_field_len(keys) + self.body.len_since(opened);
        self.body.close(opened, |out| {
            put_op_head(out, 3, len);
            header.put_field(revision, out);
            put_int_field(out, 2, keys);
        });
    }

    /// One leg of a Range, whose header has only a revision; true once its answer is complete.
    fn range<R: Read>(
        &mut self,
        view: &View<'_, R>,
        request: &RangeRequest,
        budget: &mut usize,
    ) -> Result<bool, Error> {
        let plan = match std::mem::take(&mut self.doing) {
            Doing::Emitting(emission) => return self.emit(view, *emission, budget),
            Doing::Planning(plan) => *plan,
            Doing::Nothing | Doing::Deleting(..) => {
                self.ops.ranges += 1;
                *budget = budget.saturating_sub(FIND_COST).max(1);
                Plan::new(view, request)?
            }
        };
        match plan.step_within(view, budget)? {
            Progress::Pending(plan) => {
                *budget = 0;
                self.doing = Doing::Planning(Box::new(plan));
                Ok(false)
            }
            Progress::Done(emission) => {
                let len = emission.encoded_len(&Header::default());
                if !self.room.admit(len) {
                    return Ok(true);
                }
                let out = self.body.out();
                put_op_head(out, 1, len);
                self.emit(view, emission, budget)
            }
        }
    }

    fn emit<R: Read>(
        &mut self,
        view: &View<'_, R>,
        mut emission: Emission,
        budget: &mut usize,
    ) -> Result<bool, Error> {
        let out = self.body.out();
        let before = out.len();
        let bytes = (*budget).max(1).saturating_mul(BYTES_EMITTED_PER_ENTRY);
        let complete = emission.emit(view, &Header::default(), out, bytes)?;
        *budget = budget.saturating_sub((out.len() - before).div_ceil(BYTES_EMITTED_PER_ENTRY));
        if !complete {
            *budget = 0;
            self.doing = Doing::Emitting(Box::new(emission));
        }
        Ok(complete)
    }
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
    use crate::limits::{ANSWER_ASSEMBLED_BYTES_MAX, APPLY_BUDGET, EVENTS_PUBLISHED_MAX};
    use crate::mvcc::txn::apply;
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

    /// How many slices of a turn's length a transaction takes over as many keys with long values, and its events.
    fn slices(operation: impl Fn(Bytes) -> Op) -> (usize, EventBatch) {
        const KEYS: u8 = 24;
        let mut store = Store::in_memory();
        let mut txn = store.write();
        initialize(&mut txn);
        let mut writer = Writer::begin(&mut txn);
        let keys = || (0..KEYS).map(|number| Bytes::from(vec![number]));
        for key in keys() {
            let value = vec![7; 1 << 20].into();
            writer.put(&PutRequest { key, value, ..PutRequest::default() }).unwrap();
        }
        writer.finish();
        let success = keys().map(|key| RequestOp { request: Some(operation(key)) }).collect();
        let request = TxnRequest { success, ..TxnRequest::default() };
        let mut write = TxnWrite::new(true, EVENTS_PUBLISHED_MAX);
        let mut slices = 1;
        loop {
            match write.step(&mut txn, &request, &|_| true, &mut { APPLY_BUDGET }) {
                None => slices += 1,
                Some(done) => return (slices, done.unwrap().1.expect("a write")),
            }
        }
    }

    #[test]
    fn bytes_that_operations_copy_are_charged() {
        let put = |key| PutRequest { key, ..PutRequest::default() };
        let (kept, events) = slices(|key| Op::RequestPut(PutRequest { ignore_value: true, ..put(key) }));
        // Each is copied twice: 48 MB, and a slice takes 6 MB.
        assert!(kept >= 7, "{kept} slices");
        assert!(events.events.is_empty(), "24 MB of events are published with their revision");
        let (shown, events) = slices(|key| Op::RequestPut(PutRequest { prev_kv: true, ..put(key) }));
        assert!(shown >= 4, "{shown} slices");
        assert_eq!(events.events.len(), 24);
        let delete = |key| DeleteRangeRequest { key, prev_kv: true, ..DeleteRangeRequest::default() };
        let (deleted, _) = slices(|key| Op::RequestDeleteRange(delete(key)));
        assert!(deleted >= 4, "{deleted} slices");
        let (short, events) = slices(|key| Op::RequestPut(put(key)));
        assert_eq!((short, events.events.len()), (1, 24), "nothing long is copied");
    }

    #[test]
    fn long_keys_that_are_deleted_are_charged_too() {
        const KEYS: usize = 24;
        let key = |number: usize| vec![number as u8; 1 << 20];
        for lease in [0, 7] {
            let mut store = Store::in_memory();
            let mut txn = store.write();
            initialize(&mut txn);
            let mut writer = Writer::begin(&mut txn);
            for number in 1..=KEYS {
                writer.put(&PutRequest { key: key(number).into(), lease, ..PutRequest::default() }).unwrap();
            }
            writer.finish();
            let mut writer = Writer::begin(&mut txn);
            let all = DeleteRangeRequest {
                key: b"\0"[..].into(),
                range_end: b"\0"[..].into(),
                ..DeleteRangeRequest::default()
            };
            let (mut deletion, mut room) = (Deletion::new(&all), AnswerRoom::default());
            let (mut slices, mut most) = (0, 0);
            loop {
                let (before, budget) = (writer.changes(), &mut { APPLY_BUDGET });
                let done = match lease {
                    0 => writer.delete_some(&all, &mut deletion, &mut BytesMut::new(), &mut room, budget),
                    _ => writer.delete_attached(lease, budget),
                };
                slices += 1;
                most = most.max(writer.changes() - before);
                if done.unwrap() {
                    break;
                }
            }
            assert_eq!(writer.changes(), KEYS as i64);
            assert!(slices >= 12 && most <= 2, "{slices} slices, {most} keys in one");
            assert!(writer.finish().is_some_and(|batch| batch.events.is_empty()), "24 MB of events");
        }
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
            writer.put(&PutRequest { key, value, ..PutRequest::default() }).unwrap();
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
        let mut prev_kvs = BytesMut::new();
        let deleted = writer.delete_range(&delete, &mut prev_kvs, &mut room).unwrap();
        assert!(room.overlong().is_some() && prev_kvs.len() <= ANSWER_ASSEMBLED_BYTES_MAX);
        assert_eq!(deleted, (ANSWER_ASSEMBLED_BYTES_MAX >> 20) as i64 + 1);
    }
}
