//! What the two loops tell the metrics.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::io::{clock, task};
use super::log::lines;
use super::log::slow::{self, Asked};
use super::metrics::{APPLIES, Core, RequestKind};
use super::session::Session;
use crate::btree::StoreStats;
use crate::error::Error;
use crate::mvcc::range::{Plan, Progress};
use crate::proto::etcdserverpb::{AlarmType, RangeRequest, TxnRequest};
use crate::replica::Replica;
use crate::replica::port::Output;
use crate::replica::tally::Tally;
use crate::request::Kind;
use crate::response::Response;
use crate::stdx::time::{Duration, Instant};

/// What the replica core has counted, and when the compaction under way began.
#[derive(Default)]
pub struct Turns {
    seen: Tally,
    compacting: Option<Instant>,
}

/// Counts what the replica says.
pub fn output(core: &Core, output: &Output) {
    if let Output::Publish(batch) = output {
        for event in &batch.events {
            if event.delete {
                core.keys.add(-1);
            } else {
                core.keys.add(i64::from(event.create));
                core.put_bytes.add((event.key.len() + event.kv.len()) as i64);
            }
        }
    }
}

/// Shows the state of the replica after a turn: the quota is judged by it.
pub fn replica(core: &Core, replica: &Replica) {
    let gate = replica.gate();
    let (applied, store) = (replica.applied(), replica.store_stats());
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
    core.store_bytes.set(store.file_bytes as i64);
    core.store_used_bytes.set(store.used_bytes as i64);
    for (kind, alarm) in [AlarmType::Nospace, AlarmType::Corrupt].into_iter().zip(&core.alarms) {
        let raised = i64::from(replica.alarms().is_raised(kind));
        if raised != alarm.raised.get() {
            match raised {
                0 => lines::alarm_disarmed(kind.as_str_name()),
                _ => lines::alarm_raised(kind.as_str_name()),
            }
            alarm.raised.set(raised);
            alarm.seen.set(1);
        }
    }
}

/// The replica's turn began then and took so long; `expected` is what an operator wants to hear of.
///
/// Entries are applied by the turn, so its time is shared out among them.
pub fn turn(
    core: &Core,
    turns: &mut Turns,
    tally: &Tally,
    began: Instant,
    took: Duration,
    expected: Duration,
) {
    let seen = &mut turns.seen;
    let swept = tally.sweeps > seen.sweeps;
    if swept {
        core.compaction_slice(took);
        turns.compacting.get_or_insert(began);
    }
    core.ranges.add(tally.ranges - seen.ranges);
    core.puts.add(tally.puts - seen.puts);
    core.deletes.add(tally.deletes - seen.deletes);
    core.txns.add(tally.txns - seen.txns);
    core.leases_revoked.add(tally.leases_revoked - seen.leases_revoked);
    core.leases_expired.add(tally.leases_expired - seen.leases_expired);
    let fresh = |kind: usize, success: usize| tally.applied[kind][success] - seen.applied[kind][success];
    let all = || (0..APPLIES.len()).flat_map(|kind| [(kind, 0), (kind, 1)]);
    let entries: u64 = all().map(|(kind, success)| fresh(kind, success)).sum();
    if entries > 0 {
        let each = took / u32::try_from(entries).unwrap_or(u32::MAX);
        for (kind, success) in all() {
            let count = fresh(kind, success);
            if count > 0 {
                core.apply(kind, success == 1, each, count);
            }
        }
    }
    if (entries > 0 || swept) && expected > Duration::ZERO && took > expected {
        core.applies_slow.inc();
        let kinds = (0..APPLIES.len()).map(|kind| (APPLIES[kind], fresh(kind, 0) + fresh(kind, 1)));
        let kinds = kinds.chain([("slice of a compaction", u64::from(swept))]);
        let kinds: Vec<_> = kinds.filter(|(_, count)| *count > 0).collect();
        lines::slow_turn(took, expected, &kinds);
    }
    seen.clone_from(tally);
}

/// A compaction has removed so many revisions and is done.
pub fn compacted(core: &Core, turns: &mut Turns, store: StoreStats, revision: i64, removed: u64) {
    let took = turns.compacting.take().map_or(Duration::ZERO, |began| clock::now().since(began));
    core.compacted_keys.add(removed);
    core.compacted(took, (clock::wall_nanos() / 1_000_000_000) as i64);
    lines::compacted(revision, took, removed, store.file_bytes, store.used_bytes);
}

/// A client's proposal was applied and is answered now, with a response or with the error that applying gave.
pub fn answer(
    session: &Session,
    asked: &Asked<'_>,
    took: Duration,
    result: Result<(&Response, &Bytes), &Error>,
) {
    let core = &session.metrics;
    if let Ok((Response::LeaseGrant { ttl, .. }, _)) = result {
        core.lease_granted(*ttl);
    }
    if let Some(kind) = request_kind(asked.kind) {
        // To etcd the request succeeded: it came back from the log.
        core.request(kind, true, took);
    }
    if took > session.member.slow.request {
        let answered = |(response, answer): (&Response, &Bytes)| slow::Answered::of(response, answer.len());
        slow::proposal(asked, took, result.ok().map(answered));
    }
}

/// A client's proposal was refused, or nothing became of it in time.
pub fn refusal(session: &Session, kind: Kind, error: Error, took: Duration) {
    let core = &session.metrics;
    if error == Error::TooManyRequests {
        return; // etcd refuses these before it looks at the clock
    }
    if let Some(kind) = request_kind(kind) {
        core.request(kind, false, took);
    }
    if error != Error::RequestTooLarge {
        core.proposals_failed.inc();
    }
}

/// When a read was asked for, and when it began: later, if it had to wait for the log.
#[derive(Clone, Copy)]
pub struct ReadTimes {
    /// The request arrived.
    pub asked: Instant,
    /// Reading began.
    pub began: Instant,
}

/// A Range has its answer, or an error.
pub fn range(
    session: &Session,
    peer: SocketAddr,
    request: &RangeRequest,
    times: ReadTimes,
    result: Result<&dyn Fn() -> slow::Read, &Error>,
) {
    let (core, now) = (&session.metrics, clock::now());
    core.range(result.is_ok(), now.since(times.began));
    let took = now.since(times.asked);
    core.request(RequestKind::Range, result.is_ok(), took);
    if session.member.slow.passed(took) {
        core.applies_slow.add(u64::from(took > session.member.slow.apply));
        slow::range(session.member.slow, peer, request, took, result.map(|read| read()));
    }
}

/// A health check has read; to etcd that is a Range like any other.
pub fn probe(session: &Session, asked: Instant, success: bool) {
    let (core, took) = (&session.metrics, clock::now().since(asked));
    core.range(success, took);
    core.request(RequestKind::Range, success, took);
}

/// A transaction that only reads has its answer, or an error.
pub fn read_only_txn(
    session: &Session,
    peer: SocketAddr,
    request: &TxnRequest,
    times: ReadTimes,
    result: Result<slow::TxnRead<'_>, &Error>,
) {
    let (core, now) = (&session.metrics, clock::now());
    if let Ok(read) = result {
        core.ranges.add(read.kvs.len() as u64);
        core.txns.add(u64::from(read.kvs.len() > 1));
    }
    let took = now.since(times.began);
    core.request(RequestKind::ReadonlyTxn, result.is_ok(), took);
    if session.member.slow.passed(took) {
        core.applies_slow.add(u64::from(took > session.member.slow.apply));
        slow::txn(session.member.slow, peer, request, took, result);
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
    let mut plan = session.view(|view| Plan::new(view, &everything)).ok()?;
    let since = session.member.metrics.iter().map(|core| core.keys.get()).sum();
    let _pin = session.pin(plan.pin())?;
    loop {
        match session.view(|view| plan.step(view, KEYS_SLICE)).ok()? {
            Progress::Done(emission) => return Some((emission.count(), since)),
            Progress::Pending(pending) => plan = pending,
        }
        task::yield_now().await;
    }
}
