//! What a session core tells the metrics and the log: how its requests ended, and how long they took.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use super::Session;
use crate::error::Error;
use crate::proto::etcdserverpb::{RangeRequest, TxnRequest};
use crate::request::Kind;
use crate::response::Response;
use crate::server::io::clock;
use crate::server::log::slow::{self, Asked};
use crate::server::metrics::RequestKind;
use crate::stdx::time::{Duration, Instant};

/// A client's proposal was applied and is answered now, with a response or with the error that applying gave.
pub fn answer(
    session: &Session,
    asked: &Asked<'_>,
    took: Duration,
    result: Result<(&Response, usize), &Error>,
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
        let answered = |(response, bytes): (&Response, usize)| slow::Answered::of(response, bytes);
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

/// Nobody confirmed to a read that this member's state is the newest. etcd counts those that nobody has answered in
/// time as slow, and as failed those that were refused.
pub fn unconfirmed(session: &Session, error: Error) {
    let core = &session.metrics;
    let counter = if error == Error::Timeout { &core.read_indexes_slow } else { &core.read_indexes_failed };
    counter.inc();
}

/// When a read was asked for, and when it began: later, if it had to wait for the log.
#[derive(Clone, Copy)]
pub struct ReadTimes {
    /// The request arrived.
    pub asked: Instant,
    /// Reading began.
    pub began: Instant,
}

/// A Range has its answer, or an error. What is read is only asked for where it is logged.
pub fn range(
    session: &Session,
    peer: SocketAddr,
    request: &RangeRequest,
    times: ReadTimes,
    result: Result<impl FnOnce() -> slow::SlowRead, &Error>,
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

/// Shows the state of a session core; called where its timers run.
pub fn session(session: &Session) {
    let core = &session.metrics;
    let watches = session.watches.stats();
    core.proposals_pending.set(session.waiting() as i64);
    core.watch_streams.set(watches.streams as i64);
    core.watchers.set(watches.watchers as i64);
    core.watchers_slow.set(watches.slow_watchers as i64);
    core.events_sent.add(watches.events.saturating_sub(core.events_sent.get()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::metrics::REQUESTS;

    #[test]
    fn requests_are_counted_under_their_own_names() {
        for (kind, label) in [
            (Kind::Put, "Put"),
            (Kind::DeleteRange, "DeleteRange"),
            (Kind::Txn, "Txn"),
            (Kind::Compaction, "Compaction"),
            (Kind::LeaseGrant, "LeaseGrant"),
            (Kind::LeaseRevoke, "LeaseRevoke"),
            (Kind::Alarm, "Alarm"),
        ] {
            assert_eq!(request_kind(kind).map(|kind| REQUESTS[kind as usize]), Some(label));
        }
    }
}
