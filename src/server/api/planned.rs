//! What is planned in slices before its answer can be written: a Range, and a transaction that only reads.
#![forbid(unsafe_code)]

use std::rc::Rc;

use super::long::{self, PLAN_SLICE, Slices};
use crate::btree::Snapshot;
use crate::error::Error;
use crate::mvcc::range::{Plan, Progress};
use crate::mvcc::txn_read::TxnProgress;
use crate::mvcc::{ReadTxn, View};
use crate::server::grpc::Responder;
use crate::server::io::task;
use crate::server::session::{Pin, Session};

/// A plan that may take more than one slice.
pub(super) trait Planned: Sized {
    /// What is written when the plan stands.
    type Answer: Slices;

    /// The revision to be pinned.
    fn pin(&self) -> i64;

    /// The revision to be pinned for what is written.
    fn pin_of(answer: &Self::Answer) -> i64;

    /// The next slice.
    ///
    /// # Errors
    /// When what is read has gone.
    fn step(self, view: &View<'_, Snapshot<'_>>) -> Result<Step<Self>, Error>;
}

/// How far a plan has come.
pub(super) enum Step<P: Planned> {
    /// It goes on.
    Pending(P),
    /// It stands.
    Done(P::Answer),
}

impl Planned for Plan {
    type Answer = crate::mvcc::range::Emission;

    fn pin(&self) -> i64 {
        Plan::pin(self)
    }

    fn pin_of(answer: &Self::Answer) -> i64 {
        answer.pin()
    }

    fn step(self, view: &View<'_, Snapshot<'_>>) -> Result<Step<Self>, Error> {
        Plan::step(self, view, PLAN_SLICE).map(|progress| match progress {
            Progress::Pending(plan) => Step::Pending(plan),
            Progress::Done(emission) => Step::Done(emission),
        })
    }
}

impl Planned for ReadTxn {
    type Answer = crate::mvcc::txn_read::TxnEmission;

    fn pin(&self) -> i64 {
        ReadTxn::pin(self)
    }

    fn pin_of(answer: &Self::Answer) -> i64 {
        answer.pin()
    }

    fn step(self, view: &View<'_, Snapshot<'_>>) -> Result<Step<Self>, Error> {
        ReadTxn::step(self, view, PLAN_SLICE).map(|progress| match progress {
            TxnProgress::Pending(txn) => Step::Pending(txn),
            TxnProgress::Done(emission) => Step::Done(emission),
        })
    }
}

/// Pins the revision that is read and plans to the end; where a compaction has come before the pin, `again` begins
/// anew. Nothing when the client has gone.
///
/// # Errors
/// When what is read has gone.
pub(super) async fn planned<P: Planned>(
    session: &Rc<Session>,
    begun: Step<P>,
    again: impl Fn() -> Result<P, Error>,
    reply: &Responder,
) -> Result<Option<(P::Answer, Pin)>, Error> {
    let pin_of = |step: &Step<P>| match step {
        Step::Pending(plan) => plan.pin(),
        Step::Done(answer) => P::pin_of(answer),
    };
    let (mut step, pin) =
        long::pinned(begun, pin_of, |revision| session.pin(revision), || again().map(Step::Pending))?;
    loop {
        let plan = match step {
            Step::Done(answer) => return Ok(Some((answer, pin))),
            Step::Pending(plan) => plan,
        };
        if !reply.is_wanted() {
            return Ok(None);
        }
        step = session.view(|view| plan.step(view))?;
        task::yield_now().await;
    }
}
