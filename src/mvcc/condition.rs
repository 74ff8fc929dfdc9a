//! The conditions of a transaction.
//!
//! A condition on one key is a lookup; one on an interval holds if it holds for every key in it, and is evaluated in
//! legs.
#![forbid(unsafe_code)]

use std::cmp::Ordering;

use super::view::{Found, View};
use super::walk::{BYTES_PER_ENTRY, Interval, Position, Step, Walk};
use crate::btree::Read;
use crate::error::Error;
use crate::proto::etcdserverpb::Compare;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::wire::KeyValue;

/// What finding one key costs, in index entries walked over.
pub(super) const FIND_COST: usize = 8;

/// One leg of a condition on the newest state of `view`; whether it holds, once that is known. `leg` is none before
/// the first leg, and is to be kept for the next.
pub(super) fn judge<R: Read>(
    view: &View<'_, R>,
    compare: &Compare,
    leg: &mut Option<Evaluation>,
    budget: &mut usize,
) -> Result<Option<bool>, Error> {
    let at = view.revision();
    if compare.range_end.is_empty() {
        *budget = budget.saturating_sub(FIND_COST);
        return match view.find(&compare.key, at)? {
            Some(found) => found_holds(view, compare, found).map(Some),
            None => Ok(Some(missing_holds(compare))),
        };
    }
    leg.get_or_insert_with(|| Evaluation::new(compare)).step(view, at, compare, budget)
}

/// A condition being evaluated, in legs.
pub(super) struct Evaluation {
    interval: Interval,
    position: Position,
    /// The walk has found a key.
    any: bool,
}

impl Evaluation {
    /// Before the first leg.
    pub(super) fn new(compare: &Compare) -> Self {
        let interval = Interval::new(&compare.key, &compare.range_end);
        Self { position: interval.start(), interval, any: false }
    }

    /// One leg, at main revision `at`; whether the condition holds, once that is known.
    pub(super) fn step<R: Read>(
        &mut self,
        view: &View<'_, R>,
        at: i64,
        compare: &Compare,
        budget: &mut usize,
    ) -> Result<Option<bool>, Error> {
        // The walk looks at one entry at least, so that every leg gets on.
        let mut walk = Walk::resume(view, &self.interval, at, &self.position, (*budget).max(1));
        let holds = loop {
            match walk.next()? {
                Step::End => break Some(self.any || missing_holds(compare)),
                Step::Paused => break None,
                Step::Live(revision, entry) => {
                    self.any = true;
                    if !found_holds(view, compare, Found { revision, entry })? {
                        break Some(false);
                    }
                    if is_by_value(compare) && walk.spend(entry.kv_len / BYTES_PER_ENTRY) {
                        break None;
                    }
                }
            }
        };
        *budget = walk.budget().min(*budget);
        if holds.is_none() {
            self.position = walk.position();
        }
        Ok(holds)
    }
}

fn is_by_value(compare: &Compare) -> bool {
    compare.target == CompareTarget::Value as i32
}

/// A missing key has no value to compare with, not even an unequal one; everything else of it is zero.
fn missing_holds(compare: &Compare) -> bool {
    !is_by_value(compare) && relation_holds(compare, &KeyValue::default())
}

fn found_holds<R: Read>(view: &View<'_, R>, compare: &Compare, found: Found) -> Result<bool, Error> {
    let value = match is_by_value(compare) {
        true => KeyValue::decode(view.stored(found.revision)?).ok_or(Error::Corrupt)?.value,
        false => &[],
    };
    let kv = KeyValue {
        key: &[],
        create_revision: found.entry.create_revision,
        mod_revision: found.revision.main,
        version: found.entry.version,
        value,
        lease: found.entry.lease,
    };
    Ok(relation_holds(compare, &kv))
}

fn relation_holds(compare: &Compare, kv: &KeyValue<'_>) -> bool {
    // An operand of another type than the target counts as absent, hence zero.
    let number = |actual: i64, operand: Option<i64>| actual.cmp(&operand.unwrap_or(0));
    let operand = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => kv.value.cmp(match operand {
            Some(TargetUnion::Value(value)) => value,
            _ => &[],
        }),
        Ok(CompareTarget::Create) => number(
            kv.create_revision,
            operand.and_then(|o| if let TargetUnion::CreateRevision(n) = o { Some(*n) } else { None }),
        ),
        Ok(CompareTarget::Mod) => number(
            kv.mod_revision,
            operand.and_then(|o| if let TargetUnion::ModRevision(n) = o { Some(*n) } else { None }),
        ),
        Ok(CompareTarget::Version) => number(
            kv.version,
            operand.and_then(|o| if let TargetUnion::Version(n) = o { Some(*n) } else { None }),
        ),
        Ok(CompareTarget::Lease) => number(
            kv.lease,
            operand.and_then(|o| if let TargetUnion::Lease(n) = o { Some(*n) } else { None }),
        ),
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
