//! Answering a transaction that only reads: planned and then emitted, like a Range, however long it is.
//!
//! Conditions and Ranges are worked off one after the other, in legs that share a budget; all see one revision. What is
//! kept of a planned Range is its length, and its plan only where that is small: the others are planned again when
//! their turn to be written comes. So a transaction of many large Ranges holds no more than one of them does.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::BytesMut;

use super::condition::{Evaluation, FIND_COST};
use super::planned::{Planned, Progress, Slices};
use super::range::{Emission, Plan};
use super::remembered::PlanMemory;
use super::txn::{branch, check_range, is_read_only};
use super::view::View;
use crate::btree::Read;
use crate::error::Error;
use crate::limits::MESSAGE_SENT_BYTES_MAX;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{RangeRequest, RequestOp, TxnRequest};
use crate::response::Header;
use crate::wire::{bytes_field_len, int_field_len, put_bytes_head, put_int_field};

/// Index entries that a Range whose turn has come may look at in one leg, before any of it is written.
const REPLAN_BUDGET: usize = 2048;

/// A read-only transaction whose length is not known yet.
pub struct ReadTxn {
    request: Rc<TxnRequest>,
    /// The revision that all of it reads at, some Ranges aside that name another.
    revision: i64,
    compact_revision: i64,
    /// The lowest revision that it reads at.
    pin: i64,
    memory: PlanMemory,
    stage: Stage,
    /// Operations planned, in order.
    planned: VecDeque<PlannedOp>,
    /// Encoded length of their answers, tags and lengths included.
    ops_len: usize,
}

enum Stage {
    /// Evaluating this condition.
    Compare { number: usize, walk: Option<Evaluation> },
    /// Planning the operations of the branch that is taken; the plan is that of the first one not planned.
    Ops { succeeded: bool, plan: Option<Box<Plan>> },
}

/// A planned operation.
struct PlannedOp {
    /// Length of its RangeResponse.
    len: usize,
    /// Pairs in it.
    kvs: u64,
    /// None if it is to be planned again.
    emission: Option<Box<Emission>>,
}

impl ReadTxn {
    /// A checked transaction that cannot write, on the state that `view` shows.
    pub fn new<R: Read>(view: &View<'_, R>, request: impl Into<Rc<TxnRequest>>, memory: &PlanMemory) -> Self {
        let request = request.into();
        debug_assert!(is_read_only(&request), "a transaction that can write is proposed");
        let (revision, compact_revision) = (view.revision(), view.compact_revision());
        let pin = lowest_revision(&request, revision, compact_revision);
        Self {
            request,
            revision,
            compact_revision,
            pin,
            memory: memory.clone(),
            stage: Stage::Compare { number: 0, walk: None },
            planned: VecDeque::new(),
            ops_len: 0,
        }
    }

    /// One leg of a condition; what comes after it.
    fn compare<R: Read>(
        &self,
        view: &View<'_, R>,
        number: usize,
        walk: Option<Evaluation>,
        budget: &mut usize,
    ) -> Result<Stage, Error> {
        let Some(compare) = self.request.compare.get(number) else { return self.take_branch(true) };
        let mut leg = walk.unwrap_or_else(|| Evaluation::new(compare));
        *budget = budget.saturating_sub(FIND_COST);
        match leg.step(view, self.revision, compare, budget)? {
            None => Ok(Stage::Compare { number, walk: Some(leg) }),
            Some(true) => Ok(Stage::Compare { number: number + 1, walk: None }),
            Some(false) => self.take_branch(false),
        }
    }

    /// Every Range of the branch has to be possible before the first is planned, as in etcd.
    fn take_branch(&self, succeeded: bool) -> Result<Stage, Error> {
        for range in branch(&self.request, succeeded).iter().filter_map(range_of) {
            check_range(self.revision, self.compact_revision, range)?;
        }
        Ok(Stage::Ops { succeeded, plan: None })
    }

    /// One leg of the next operation's plan.
    fn plan_op<R: Read>(
        &mut self,
        view: &View<'_, R>,
        succeeded: bool,
        plan: Option<Box<Plan>>,
        budget: &mut usize,
    ) -> Result<Option<Box<Plan>>, Error> {
        *budget = budget.saturating_sub(FIND_COST);
        let op = &branch(&self.request, succeeded)[self.planned.len()];
        let plan = plan.map_or_else(|| plan_of(op, self.revision, &self.memory), |plan| *plan);
        match plan.step_within(view, budget)? {
            Progress::Pending(plan) => Ok(Some(Box::new(plan))),
            Progress::Done(emission) => {
                let len = emission.encoded_len(&Header::default());
                self.ops_len += bytes_field_len(bytes_field_len(len));
                let kvs = emission.kvs();
                let emission = emission.is_light().then(|| Box::new(emission));
                self.planned.push_back(PlannedOp { len, kvs, emission });
                Ok(None)
            }
        }
    }

    fn into_emission(self, succeeded: bool) -> TxnEmission {
        let kvs = self.planned.iter().map(|op| op.kvs).collect();
        TxnEmission {
            pin: self.pin,
            request: self.request,
            revision: self.revision,
            memory: self.memory,
            succeeded,
            kvs,
            ops: self.planned,
            ops_len: self.ops_len,
            begun: false,
            writing: None,
            written: 0,
        }
    }
}

impl Planned for ReadTxn {
    type Answer = TxnEmission;

    fn pin(&self) -> i64 {
        self.pin
    }

    /// The plan ends early when the answer is longer than may be sent, as its length then says.
    fn step<R: Read>(mut self, view: &View<'_, R>, mut budget: usize) -> Result<Progress<Self>, Error> {
        view.check_kept(self.pin)?;
        while budget > 0 {
            let stage = core::mem::replace(&mut self.stage, Stage::Ops { succeeded: false, plan: None });
            self.stage = match stage {
                Stage::Compare { number, walk } => self.compare(view, number, walk, &mut budget)?,
                Stage::Ops { succeeded, plan } => {
                    let is_planned = self.planned.len() == branch(&self.request, succeeded).len();
                    if is_planned || self.ops_len > MESSAGE_SENT_BYTES_MAX {
                        return Ok(Progress::Done(self.into_emission(succeeded)));
                    }
                    let plan = self.plan_op(view, succeeded, plan, &mut budget)?;
                    Stage::Ops { succeeded, plan }
                }
            };
        }
        Ok(Progress::Pending(self))
    }
}

/// The lowest revision that a transaction at `revision` may read at. A Range at a compacted revision is an error if its
/// branch is taken, and never read.
fn lowest_revision(request: &TxnRequest, revision: i64, compact_revision: i64) -> i64 {
    let ranges = request.success.iter().chain(&request.failure).filter_map(range_of);
    let named = ranges.map(|range| range.revision);
    named.filter(|&at| at > 0 && at >= compact_revision).fold(revision, i64::min)
}

fn range_of(op: &RequestOp) -> Option<&RangeRequest> {
    match &op.request {
        Some(Op::RequestRange(range)) => Some(range),
        _ => None,
    }
}

/// The plan of a checked Range in a transaction at `revision`.
fn plan_of(op: &RequestOp, revision: i64, memory: &PlanMemory) -> Plan {
    let nothing = RangeRequest::default();
    let range = range_of(op).unwrap_or(&nothing);
    let at = if range.revision > 0 { range.revision } else { revision };
    let mut plan = Plan::at(range, at, revision);
    plan.remember_in(memory);
    plan
}

/// A read-only transaction being written.
pub struct TxnEmission {
    request: Rc<TxnRequest>,
    revision: i64,
    pin: i64,
    memory: PlanMemory,
    succeeded: bool,
    /// Pairs that each operation has found.
    kvs: Vec<u64>,
    /// Operations whose answers have not begun.
    ops: VecDeque<PlannedOp>,
    ops_len: usize,
    begun: bool,
    writing: Option<Writing>,
    /// Operations whose answers are written.
    written: usize,
}

/// The operation that is being written.
enum Writing {
    /// The operation is planned again; its answer is to have this length.
    Planning(usize, Box<Plan>),
    /// The answer's bytes are written.
    Emitting(Box<Emission>),
}

impl TxnEmission {
    /// Whether all conditions held.
    pub fn succeeded(&self) -> bool {
        self.succeeded
    }

    /// Pairs that each operation has found.
    pub fn kvs(&self) -> &[u64] {
        &self.kvs
    }

    /// Begins the next operation's answer.
    fn begin_next(&mut self, out: &mut BytesMut) -> Option<Writing> {
        let planned = self.ops.pop_front()?;
        let op = &branch(&self.request, self.succeeded)[self.written];
        self.written += 1;
        // Tag and length of a ResponseOp, and of the RangeResponse in it.
        put_bytes_head(out, 3, bytes_field_len(planned.len));
        put_bytes_head(out, 1, planned.len);
        Some(match planned.emission {
            Some(emission) => Writing::Emitting(emission),
            None => Writing::Planning(planned.len, Box::new(plan_of(op, self.revision, &self.memory))),
        })
    }

    /// One leg of an operation's answer. What is left of it, and whether there may be more in the slice.
    fn write<R: Read>(
        &self,
        view: &View<'_, R>,
        writing: Writing,
        out: &mut BytesMut,
        full: usize,
    ) -> Result<(Option<Writing>, bool), Error> {
        match writing {
            Writing::Planning(len, plan) => match plan.step(view, REPLAN_BUDGET)? {
                Progress::Pending(plan) => Ok((Some(Writing::Planning(len, Box::new(plan))), false)),
                Progress::Done(emission) if emission.encoded_len(&Header::default()) == len => {
                    Ok((Some(Writing::Emitting(Box::new(emission))), true))
                }
                // The same plan at the same revision came out different.
                Progress::Done(_) => Err(Error::Corrupt),
            },
            Writing::Emitting(mut emission) => {
                let room = full.saturating_sub(out.len());
                let complete = emission.emit(view, &Header::default(), out, room)?;
                Ok((if complete { None } else { Some(Writing::Emitting(emission)) }, complete))
            }
        }
    }
}

impl Slices for TxnEmission {
    fn pin(&self) -> i64 {
        self.pin
    }

    fn encoded_len(&self, header: &Header) -> usize {
        header.field_len(self.revision) + int_field_len(i64::from(self.succeeded)) + self.ops_len
    }

    fn held_bytes(&self) -> usize {
        let emissions = self.ops.iter().filter_map(|op| op.emission.as_deref());
        self.ops.len() * size_of::<PlannedOp>() + emissions.map(Emission::held_bytes).sum::<usize>()
    }

    fn emit<R: Read>(
        &mut self,
        view: &View<'_, R>,
        header: &Header,
        out: &mut BytesMut,
        bytes: usize,
    ) -> Result<bool, Error> {
        view.check_kept(self.pin)?;
        let full = out.len().saturating_add(bytes);
        if !self.begun {
            self.begun = true;
            header.put_field(self.revision, out);
            put_int_field(out, 2, i64::from(self.succeeded));
        }
        loop {
            let writing = match self.writing.take() {
                Some(writing) => writing,
                None => match self.begin_next(out) {
                    Some(writing) => writing,
                    None => return Ok(true),
                },
            };
            let complete;
            (self.writing, complete) = self.write(view, writing, out, full)?;
            if !complete || out.len() >= full {
                return Ok(self.writing.is_none() && self.ops.is_empty());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;
    use crate::mvcc::range::SLICE_SURPLUS;
    use crate::mvcc::write::{Writer, initialize};
    use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
    use crate::proto::etcdserverpb::{Compare, PutRequest, TxnResponse};
    use prost::Message;

    const PAIRS: usize = 2_000;
    const VALUE_BYTES: usize = 100;

    fn filled() -> Store {
        let mut store = Store::in_memory();
        let mut txn = store.write();
        initialize(&mut txn);
        let mut writer = Writer::begin(&mut txn);
        for number in 0..PAIRS {
            let (key, value) = (format!("{number:05}").into(), vec![number as u8; VALUE_BYTES].into());
            writer.put(&PutRequest { key, value, ..PutRequest::default() }).unwrap();
        }
        writer.finish();
        txn.commit();
        store
    }

    fn everything(sort_target: i32) -> RequestOp {
        let range = RangeRequest {
            key: b"\0"[..].into(),
            range_end: b"\0"[..].into(),
            sort_order: 2 * i32::from(sort_target > 0),
            sort_target,
            ..RangeRequest::default()
        };
        RequestOp { request: Some(Op::RequestRange(range)) }
    }

    /// Plans in legs of `budget`; the emission, and how many legs it took.
    fn planned(
        store: &Store,
        request: TxnRequest,
        memory: &PlanMemory,
        budget: usize,
    ) -> (TxnEmission, usize) {
        let mut reader = store.readers().register();
        let snapshot = reader.snapshot();
        let view = View::new(&snapshot);
        let (mut txn, mut legs) = (ReadTxn::new(&view, request, memory), 1);
        loop {
            match txn.step(&view, budget).unwrap() {
                Progress::Done(emission) => return (emission, legs),
                Progress::Pending(pending) => (txn, legs) = (pending, legs + 1),
            }
        }
    }

    #[test]
    fn a_transaction_of_many_lists_is_never_assembled() {
        let store = filled();
        let memory = PlanMemory::bounded(0, PAIRS * 200);
        let success: Vec<_> = (0..100).map(|number| everything(number % 5)).collect();
        let request = TxnRequest { success, ..TxnRequest::default() };
        let (mut emission, legs) = planned(&store, request, &memory, 1_000);
        assert!(legs >= 100 * PAIRS / 1_000, "{legs} legs");
        let len = emission.encoded_len(&Header::default());
        assert!(len > 100 * PAIRS * VALUE_BYTES);
        assert!(emission.ops.iter().all(|op| op.emission.is_none()), "no more than a length is kept of each");

        let mut reader = store.readers().register();
        let (mut whole, mut complete) = (BytesMut::new(), false);
        while !complete {
            let before = whole.len();
            let snapshot = reader.snapshot();
            complete = emission.emit(&View::new(&snapshot), &Header::default(), &mut whole, 10_000).unwrap();
            assert!(whole.len() - before <= 10_000 + SLICE_SURPLUS, "a slice is too long");
        }
        assert_eq!(whole.len(), len);
        let answer = TxnResponse::decode(&whole[..]).unwrap();
        assert!(answer.succeeded && answer.responses.len() == 100);
        assert_eq!(emission.kvs(), [PAIRS as u64; 100]);
    }

    #[test]
    fn a_transaction_whose_answer_cannot_be_sent_is_not_planned_to_its_end() {
        let store = filled();
        let each = PAIRS * (VALUE_BYTES + 20);
        let success = vec![everything(0); 2 * MESSAGE_SENT_BYTES_MAX / each];
        let request = TxnRequest { success, ..TxnRequest::default() };
        let (emission, _) = planned(&store, request, &PlanMemory::new(0), usize::MAX);
        let len = emission.encoded_len(&Header::default());
        assert!((MESSAGE_SENT_BYTES_MAX..MESSAGE_SENT_BYTES_MAX + 2 * each).contains(&len), "{len} bytes");
    }

    #[test]
    fn conditions_on_all_keys_are_evaluated_in_legs() {
        let store = filled();
        let compare = Compare {
            result: CompareResult::NotEqual as i32,
            target: CompareTarget::Value as i32,
            key: b"\0"[..].into(),
            range_end: b"\0"[..].into(),
            target_union: Some(TargetUnion::Value(b"none has this value"[..].into())),
        };
        let request = TxnRequest { compare: vec![compare; 50], ..TxnRequest::default() };
        let (emission, legs) = planned(&store, request, &PlanMemory::new(0), 1_000);
        assert!(emission.succeeded() && emission.kvs().is_empty());
        assert!(legs >= 50 * PAIRS / 1_000, "{legs} legs");
    }

    /// A leg would take longer the more operations there are.
    #[test]
    fn the_revision_to_be_kept_is_looked_for_once() {
        let store = filled();
        let mut reader = store.readers().register();
        let snapshot = reader.snapshot();
        let view = View::new(&snapshot);
        let at = |revision| {
            let range = RangeRequest { key: b"x"[..].into(), revision, ..RangeRequest::default() };
            RequestOp { request: Some(Op::RequestRange(range)) }
        };
        let request =
            TxnRequest { success: vec![at(0), at(2)], failure: vec![at(1)], ..TxnRequest::default() };
        let mut txn = ReadTxn::new(&view, request, &PlanMemory::new(0));
        assert_eq!(txn.pin(), 1);
        *Rc::get_mut(&mut txn.request).expect("nobody else has it") = TxnRequest::default();
        assert_eq!(txn.pin(), 1);
    }

    #[test]
    fn many_ranges_that_find_nothing_cost_a_leg_too() {
        let store = filled();
        let nothing = RangeRequest { key: b"x"[..].into(), ..RangeRequest::default() };
        let op = RequestOp { request: Some(Op::RequestRange(nothing)) };
        let request =
            TxnRequest { failure: vec![op.clone()], success: vec![op; 1_000], ..TxnRequest::default() };
        let (emission, legs) = planned(&store, request, &PlanMemory::new(0), 1_000);
        assert_eq!(emission.kvs(), [0; 1_000]);
        assert!(legs >= 1_000 * FIND_COST / 1_000, "{legs} legs");
    }
}
