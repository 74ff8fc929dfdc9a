//! The replica: what it holds, and a turn.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry as LogEntry, Message, MessageType};
use raft::{RawNode, StateRole};

use super::apply::State;
use super::checkpoint::Policy;
use super::defragment::Defragmentation;
use super::digest::Digests;
use super::election::Timeouts;
use super::execute::{Executing, Halted};
use super::port::{Input, LeaseCall, Output, Outputs, Ticket};
use super::propose::Proposals;
use super::read_gate::{ReadGate, Role};
use super::read_index::Reads;
use super::ready::Unsynced;
use super::spill::Spill;
use super::tail::Tail;
use super::tally::Tally;
use crate::btree::{Applied, Store};
use crate::cluster::membership::is_learner;
use crate::error::Error;
use crate::lease;
use crate::limits::{COMMITTED_UNAPPLIED_MAX, LEASE_CALLS_PENDING_MAX, UNAPPLIED_BYTES_MAX};
use crate::mvcc::compact;
use crate::mvcc::compact_hash::CompactionHashes;
use crate::mvcc::pin::Pins;
use crate::proto::etcdserverpb::{LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest};
use crate::proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use crate::request::Request;
use crate::response::Response;
use crate::stdx::time::{Duration, Instant};
use crate::wal::{Appender, SnapshotMark};

/// The version that the cluster agrees on.
const CLUSTER_VERSION: &str = "3.7.0";

/// What a member is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This member's id.
    pub member_id: u64,
    /// Its name, to be published.
    pub name: String,
    /// Its client URLs, to be published.
    pub client_urls: Vec<String>,
    /// `--election-timeout` in ticks.
    pub election_ticks: usize,
    /// One tick.
    pub tick: Duration,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// Entries kept behind a checkpoint for members that lag.
    pub catchup_entries: u64,
    /// Log segments kept at least; 0 keeps all.
    pub segments_kept: usize,
    /// The shortest lease, in seconds.
    pub lease_ttl_min: i64,
    /// Bytes in use at which this member raises the alarm NOSPACE; none without a quota.
    pub quota_bytes: Option<u64>,
    /// Ids for the replica's own proposals: first, and distance.
    pub request_ids: (u64, u64),
    /// Seed of election timeouts.
    pub seed: u64,
}

/// How far a new cluster's first entries have got. Raft takes them for durable, so it is not asked for anything
/// before they are.
pub(super) enum Founding {
    /// To be written to the log.
    Due(Vec<LogEntry>),
    /// On their way.
    Written,
    /// Durable, or there never were any.
    Done,
}

/// The logic of one member; see the folder's page.
pub struct Replica {
    pub(super) settings: Settings,
    pub(super) node: RawNode<Tail>,
    pub(super) store: Store,
    pub(super) state: State,
    pub(super) log: Appender,
    pub(super) pins: Pins,
    pub(super) gate: Arc<ReadGate>,
    pub(super) timeouts: Timeouts,
    pub(super) reads: Reads,
    pub(super) checkpoints: Policy,

    pub(super) proposals: Proposals,

    /// Log writes that are not durable, in order.
    pub(super) unsynced: VecDeque<Unsynced>,
    /// The number of raft's last ready.
    pub(super) last_ready: u64,
    /// Questions to the lessor that wait for the end of the turn.
    pub(super) lease_calls: Vec<(Ticket, LeaseCall)>,
    /// Leases whose checkpoint is being taken back through the log, so that they can be renewed.
    pub(super) clearing: BTreeSet<i64>,
    /// Messages that waited for the log, to be sent.
    pub(super) outbox: Vec<Message>,
    /// A new cluster's first entries on their way to the log.
    pub(super) founding: Founding,
    /// Committed entries that are not applied, behind the one in `executing`.
    pub(super) committed: VecDeque<LogEntry>,
    /// The entry under way. If it has begun, the store's draft is its own, and suspended between turns.
    pub(super) executing: Option<Executing>,
    /// The checkpoint under way is durable, which the store hears once it is not suspended.
    pub(super) checkpoint_ended: Option<u64>,
    /// Nothing more is applied once this is set.
    pub(super) halted: Halted,
    /// The relief of the draft under way.
    pub(super) spill: Spill,
    /// Memory for log writes.
    pub(super) buffers: Vec<Vec<u8>>,
    /// Hashes that compactions took.
    pub(super) hashes: CompactionHashes,
    /// Compactions whose hash is to be taken.
    pub(super) digests: Digests,
    /// Replies to physical compactions, waiting for the sweep to reach their revision.
    pub(super) sweeping: Vec<(i64, Ticket, Response)>,
    /// Revisions removed since the compaction under way began.
    pub(super) swept: u64,
    /// The compaction whose end was told last.
    pub(super) swept_told: i64,
    /// A checkpoint is under way; this is what it will have made durable.
    pub(super) checkpointing: Option<SnapshotMark>,
    /// The store file holds everything up to here, but the log does not say so yet.
    pub(super) unmarked: Option<SnapshotMark>,
    /// The log says that the store file holds everything up to this index.
    pub(super) marked: u64,
    /// Nothing went to the log since the last tick.
    pub(super) log_is_quiet: bool,
    /// A whole tick has passed in which nothing went to the log: what was left out of it can go there.
    pub(super) tidy_due: bool,
    /// Requests to defragment.
    pub(super) defragmentation: Defragmentation,
    /// The last checkpoint of a member that stops was begun.
    pub(super) settled: bool,
    /// Revocations of expired leases on their way: two batches at most.
    pub(super) revoking: usize,
    /// [`EXPIRE_MAX`](crate::limits::EXPIRE_MAX), or a simulation's.
    pub(super) expire_max: usize,
    /// [`APPLY_BESIDE_MIN`](crate::limits::APPLY_BESIDE_MIN), or a simulation's.
    pub(super) apply_beside_min: usize,
    /// [`SWEEP_SLICE`](crate::limits::SWEEP_SLICE), or a simulation's.
    pub(super) sweep_slice: usize,
    /// [`APPLY_ENTRIES_MAX`](crate::limits::APPLY_ENTRIES_MAX), or a simulation's.
    pub(super) apply_entries_max: usize,
    /// [`APPLY_BUDGET`](crate::limits::APPLY_BUDGET), or a simulation's.
    pub(super) apply_budget: usize,
    /// [`EVENTS_PUBLISHED_MAX`](crate::limits::EVENTS_PUBLISHED_MAX), or a simulation's.
    pub(super) events_max: usize,
    /// What was committed waits for the next turn, so that a log write could go first.
    pub(super) deferred: bool,
    /// This member's alarm NOSPACE was proposed in this term and is not applied; 0 otherwise.
    pub(super) alarming: u64,
    /// What was applied.
    pub(super) tally: Tally,
    /// Own facts were proposed in this term.
    pub(super) introduced: u64,
    /// The lessor runs since this term; 0 while this member does not lead.
    pub(super) leading: u64,
}

impl Replica {
    /// Takes one input. What goes wrong in the world arrives as an input too; a broken invariant of the replica panics.
    pub fn step(&mut self, input: Input) {
        match input {
            Input::Tick => self.on_tick(),
            Input::Propose { ticket, id, entry } => self.on_propose(ticket, id, entry),
            Input::Forget { id } => _ = self.proposals.answer(id),
            Input::ReadIndex { ticket } => {
                if !self.reads.wait(ticket) {
                    self.proposals.refuse(ticket, Error::TooManyRequests);
                }
            }
            Input::Lease { ticket, call } if self.lease_calls.len() < LEASE_CALLS_PENDING_MAX => {
                self.lease_calls.push((ticket, call));
            }
            Input::Lease { ticket, .. } => self.proposals.refuse(ticket, Error::TooManyRequests),
            Input::Defragment { ticket } => self.defragmentation.ask(ticket),
            Input::PeerMessage(message) => {
                // raft refuses messages of strangers and of the past; nothing else is to be done about them.
                let _ = self.node.step(*message);
            }
            Input::WalSynced { ready, buffer } => self.on_wal_synced(ready, buffer),
            Input::CheckpointSynced { generation } => self.on_checkpoint_synced(generation),
            Input::CompactionDigested { hash } => self.on_compaction_digested(hash),
        }
    }

    /// Ends a turn: appends to `outputs` everything the world must now do. True if there is more to do without
    /// further input.
    pub fn drain(&mut self, now: Instant, outputs: &mut Outputs) -> bool {
        if !self.found(outputs) {
            return false;
        }
        if self.leading == self.node.raft.term {
            // Before anything expires: who asked first is renewed first.
            self.answer_leases(now, outputs);
        }
        self.revoke_expired(now);
        self.propose_waiting(outputs);
        self.ask_reads(now);
        self.process_readies(outputs);
        self.tidy_log(outputs);
        self.send_persisted(outputs);
        let beside = self.committed.len() >= self.apply_beside_min && Self::has_written(outputs);
        // Once: on a disk that is faster than a turn there is always another write.
        self.deferred = beside && !self.deferred;
        if self.deferred {
            // The write goes to the disk first, and these are applied beside it in the next turn.
            return true;
        }
        self.apply_committed(now, outputs);
        self.tell_halt(outputs);
        self.digest_compaction(outputs);
        self.campaign_if_alone(outputs);
        self.follow_leadership(now);
        self.answer_leases(now, outputs);
        for ticket in self.reads.ready(self.store.applied().index) {
            outputs.push(Output::ReadReady { ticket });
        }
        self.checkpoint_if_due(now, outputs);
        self.defragment(outputs);
        self.release_log(outputs);
        self.show_gate();
        self.has_more(now)
    }

    /// Raft's state as other cores see it.
    pub fn gate(&self) -> &Arc<ReadGate> {
        &self.gate
    }

    /// The hashes that compactions took, for HashKV.
    pub fn compaction_hashes(&self) -> &CompactionHashes {
        &self.hashes
    }

    /// A handle from which each core registers its reader.
    pub fn readers(&self) -> crate::btree::Readers {
        self.store.readers()
    }

    /// What the store contains.
    pub fn applied(&self) -> Applied {
        self.store.applied()
    }

    /// Sizes of the store.
    pub fn store_stats(&self) -> crate::btree::StoreStats {
        self.store.stats()
    }

    /// What was applied since the start.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The alarms that are raised.
    pub fn alarms(&self) -> &crate::cluster::Alarms {
        &self.state.alarms
    }

    /// Requests whose answer is still to come: proposals, reads, questions to the lessor, physical compactions.
    pub fn waiting(&self) -> usize {
        let executing = self.executing.as_ref().is_some_and(|executing| executing.ticket.is_some());
        self.proposals.pending()
            + usize::from(executing)
            + self.reads.len()
            + self.lease_calls.len()
            + self.sweeping.len()
    }

    /// Proposals that wait for their entry to be applied.
    pub fn pending(&self) -> usize {
        self.proposals.pending()
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Whether this member is a learner, by what was applied.
    pub fn is_learner(&self) -> bool {
        self.state.cluster.members.get(&self.settings.member_id).is_some_and(is_learner)
    }

    fn on_tick(&mut self) {
        self.timeouts.draw(&mut self.node);
        self.node.tick();
        self.store.tidy();
        self.proposals.tick();
        self.tidy_due |= self.log_is_quiet;
        self.log_is_quiet = true;
    }

    fn on_propose(&mut self, ticket: Ticket, id: u64, entry: Bytes) {
        let committed = self.node.raft.raft_log.committed;
        if committed > self.store.applied().index + COMMITTED_UNAPPLIED_MAX {
            return self.proposals.refuse(ticket, Error::TooManyRequests);
        }
        self.proposals.queue(ticket, id, entry);
    }

    /// The only voter need not wait for an election timeout: there is nobody to disturb.
    fn campaign_if_alone(&mut self, outputs: &mut Outputs) {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader
            && self.is_sole_voter()
            && self.unsynced.is_empty()
            && raft.promotable()
        {
            // Refused while a membership entry is committed but not applied: tried again next turn.
            let _ = self.node.campaign();
            self.process_readies(outputs);
        }
    }

    pub(super) fn is_sole_voter(&self) -> bool {
        let voters = self.node.raft.prs().conf().voters().ids();
        voters.len() == 1 && voters.contains(self.settings.member_id)
    }

    /// All that waits becomes one append. While a log write is on its way the next batch gathers.
    fn propose_waiting(&mut self, outputs: &mut Outputs) {
        for (ticket, error) in self.proposals.take_refused() {
            outputs.push(Output::Reply { ticket, result: Err(error) });
        }
        if !self.may_propose() {
            return;
        }
        let mut message = Message { from: self.settings.member_id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.entries = self.proposals.take_batch();
        // raft takes them: it was asked. What is lost all the same is answered when its time is over.
        let _ = self.node.raft.step(message);
    }

    /// Whether raft would take a proposal now: it drops what comes while nobody leads or leadership is handed over.
    fn has_proposee(&self) -> bool {
        let raft = &self.node.raft;
        match raft.state {
            StateRole::Leader => {
                raft.lead_transferee.is_none() && raft.prs().get(self.settings.member_id).is_some()
            }
            StateRole::Follower => raft.leader_id != 0,
            StateRole::Candidate | StateRole::PreCandidate => false,
        }
    }

    /// The next batch of expired leases, as soon as the log takes it: one is being written while the one before is
    /// applied. However many leases end at once, a put meets no more than these two.
    fn revoke_expired(&mut self, now: Instant) {
        if !self.may_revoke(now) {
            return;
        }
        for id in self.state.lessor.expired(now, self.expire_max) {
            self.revoking += 1;
            self.proposals.queue_own(Request::LeaseRevoke(LeaseRevokeRequest { id }));
        }
    }

    fn may_revoke(&self, now: Instant) -> bool {
        self.is_leader()
            && self.leading == self.node.raft.term
            && self.revoking <= self.expire_max
            && self.log_takes_more()
            && self.state.lessor.next_expiry().is_some_and(|expiry| expiry <= now)
    }

    fn may_propose(&self) -> bool {
        self.proposals.has_queued() && self.log_takes_more()
    }

    fn has_written(outputs: &Outputs) -> bool {
        outputs.iter().any(|output| matches!(output, Output::AppendWal { .. }))
    }

    fn log_takes_more(&self) -> bool {
        self.has_proposee()
            && self.unsynced.is_empty()
            && !self.checkpoints.is_pressed(&self.store.stats())
            && (self.executing.is_none() || self.node.store().bytes() < UNAPPLIED_BYTES_MAX)
    }

    fn ask_reads(&mut self, now: Instant) {
        if let Some(context) = self.reads.ask(now) {
            self.node.read_index(context);
        }
    }

    /// The lessor runs on the leader alone.
    fn follow_leadership(&mut self, now: Instant) {
        let term = self.node.raft.term;
        if !self.is_leader() {
            if self.leading != 0 {
                self.leading = 0;
                self.state.lessor.demote();
            }
            return;
        }
        if self.leading != term && self.has_committed_in_term() {
            self.leading = term;
            // What an earlier leadership proposed is lost, or applied by now.
            self.revoking = 0;
            self.clearing.clear();
            let extend = self.settings.tick * u32::try_from(self.settings.election_ticks).unwrap_or(u32::MAX);
            self.state.lessor.promote(now, extend);
        }
        if self.leading == term && self.introduced != term {
            self.introduced = term;
            self.introduce();
        }
    }

    /// Publishes name and URLs, and the cluster's version, where the log does not say so already.
    fn introduce(&mut self) {
        let id = self.settings.member_id;
        let attributes =
            Attributes { name: self.settings.name.clone(), client_urls: self.settings.client_urls.clone() };
        let known = self.state.cluster.members.get(&id).and_then(|member| member.member_attributes.as_ref());
        if known != Some(&attributes) {
            self.proposals.queue_own(Request::ClusterMemberAttrSet(ClusterMemberAttrSetRequest {
                member_id: id,
                member_attributes: Some(attributes),
            }));
        }
        if self.state.cluster.version != CLUSTER_VERSION {
            let ver = CLUSTER_VERSION.to_owned();
            self.proposals.queue_own(Request::ClusterVersionSet(ClusterVersionSetRequest { ver }));
        }
    }

    fn has_committed_in_term(&self) -> bool {
        let applied = self.store.applied();
        applied.term == self.node.raft.term
    }

    fn answer_leases(&mut self, now: Instant, outputs: &mut Outputs) {
        let revision = self.store.applied().revision;
        for (ticket, call) in std::mem::take(&mut self.lease_calls) {
            let lessor = &mut self.state.lessor;
            let result = match call {
                LeaseCall::Expiries { ids } => {
                    let expiries = ids.iter().map(|&id| lessor.expiry(id).unwrap_or_default()).collect();
                    Ok(Response::LeaseExpiries { revision, expiries })
                }
                _ if self.leading == 0 => Err(Error::NoLeader),
                LeaseCall::KeepAlive { id } if lessor.is_checkpointed(id) => {
                    self.clear_checkpoint(id);
                    self.lease_calls.push((ticket, call));
                    continue;
                }
                // An unknown lease is no error: the stream goes on, and the answer says TTL 0.
                LeaseCall::KeepAlive { id } => {
                    let ttl = lessor.renew(now, id).unwrap_or(0);
                    Ok(Response::LeaseKeepAlive { revision, id, ttl })
                }
                LeaseCall::TimeToLive { id } => {
                    let gone = lease::LeaseInfo { granted_ttl: 0, ttl: -1 };
                    let lease::LeaseInfo { granted_ttl, ttl } = lessor.time_to_live(now, id).unwrap_or(gone);
                    Ok(Response::LeaseTimeToLive { revision, id, ttl, granted_ttl })
                }
            };
            outputs.push(Output::Reply { ticket, result });
        }
    }

    /// Has the log say that a lease has its full TTL again, unless that is on its way.
    fn clear_checkpoint(&mut self, id: i64) {
        if self.clearing.insert(id) {
            let checkpoints = vec![LeaseCheckpoint { id, remaining_ttl: 0 }];
            self.proposals.queue_own(Request::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints }));
        }
    }

    fn show_gate(&mut self) {
        let applied = self.store.applied();
        let raft = &self.node.raft;
        self.gate.set(raft.term, raft.leader_id, raft.raft_log.committed, applied.index);
        let role = match raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
            StateRole::PreCandidate => Role::PreCandidate,
        };
        self.gate.set_vote(role, raft.vote);
        let leads = raft.state == StateRole::Leader && applied.term == raft.term;
        self.gate.set_open(leads && self.is_sole_voter());
        let id = self.settings.member_id;
        let published = self.state.cluster.members.get(&id).is_some_and(|m| m.member_attributes.is_some());
        if published && leads && !self.state.cluster.version.is_empty() {
            self.gate.set_published();
        }
    }

    /// Whether the next drain has something to do without input.
    fn has_more(&self, now: Instant) -> bool {
        let applies = !self.committed.is_empty() || self.executing.is_some() || self.is_sweep_due();
        self.may_propose()
            || (applies && self.may_apply())
            || self.may_revoke(now)
            || self.defragmentation.has_more()
    }

    /// Whether entries can be applied in the next turn.
    fn may_apply(&self) -> bool {
        matches!(self.halted, Halted::No) && !self.waits_for_spill()
    }

    pub(super) fn is_sweep_due(&self) -> bool {
        let applied = self.store.applied();
        applied.swept_revision < applied.compact_revision
            && compact::is_sweep_due(applied, lowest(self.pins.lowest(), self.digests.pin()))
    }
}

/// The lower of two pins.
pub(super) fn lowest(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.into_iter().chain(b).min()
}
