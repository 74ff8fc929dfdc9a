//! The number of keys, for the gauge that shows it: those that were there at start, and what has changed since.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::atomic::Ordering;

use crate::mvcc::range::Plan;
use crate::mvcc::{Planned, Progress};
use crate::proto::etcdserverpb::RangeRequest;
use crate::server::io::task;
use crate::server::session::Session;

/// Index entries counted before other tasks of the core run.
const KEYS_SLICE: usize = 4096;

/// Adds the keys that were there when the member started to those counted since. Once, by whoever first wants to
/// know: a member that nobody scrapes does not read its whole index for it.
pub fn learn_keys(session: &Rc<Session>) {
    if session.member.keys_asked.swap(true, Ordering::Relaxed) {
        return;
    }
    let session = session.clone();
    task::spawn(async move {
        let at_start = count_keys(&session, session.member.start_revision).await;
        let found = match at_start {
            Some((count, _)) => count,
            // Compacted since: what is there now, without what was counted since.
            None => match count_keys(&session, 0).await {
                Some((count, since)) => count - since,
                None => return,
            },
        };
        session.metrics.keys.add(found);
    });
}

/// The keys at a revision, and those counted since the start when the counting began.
async fn count_keys(session: &Rc<Session>, revision: i64) -> Option<(i64, i64)> {
    let everything = RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        revision,
        count_only: true,
        ..RangeRequest::default()
    };
    let mut plan = session.view(|view| Plan::new(view, &everything)).ok()?;
    let since = session.member.metrics.iter().map(|core| core.keys.get()).sum();
    let _pin = session.pin(plan.pin())?;
    loop {
        match session.view(|view| plan.step(view, KEYS_SLICE)).ok()? {
            Progress::Done(emission) => return Some((emission.count(), since)),
            Progress::Pending(pending) => plan = pending,
        }
        task::take_turns().await;
    }
}
