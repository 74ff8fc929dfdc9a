//! Leases as the leader drives them: questions that are answered without the log, and the revocation of those that
//! have expired.
//!
//! ```text
//!   KeepAlive ──▶ calls ──┬─▶ renewed: Reply
//!                         └─▶ of a lease with a checkpoint: cleared through the log first, then renewed
//!   expired   ──▶ LeaseRevoke proposed, two batches at a time ──▶ applied
//! ```
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::port::{LeaseCall, Output, Outputs, Ticket};
use super::propose::Proposals;
use super::replica::Replica;
use crate::error::Error;
use crate::lease::{LeaseInfo, Lessor};
use crate::limits::{EXPIRE_MAX, LEASE_CALLS_PENDING_MAX};
use crate::proto::etcdserverpb::{LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest};
use crate::request::{Entry, Request};
use crate::response::Response;
use crate::stdx::time::Instant;

/// Where the lessor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LessorPlace {
    /// On this member.
    Here,
    /// On the leader with this id, as far as this member knows.
    At(u64),
    /// On no member that is known.
    Nowhere,
}

/// Questions and revocations on their way.
#[derive(Debug)]
pub(super) struct Leases {
    /// Questions to the lessor, oldest first, [`LEASE_CALLS_PENDING_MAX`] at most. What a whole turn leaves are
    /// renewals of leases in `clearing`.
    calls: Vec<(Ticket, LeaseCall)>,
    /// Leases whose checkpoint is being taken back through the log, so that they can be renewed.
    clearing: BTreeSet<i64>,
    /// Request ids of the revocations of expired leases that are proposed and not applied: two batches at most.
    revoking: BTreeSet<u64>,
    /// [`EXPIRE_MAX`], or a simulation's.
    pub(super) expire_max: usize,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            calls: Vec::new(),
            clearing: BTreeSet::new(),
            revoking: BTreeSet::new(),
            expire_max: EXPIRE_MAX,
        }
    }
}

impl Leases {
    /// Takes a question; false if too many wait.
    pub(super) fn ask(&mut self, ticket: Ticket, call: LeaseCall) -> bool {
        let has_room = self.calls.len() < LEASE_CALLS_PENDING_MAX;
        if has_room {
            self.calls.push((ticket, call));
        }
        has_room
    }

    /// Questions that wait.
    pub(super) fn waiting(&self) -> usize {
        self.calls.len()
    }

    /// This member's lessor begins to run. What an earlier leadership proposed is lost, or applied by now.
    pub(super) fn on_promoted(&mut self) {
        self.revoking.clear();
        self.clearing.clear();
    }

    /// A checkpoint of this lease was applied.
    pub(super) fn on_checkpoint(&mut self, id: i64) {
        self.clearing.remove(&id);
    }

    /// A revocation is applied. True if it is of a lease that this member found expired.
    pub(super) fn take_expiry(&mut self, request_id: u64) -> bool {
        self.revoking.remove(&request_id)
    }

    /// Whether a batch of leases has expired whose turn it is: one batch is written to the log while the one before is
    /// applied. However many leases end at once, a put meets no more than these two.
    pub(super) fn has_expired(&self, now: Instant, lessor: &Lessor) -> bool {
        self.revoking.len() <= self.expire_max && lessor.next_expiry().is_some_and(|expiry| expiry <= now)
    }

    /// Proposes to revoke leases that have expired.
    fn revoke(&mut self, expired: impl Iterator<Item = i64>, proposals: &mut Proposals) {
        for id in expired {
            self.revoking.insert(proposals.queue_own(Request::LeaseRevoke(LeaseRevokeRequest { id })));
        }
    }

    /// Answers the questions that wait, at this `revision` of the store. A renewal whose lease has a checkpoint waits
    /// until the log says that the lease has its full TTL again. Where the lessor runs on another member, that one is
    /// asked.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        revision: i64,
        place: LessorPlace,
        lessor: &mut Lessor,
        proposals: &mut Proposals,
        outputs: &mut Outputs,
    ) {
        for (ticket, call) in std::mem::take(&mut self.calls) {
            let result = match call {
                LeaseCall::Expiries { ids } => {
                    let expiries = ids.iter().map(|&id| lessor.expiry(id).unwrap_or_default()).collect();
                    Ok(Response::LeaseExpiries { revision, expiries })
                }
                _ if place != LessorPlace::Here => {
                    outputs.push(match place {
                        LessorPlace::At(leader) => Output::AskLessor { leader, ticket, call, revision },
                        _ => Output::Reply { ticket, result: Err(Error::NoLeader) },
                    });
                    continue;
                }
                LeaseCall::KeepAlive { id } if lessor.is_checkpointed(id) => {
                    self.clear_checkpoint(id, proposals);
                    self.calls.push((ticket, call));
                    continue;
                }
                // An unknown lease is no error: the stream goes on, and the answer says TTL 0.
                LeaseCall::KeepAlive { id } => {
                    let ttl = lessor.renew(now, id).unwrap_or(0);
                    Ok(Response::LeaseKeepAlive { revision, id, ttl })
                }
                LeaseCall::TimeToLive { id } => {
                    let gone = LeaseInfo { granted_ttl: 0, ttl: -1 };
                    let LeaseInfo { granted_ttl, ttl } = lessor.time_to_live(now, id).unwrap_or(gone);
                    Ok(Response::LeaseTimeToLive { revision, id, ttl, granted_ttl })
                }
            };
            outputs.push(Output::Reply { ticket, result });
        }
    }

    /// Has the log say that a lease has its full TTL again, unless that is on its way.
    fn clear_checkpoint(&mut self, id: i64, proposals: &mut Proposals) {
        if self.clearing.insert(id) {
            let checkpoints = vec![LeaseCheckpoint { id, remaining_ttl: 0 }];
            proposals.queue_own(Request::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints }));
        }
    }
}

impl Replica {
    /// Proposes to revoke the next batch of expired leases, but those that are being revoked already: the client may
    /// have granted such a lease again since, and a second revocation would end the new one.
    pub(super) fn revoke_expired(&mut self, now: Instant) {
        let expired = self.state.lessor.expired(now, self.leases.expire_max);
        if !expired.is_empty() {
            let under_way = self.revocations_under_way();
            let expired = expired.into_iter().filter(|id| !under_way.contains(id));
            self.leases.revoke(expired, &mut self.proposals);
        }
    }

    /// Leases of which a revocation is not applied yet. It may be in the log, or on its way there.
    fn revocations_under_way(&self) -> BTreeSet<i64> {
        let log = &self.node.raft.raft_log;
        let logged = log.store.after(self.store.applied().index).chain(&log.unstable.entries);
        let entries = logged.map(|entry| &entry.data).chain(self.proposals.queued());
        entries.filter_map(|entry| Entry::revoked_lease(entry.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;
    use crate::stdx::time::Duration;

    /// A lessor that runs, with leases of a second, and where proposals go.
    fn leader(ids: std::ops::Range<i64>) -> (Lessor, Proposals) {
        let (mut store, mut lessor) = (Store::in_memory(), Lessor::new(1, 1));
        let mut txn = store.write();
        for id in ids {
            lessor.grant(&mut txn, Instant::default(), id, 1).unwrap();
        }
        lessor.promote(Instant::default(), Duration::default());
        (lessor, Proposals::new((1 << 32, 1), 20))
    }

    #[test]
    fn so_many_questions_may_wait_and_no_more() {
        let mut leases = Leases::default();
        let mut ask = || leases.ask(Ticket(0), LeaseCall::KeepAlive { id: 1 });
        assert!((0..LEASE_CALLS_PENDING_MAX).all(|_| ask()) && !ask());
        assert_eq!(leases.waiting(), LEASE_CALLS_PENDING_MAX);
    }

    #[test]
    fn where_the_lessor_runs_elsewhere_it_is_asked_there() {
        let (mut lessor, mut proposals) = leader(1..2);
        let mut leases = Leases::default();
        let mut answer = |call: &LeaseCall, place| {
            let mut outputs = Outputs::new();
            leases.ask(Ticket(5), call.clone());
            leases.answer(Instant::default(), 7, place, &mut lessor, &mut proposals, &mut outputs);
            assert_eq!((outputs.len(), leases.waiting()), (1, 0));
            outputs.remove(0)
        };
        for call in [LeaseCall::KeepAlive { id: 1 }, LeaseCall::TimeToLive { id: 1 }] {
            assert!(matches!(
                answer(&call, LessorPlace::At(3)),
                Output::AskLessor { leader: 3, ticket: Ticket(5), call: asked, revision: 7 } if asked == call
            ));
            assert!(matches!(
                answer(&call, LessorPlace::Nowhere),
                Output::Reply { result: Err(Error::NoLeader), .. }
            ));
            assert!(matches!(answer(&call, LessorPlace::Here), Output::Reply { result: Ok(_), .. }));
        }
        let expiries = LeaseCall::Expiries { ids: vec![1] };
        assert!(matches!(answer(&expiries, LessorPlace::At(3)), Output::Reply { result: Ok(_), .. }));
    }

    #[test]
    fn two_batches_of_revocations_are_under_way_at_most() {
        let (mut lessor, mut proposals) = leader(1..10);
        let mut leases = Leases { expire_max: 2, ..Leases::default() };
        let now = Instant::default() + Duration::from_secs(2);
        let mut batches = 0;
        while leases.has_expired(now, &lessor) {
            leases.revoke(lessor.expired(now, 2).into_iter(), &mut proposals);
            batches += 1;
        }
        let under_way: Vec<u64> = leases.revoking.iter().copied().collect();
        assert_eq!((batches, under_way.len(), proposals.take_batch().len()), (2, 4, 4));
        assert!(!leases.take_expiry(7), "a revocation of a client's is no expiry");
        assert!(leases.take_expiry(under_way[0]) && !leases.has_expired(now, &lessor), "three are under way");
        assert!(leases.take_expiry(under_way[1]) && leases.has_expired(now, &lessor));
        leases.on_promoted();
        assert!(!leases.take_expiry(under_way[2]), "another leadership proposed it");
    }

    #[test]
    fn a_renewal_waits_until_the_checkpoint_of_its_lease_is_taken_back_once() {
        let mut store = Store::in_memory();
        let mut txn = store.write();
        let (mut lessor, mut proposals) = leader(1..2);
        lessor.checkpoint(&mut txn, 1, 1);
        let mut leases = Leases::default();
        let answer = |leases: &mut Leases, lessor: &mut Lessor, proposals: &mut Proposals| {
            let mut outputs = Outputs::new();
            leases.answer(Instant::default(), 7, LessorPlace::Here, lessor, proposals, &mut outputs);
            outputs.len()
        };
        leases.ask(Ticket(1), LeaseCall::KeepAlive { id: 1 });
        leases.ask(Ticket(2), LeaseCall::KeepAlive { id: 1 });
        assert_eq!(answer(&mut leases, &mut lessor, &mut proposals), 0);
        assert_eq!(answer(&mut leases, &mut lessor, &mut proposals), 0);
        assert_eq!((leases.waiting(), proposals.take_batch().len()), (2, 1));
        lessor.checkpoint(&mut txn, 1, 0);
        leases.on_checkpoint(1);
        assert_eq!((answer(&mut leases, &mut lessor, &mut proposals), leases.waiting()), (2, 0));
    }
}
