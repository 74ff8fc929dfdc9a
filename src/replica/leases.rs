//! Leases as the leader drives them: questions that are answered without the log, and the revocation of those that
//! have expired.
//!
//! ```text
//!   KeepAlive ──▶ calls ──▶ unconfirmed ──(a round)──▶ confirmed ──┬─▶ renewed: Reply
//!                                                                  └─▶ of a lease with a checkpoint: cleared through
//!                                                                      the log first, then renewed
//!   expired   ──▶ LeaseRevoke proposed in the lessor's own term, two batches at a time ──▶ applied
//! ```
//!
//! A member that was stopped for a while may take itself for the leader when it goes on. So a question is answered once
//! a quorum has confirmed the leader since it came, by a round as reads have it, and what a lessor decides is dropped
//! when its term is over. etcd asks nobody, and hands such revocations on to the new leader, so a lease can end there
//! that was renewed meanwhile.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, VecDeque};

use super::port::{LeaseCall, Output, Outputs, Ticket};
use super::propose::Proposals;
use super::read_index::{Leader, Reads};
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
    /// On this member, which leads in this term.
    Here(u64),
    /// On the leader with this id, as far as this member knows.
    At(u64),
    /// On no member that is known.
    Nowhere,
}

/// Questions and revocations on their way.
#[derive(Debug)]
pub(super) struct Leases {
    /// Questions to the lessor that have come in this turn, oldest first. In all four places there are
    /// [`LEASE_CALLS_PENDING_MAX`] at most.
    calls: Vec<(Ticket, LeaseCall)>,
    /// Questions that wait until a quorum has confirmed this leader.
    unconfirmed: Reads<(Ticket, LeaseCall)>,
    /// Questions that may be answered. What a whole turn leaves are renewals of leases in `clearing`.
    confirmed: Vec<(Ticket, LeaseCall)>,
    /// Questions that wait for the lessor to run somewhere, and in which tick they were found to; oldest first.
    homeless: VecDeque<(u64, (Ticket, LeaseCall))>,
    /// Who has waited for that for too long.
    given_up: Vec<Ticket>,
    ticks: u64,
    /// How long a question waits for that: about as long as whoever asked.
    patience: u64,
    /// Leases whose checkpoint is being taken back through the log, so that they can be renewed.
    clearing: BTreeSet<i64>,
    /// Request ids of the revocations of expired leases that are proposed and not applied: two batches at most.
    revoking: BTreeSet<u64>,
    /// [`EXPIRE_MAX`], or a simulation's.
    pub(super) expire_max: usize,
    #[cfg(any(debug_assertions, feature = "faults"))]
    pub(super) fault: Option<LessorFault>,
}

impl Leases {
    /// Nobody asks yet. The rounds of questions are those of `unconfirmed`, and a question waits for a lessor for
    /// `patience` ticks.
    pub(super) fn new(unconfirmed: Reads<(Ticket, LeaseCall)>, patience: u64) -> Self {
        Self {
            homeless: VecDeque::new(),
            given_up: Vec::new(),
            ticks: 0,
            patience,
            calls: Vec::new(),
            unconfirmed,
            confirmed: Vec::new(),
            clearing: BTreeSet::new(),
            revoking: BTreeSet::new(),
            expire_max: EXPIRE_MAX,
            #[cfg(any(debug_assertions, feature = "faults"))]
            fault: None,
        }
    }

    /// Takes a question; false if too many wait.
    pub(super) fn ask(&mut self, ticket: Ticket, call: LeaseCall) -> bool {
        let has_room = self.waiting() < LEASE_CALLS_PENDING_MAX;
        if has_room {
            self.calls.push((ticket, call));
        }
        has_room
    }

    /// Questions that wait.
    pub(super) fn waiting(&self) -> usize {
        self.calls.len()
            + self.unconfirmed.len()
            + self.confirmed.len()
            + self.homeless.len()
            + self.given_up.len()
    }

    /// A tick has passed.
    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        while let Some((since, (ticket, _))) = self.homeless.front()
            && since + self.patience <= self.ticks
        {
            self.given_up.push(*ticket);
            self.homeless.pop_front();
        }
    }

    /// Whether no question waits for a round.
    pub(super) fn awaits_no_round(&self) -> bool {
        self.unconfirmed.awaits_no_round()
    }

    /// The context of the round to ask raft for now, if questions wait for one.
    pub(super) fn ask_round(&mut self, now: Instant, leader: Leader) -> Option<Vec<u8>> {
        self.unconfirmed.ask(now, leader)
    }

    /// A round has confirmed the leader, at `index`.
    pub(super) fn confirm(&mut self, context: &[u8], index: u64) {
        self.unconfirmed.confirm(context, index);
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
    fn revoke(&mut self, term: u64, expired: impl Iterator<Item = i64>, proposals: &mut Proposals) {
        for id in expired {
            let request = Request::LeaseRevoke(LeaseRevokeRequest { id });
            let request_id = match self.revokes_late() {
                true => proposals.queue_own(request),
                false => proposals.queue_of_lessor(term, request),
            };
            self.revoking.insert(request_id);
        }
    }

    /// Whether the lessor revokes leases though its leadership is over, by a planted bug.
    #[cfg(any(debug_assertions, feature = "faults"))]
    pub(super) fn revokes_late(&self) -> bool {
        self.fault == Some(LessorFault::RevokesLate)
    }

    /// Never: what a lessor decides is dropped when its term is over.
    #[cfg(not(any(debug_assertions, feature = "faults")))]
    pub(super) fn revokes_late(&self) -> bool {
        false
    }

    /// Whether a round has to confirm the leader first: not on a member that is the only voter.
    fn needs_round(&self, is_sole_voter: bool) -> bool {
        #[cfg(any(debug_assertions, feature = "faults"))]
        if self.fault == Some(LessorFault::RenewsAlone) {
            return false;
        }
        !is_sole_voter
    }

    /// Lets questions on that have waited for a round, or need none.
    pub(super) fn let_on(&mut self, is_sole_voter: bool, place: LessorPlace, applied: u64) {
        let needs_round = self.needs_round(is_sole_voter);
        let is_nowhere = place == LessorPlace::Nowhere;
        let waited = if is_nowhere { VecDeque::new() } else { std::mem::take(&mut self.homeless) };
        let waited = waited.into_iter().map(|(_, question)| question);
        for (ticket, call) in waited.chain(std::mem::take(&mut self.calls)) {
            let is_local = matches!(call, LeaseCall::Expiries { .. });
            if needs_round && !is_local && matches!(place, LessorPlace::Here(_)) {
                self.unconfirmed.wait((ticket, call));
            } else {
                self.confirmed.push((ticket, call));
            }
        }
        self.confirmed.append(&mut self.unconfirmed.ready(applied));
    }

    /// Answers the questions that may be answered, at this `revision` of the store. A renewal whose lease has a
    /// checkpoint waits until the log says that the lease has its full TTL again. Where the lessor runs on another
    /// member, that one is asked. While it runs nowhere, as during an election, questions wait, as they do in etcd.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        revision: i64,
        place: LessorPlace,
        lessor: &mut Lessor,
        proposals: &mut Proposals,
        outputs: &mut Outputs,
    ) {
        let given_up = self.given_up.drain(..);
        outputs.extend(given_up.map(|ticket| Output::Reply { ticket, result: Err(Error::NoLeader) }));
        for (ticket, call) in std::mem::take(&mut self.confirmed) {
            let result = match (&call, place) {
                (LeaseCall::Expiries { ids }, _) => {
                    let expiries = ids.iter().map(|&id| lessor.expiry(id).unwrap_or_default()).collect();
                    Ok(Response::LeaseExpiries { revision, expiries })
                }
                (_, LessorPlace::At(leader)) => {
                    outputs.push(Output::AskLessor { leader, ticket, call, revision });
                    continue;
                }
                (_, LessorPlace::Nowhere) => {
                    self.homeless.push_back((self.ticks, (ticket, call)));
                    continue;
                }
                (&LeaseCall::KeepAlive { id }, LessorPlace::Here(term)) if lessor.is_checkpointed(id) => {
                    self.clear_checkpoint(term, id, proposals);
                    self.confirmed.push((ticket, call));
                    continue;
                }
                // An unknown lease is no error: the stream goes on, and the answer says TTL 0.
                (&LeaseCall::KeepAlive { id }, LessorPlace::Here(_)) => {
                    let ttl = lessor.renew(now, id).unwrap_or(0);
                    Ok(Response::LeaseKeepAlive { revision, id, ttl })
                }
                (&LeaseCall::TimeToLive { id }, LessorPlace::Here(_)) => {
                    let gone = LeaseInfo { granted_ttl: 0, ttl: -1 };
                    let LeaseInfo { granted_ttl, ttl } = lessor.time_to_live(now, id).unwrap_or(gone);
                    Ok(Response::LeaseTimeToLive { revision, id, ttl, granted_ttl })
                }
            };
            outputs.push(Output::Reply { ticket, result });
        }
    }

    /// Has the log say that a lease has its full TTL again, unless that is on its way.
    fn clear_checkpoint(&mut self, term: u64, id: i64, proposals: &mut Proposals) {
        if self.clearing.insert(id) {
            let checkpoints = vec![LeaseCheckpoint { id, remaining_ttl: 0 }];
            let request = Request::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints });
            proposals.queue_of_lessor(term, request);
        }
    }
}

/// What a broken lessor would do, for the simulator, which has to find it.
#[cfg(any(debug_assertions, feature = "faults"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LessorFault {
    /// It renews leases without a round.
    RenewsAlone,
    /// It goes on when its leadership is over, and the next leader does what it decides.
    RevokesLate,
}

#[cfg(any(debug_assertions, feature = "faults"))]
impl Replica {
    /// From now on the lessor has this fault.
    pub fn spoil_lessor(&mut self, fault: LessorFault) {
        self.leases.fault = Some(fault);
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
            self.leases.revoke(self.node.raft.term, expired, &mut self.proposals);
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

    const LEADER: Leader = Leader { term: 1, id: 1, has_committed: true };

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

    fn leases() -> Leases {
        Leases::new(Reads::new(1, 1), 20)
    }

    #[test]
    fn among_several_voters_a_renewal_waits_for_a_round_that_began_behind_it() {
        let (mut lessor, mut proposals) = leader(1..2);
        let (mut leases, now) = (leases(), Instant::default());
        let mut answered = |leases: &mut Leases, applied| {
            let (place, mut outputs) = (LessorPlace::Here(4), Outputs::new());
            leases.let_on(false, place, applied);
            leases.answer(now, 7, place, &mut lessor, &mut proposals, &mut outputs);
            outputs.len()
        };
        leases.ask(Ticket(1), LeaseCall::KeepAlive { id: 1 });
        assert_eq!((answered(&mut leases, 9), leases.waiting()), (0, 1));
        let round = leases.ask_round(now, LEADER).expect("a round for the first");
        leases.ask(Ticket(2), LeaseCall::TimeToLive { id: 1 });
        leases.ask(Ticket(3), LeaseCall::Expiries { ids: vec![1] });
        assert_eq!(answered(&mut leases, 9), 1, "this member's own copy needs no round");
        leases.confirm(&round, 9);
        assert_eq!(answered(&mut leases, 8), 0, "what was committed when it came is not applied");
        assert_eq!((answered(&mut leases, 9), leases.waiting()), (1, 1));
        let round = leases.ask_round(now, LEADER).expect("a round for the second");
        leases.confirm(&round, 9);
        assert_eq!((answered(&mut leases, 9), leases.waiting()), (1, 0));
    }

    #[test]
    fn what_a_lessor_decides_is_of_its_term_or_nothing() {
        let mut proposals = Proposals::new((1 << 32, 1), 20);
        let revoke = |id| Request::LeaseRevoke(LeaseRevokeRequest { id });
        for led in [None, Some(5)] {
            proposals.queue_of_lessor(4, revoke(1));
            proposals.queue_own(revoke(2));
            assert!(proposals.has_queued());
            let batch = proposals.take_batch(led.unwrap_or_default(), led.is_some());
            let revoked: Vec<_> =
                batch.iter().filter_map(|entry| Entry::revoked_lease(entry.data.clone())).collect();
            assert_eq!((revoked, proposals.has_queued()), (vec![2], false), "led: {led:?}");
        }
        proposals.queue_of_lessor(4, revoke(1));
        assert_eq!(proposals.take_batch(4, true).len(), 1);
    }

    #[test]
    fn so_many_questions_may_wait_and_no_more() {
        let mut leases = leases();
        let mut ask = || leases.ask(Ticket(0), LeaseCall::KeepAlive { id: 1 });
        assert!((0..LEASE_CALLS_PENDING_MAX).all(|_| ask()) && !ask());
        assert_eq!(leases.waiting(), LEASE_CALLS_PENDING_MAX);
    }

    #[test]
    fn where_the_lessor_runs_elsewhere_it_is_asked_there() {
        let (mut lessor, mut proposals) = leader(1..2);
        let mut leases = leases();
        let mut answer = |call: &LeaseCall, place| {
            let mut outputs = Outputs::new();
            leases.ask(Ticket(5), call.clone());
            leases.let_on(true, place, 0);
            leases.answer(Instant::default(), 7, place, &mut lessor, &mut proposals, &mut outputs);
            assert_eq!((outputs.len(), leases.waiting()), (1, 0));
            outputs.remove(0)
        };
        for call in [LeaseCall::KeepAlive { id: 1 }, LeaseCall::TimeToLive { id: 1 }] {
            assert!(matches!(
                answer(&call, LessorPlace::At(3)),
                Output::AskLessor { leader: 3, ticket: Ticket(5), call: asked, revision: 7 } if asked == call
            ));
            assert!(matches!(answer(&call, LessorPlace::Here(4)), Output::Reply { result: Ok(_), .. }));
        }
        let expiries = LeaseCall::Expiries { ids: vec![1] };
        assert!(matches!(answer(&expiries, LessorPlace::At(3)), Output::Reply { result: Ok(_), .. }));
    }

    #[test]
    fn a_question_waits_for_a_lessor_and_not_for_ever() {
        let (mut lessor, mut proposals) = leader(1..2);
        let mut leases = leases();
        let mut answers = |leases: &mut Leases, place| {
            let mut outputs = Outputs::new();
            leases.let_on(true, place, 0);
            leases.answer(Instant::default(), 7, place, &mut lessor, &mut proposals, &mut outputs);
            outputs
        };
        let nowhere = LessorPlace::Nowhere;
        for (place, ticks) in [(LessorPlace::Here(4), 19), (LessorPlace::At(3), 19), (nowhere, 20)] {
            leases.ask(Ticket(1), LeaseCall::KeepAlive { id: 1 });
            leases.ask(Ticket(2), LeaseCall::TimeToLive { id: 1 });
            assert!(answers(&mut leases, nowhere).is_empty() && leases.waiting() == 2);
            (0..ticks).for_each(|_| leases.tick());
            assert_eq!(leases.waiting(), 2, "they wait until they are told");
            let said: Vec<_> = answers(&mut leases, place)
                .into_iter()
                .map(|output| match output {
                    Output::Reply { ticket, result } => (ticket.0, result.err()),
                    Output::AskLessor { leader: 3, ticket, .. } => (ticket.0, None),
                    _ => panic!("something else is said"),
                })
                .collect();
            let error = (place == nowhere).then_some(Error::NoLeader);
            assert_eq!((said, leases.waiting()), (vec![(1, error), (2, error)], 0));
        }
    }

    #[test]
    fn two_batches_of_revocations_are_under_way_at_most() {
        let (mut lessor, mut proposals) = leader(1..10);
        let mut leases = Leases { expire_max: 2, ..leases() };
        let now = Instant::default() + Duration::from_secs(2);
        let mut batches = 0;
        while leases.has_expired(now, &lessor) {
            leases.revoke(4, lessor.expired(now, 2).into_iter(), &mut proposals);
            batches += 1;
        }
        let under_way: Vec<u64> = leases.revoking.iter().copied().collect();
        assert_eq!((batches, under_way.len(), proposals.take_batch(4, true).len()), (2, 4, 4));
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
        let mut leases = leases();
        let answer = |leases: &mut Leases, lessor: &mut Lessor, proposals: &mut Proposals| {
            let mut outputs = Outputs::new();
            leases.answer(Instant::default(), 7, LessorPlace::Here(4), lessor, proposals, &mut outputs);
            outputs.len()
        };
        leases.ask(Ticket(1), LeaseCall::KeepAlive { id: 1 });
        leases.ask(Ticket(2), LeaseCall::KeepAlive { id: 1 });
        leases.let_on(true, LessorPlace::Here(4), 0);
        assert_eq!(answer(&mut leases, &mut lessor, &mut proposals), 0);
        assert_eq!(answer(&mut leases, &mut lessor, &mut proposals), 0);
        assert_eq!((leases.waiting(), proposals.take_batch(4, true).len()), (2, 1));
        lessor.checkpoint(&mut txn, 1, 0);
        leases.on_checkpoint(1);
        assert_eq!((answer(&mut leases, &mut lessor, &mut proposals), leases.waiting()), (2, 0));
    }
}
