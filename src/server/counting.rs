//! What the two loops tell the metrics.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::grpc::{Code, Status};
use super::io::task;
use super::log::lines;
use super::metrics::{Core, RequestKind};
use super::session::Session;
use crate::mvcc::range::Range;
use crate::proto::etcdserverpb::{AlarmType, RangeRequest};
use crate::replica::Replica;
use crate::replica::port::Output;
use crate::request::{Kind, Response};
use crate::stdx::time::Duration;

/// Counts what the replica says.
pub fn output(core: &Core, output: &Output) {
    match output {
        Output::Publish(batch) => {
            for event in &batch.events {
                if event.delete {
                    core.deletes.inc();
                    core.keys.add(-1);
                } else {
                    core.puts.inc();
                    core.keys.add(i64::from(event.create));
                    core.put_bytes.add((event.key.len() + event.kv.len()) as i64);
                }
            }
        }
        Output::Reply { result: Ok(Response::Txn { .. }), .. } => core.txns.inc(),
        _ => {}
    }
}

/// Shows the state of the replica; called once a tick.
pub fn replica(core: &Core, replica: &Replica) {
    let gate = replica.gate();
    let applied = replica.applied();
    let has_leader = i64::from(gate.leader() != 0);
    if has_leader > core.has_leader.get() {
        core.leader_changes.inc();
    }
    core.has_leader.set(has_leader);
    core.is_leader.set(i64::from(replica.is_leader()));
    core.proposals_committed.set(gate.committed() as i64);
    core.proposals_applied.set(applied.index as i64);
    core.revision.set(applied.revision);
    core.compact_revision.set(applied.compact_revision);
    self::store(core, replica);
    for (alarm, gauge) in
        [(AlarmType::Nospace, &core.alarm_nospace), (AlarmType::Corrupt, &core.alarm_corrupt)]
    {
        let raised = i64::from(replica.alarms().is_raised(alarm));
        if raised != gauge.get() {
            let say = if raised > 0 { lines::alarm_raised } else { lines::alarm_disarmed };
            say(alarm.as_str_name());
            gauge.set(raised);
        }
    }
}

/// Shows the sizes of the store; called once a turn, so that the quota is judged by what is there.
pub fn store(core: &Core, replica: &Replica) {
    let store = replica.store_stats();
    core.store_bytes.set(store.file_bytes as i64);
    core.store_used_bytes.set(store.used_bytes as i64);
}

/// The replica's turn took this long, where `expected` is what an operator wants to hear of.
pub fn turn(core: &Core, took: Duration, expected: Duration) {
    if expected > Duration::ZERO && took > expected {
        core.applies_slow.inc();
        lines::slow_apply(took, expected);
    }
}

/// A client's proposal was applied and is answered now; `bytes` are those of request and answer.
pub fn answer(session: &Session, kind: Kind, response: &Response, took: Duration, bytes: (usize, usize)) {
    let core = &session.metrics;
    match response {
        Response::LeaseGrant { ttl, .. } => core.lease_granted(*ttl),
        Response::LeaseRevoke { .. } => core.leases_revoked.inc(),
        _ => {}
    }
    if let Some(kind) = request_kind(kind) {
        core.request(kind, true, took);
    }
    if took > session.member.slow_request {
        let method = format!("{kind:?}");
        let (request_bytes, response_bytes) = bytes;
        lines::slow_request(&lines::SlowRequest { method: &method, took, request_bytes, response_bytes });
    }
}

/// A client's proposal was refused, or nothing became of it in time.
pub fn refusal(session: &Session, kind: Kind, status: &Status, took: Duration) {
    let core = &session.metrics;
    if let Some(kind) = request_kind(kind) {
        core.request(kind, false, took);
    }
    if matches!(status.code, Code::Unavailable | Code::Unknown) {
        core.proposals_failed.inc();
    }
}

fn request_kind(kind: Kind) -> Option<RequestKind> {
    Some(match kind {
        Kind::Put => RequestKind::Put,
        Kind::DeleteRange => RequestKind::DeleteRange,
        Kind::Txn => RequestKind::Txn,
        Kind::Compaction => RequestKind::Compaction,
        Kind::LeaseGrant => RequestKind::LeaseGrant,
        Kind::LeaseRevoke => RequestKind::LeaseRevoke,
        Kind::Alarm => RequestKind::Alarm,
        _ => return None,
    })
}

/// Shows the state of a session core; called by its housekeeping.
pub fn session(session: &Session) {
    let core = &session.metrics;
    let watches = session.watches.stats();
    core.proposals_pending.set(session.waiting() as i64);
    core.watch_streams.set(watches.streams as i64);
    core.watchers.set(watches.watchers as i64);
    core.watchers_slow.set(watches.slow_watchers as i64);
    core.events_sent.add(watches.events.saturating_sub(core.events_sent.get()));
}

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
    let mut range = session.view(|view| Range::new(view, &everything)).ok()?;
    let since = session.member.metrics.iter().map(|core| core.keys.get()).sum();
    let _pin = session.pin(range.at())?;
    while !session.view(|view| range.plan(view, KEYS_SLICE)) {
        task::yield_now().await;
    }
    Some((range.count(), since))
}
