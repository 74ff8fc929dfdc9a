//! The replica: what it holds, and a turn.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry as LogEntry, Message, MessageType};
use raft::{RawNode, StateRole};

use super::apply::State;
use super::arrival::Arrival;
use super::commit::TurnSize;
use super::defragment::Defragmentation;
use super::digest::Digests;
use super::election::Timeouts;
use super::execute::Executing;
use super::halt::Halted;
use super::handover::Handover;
use super::heavy::Heavy;
use super::install::Installing;
use super::laggards::Transfers;
use super::leadership::{Leadership, introduction};
use super::leases::{Leases, LessorPlace};
use super::log_writes::LogWrites;
use super::marks::Marks;
use super::messages::Complaints;
use super::policy::Policy;
use super::port::{Input, Output, Outputs, Ticket};
use super::propose::Proposals;
use super::read_gate::{ReadGate, Role};
use super::read_index::{Leader, Reads};
use super::spill::Spill;
use super::sweep::Sweep;
use super::tail::Tail;
use super::tally::Tally;
use crate::btree::{Applied, Store};
use crate::cluster::Cluster;
use crate::cluster::membership::is_learner;
use crate::cluster::reconfig::Rules;
use crate::error::Error;
use crate::limits::{COMMITTED_UNAPPLIED_MAX, UNAPPLIED_BYTES_MAX};
use crate::mvcc::compact;
use crate::mvcc::compact_hash::CompactionHashes;
use crate::mvcc::pin::Pins;
use crate::stdx::time::{Duration, Instant};
use crate::wal::{Appender, SnapshotMark};

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
    /// What changes of the members it allows.
    pub rules: Rules,
    /// Whoever runs the member asks the others for their versions, and says so by [`Input::Versions`]. Otherwise they
    /// are taken for members of this version.
    pub asks_versions: bool,
    /// Ids for the replica's own proposals: first, and distance.
    pub request_ids: (u64, u64),
    /// Seed of election timeouts.
    pub seed: u64,
}

/// How far the first entries of a new cluster have got, or those by which a member goes on alone. Raft takes them for
/// durable, so it is not asked for anything before they are.
pub(super) enum Founding {
    /// To be written to the log.
    Due(Vec<LogEntry>),
    /// The store is a snapshot of the leader, of which the log does not know: it is to begin anew behind this.
    Behind(SnapshotMark),
    /// On their way.
    Written,
    /// Durable, or there never were any.
    Done,
}

/// The logic of one member: raft, the log and the store, and what is on its way between them. Each part has its own
/// file; see the folder's page.
pub struct Replica {
    pub(super) settings: Settings,
    /// Raft, and the end of its log in memory.
    pub(super) node: RawNode<Tail>,
    pub(super) timeouts: Timeouts,
    /// The log on the disk, as far as it was handed out to be written.
    pub(super) log: Appender,
    /// What has been applied.
    pub(super) store: Store,
    /// What apply keeps in memory of it.
    pub(super) state: State,

    // What clients wait for.
    pub(super) proposals: Proposals,
    pub(super) reads: Reads,
    pub(super) leases: Leases,
    pub(super) defragmentation: Defragmentation,
    /// Clients that want a learner promoted, which is the leader's to decide.
    pub(super) promotions: Vec<(Ticket, u64)>,
    pub(super) handover: Handover,
    /// Entries that may have changed what is known of the cluster.
    pub(super) cluster_changes: u64,

    // On the way to the log.
    /// A new cluster's first entries.
    pub(super) founding: Founding,
    pub(super) writes: LogWrites,

    // On the way to the store.
    /// Committed entries that are not applied, behind the one in `executing`.
    pub(super) committed: VecDeque<LogEntry>,
    /// The entry under way. If it has begun, the store's draft is its own, and suspended between turns.
    pub(super) executing: Option<Executing>,
    /// Nothing more is applied once this is set.
    pub(super) halted: Halted,
    pub(super) turn_size: TurnSize,
    /// What was committed waits for the next turn, so that a log write could go first.
    pub(super) deferred: bool,
    /// The relief of the draft under way.
    pub(super) spill: Spill,
    /// The pages of entries that make many.
    pub(super) heavy: Heavy,

    // On the way to the store file, and out of it.
    /// When a checkpoint is due.
    pub(super) checkpoints: Policy,
    /// How far checkpoints have come, and what the log says of them.
    pub(super) marks: Marks,
    /// The last checkpoint of a member that stops was begun.
    pub(super) settled: bool,
    /// Compactions whose hash is to be taken, and the hashes.
    pub(super) digests: Digests,
    /// Replies and reports that wait for garbage to be swept.
    pub(super) sweep: Sweep,
    /// Revisions that sessions still read.
    pub(super) pins: Pins,

    /// Entries up to this index may have been committed by voters that have been removed since, and these may have
    /// answered them already.
    pub(super) shared: u64,
    // What other members say.
    /// What was wrong with messages.
    pub(super) complaints: Complaints,
    /// The store that a start has found says that this member was removed, and the world is to hear of it.
    pub(super) farewell_due: bool,
    // Snapshots of the leader, and to members that lag.
    pub(super) installing: Installing,
    /// Snapshots that came while another one was under way.
    pub(super) refused_arrivals: Vec<Arrival>,
    pub(super) transfers: Transfers,

    /// What this member has done as the leader, and in which term.
    pub(super) leadership: Leadership,
    /// What sessions know of raft.
    pub(super) gate: Arc<ReadGate>,
    /// What was applied, counted.
    pub(super) tally: Tally,
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
            Input::Lease { ticket, call } => {
                if !self.leases.ask(ticket, call) {
                    self.proposals.refuse(ticket, Error::TooManyRequests);
                }
            }
            Input::Defragment { ticket } => self.defragmentation.ask(ticket),
            Input::Configure { ticket, change } => self.proposals.queue_change(ticket, *change),
            Input::Promote { ticket, id } => self.on_promote(ticket, id),
            Input::MoveLeader { ticket, target } => self.on_move_leader(ticket, target),
            Input::Resign => self.on_resign(),
            Input::Versions(others) => self.on_versions(others),
            Input::PeerMessage(message) => self.on_message(*message),
            Input::PeerUnreachable(id) => self.node.report_unreachable(id),
            Input::Undelivered(message) => self.on_undelivered(*message),
            Input::PeerGone(id) if id == self.node.raft.leader_id => {
                self.timeouts.on_leader_gone(&mut self.node);
            }
            Input::PeerGone(_) => {}
            Input::Snapshot(arrival) => self.on_snapshot(arrival),
            Input::SnapshotPlaced => self.on_snapshot_placed(),
            Input::SnapshotSent { to, is_taken } => self.on_snapshot_sent(to, is_taken),
            Input::WalSynced { ready, buffer, took } => {
                self.sweep.on_log_write(took);
                self.on_wal_synced(ready, buffer);
            }
            Input::CheckpointSynced { generation } => self.on_checkpoint_synced(generation),
            Input::CheckpointRefused => self.marks.refuse(),
            Input::CompactionDigested { hash } => self.on_compaction_digested(hash),
        }
    }

    /// Ends a turn: appends to `outputs` everything the world must now do. True if there is more to do without
    /// further input.
    pub fn drain(&mut self, now: Instant, outputs: &mut Outputs) -> bool {
        if !self.found(outputs) || !self.install(now, outputs) {
            return false;
        }
        if std::mem::take(&mut self.farewell_due) {
            outputs.push(Output::Removed);
        }
        self.sweep.begin_turn(now);
        if self.leadership.is_of(self.node.raft.term) {
            // Before anything expires: who asked first is renewed first.
            self.answer_leases(now, outputs);
        }
        if self.may_revoke(now) {
            self.revoke_expired(now);
        }
        self.follow_handover(outputs);
        self.propose_waiting(outputs);
        self.propose_change();
        self.forward_promotions(outputs);
        self.ask_reads(now);
        self.process_readies(outputs);
        self.tidy_log(outputs);
        self.send_persisted(outputs);
        let beside = self.committed.len() >= self.turn_size.beside_min && Self::has_written(outputs);
        // Once: on a disk that is faster than a turn there is always another write.
        self.deferred = beside && !self.deferred;
        if self.deferred {
            // The write goes to the disk first, and these are applied beside it in the next turn.
            return true;
        }
        self.apply_committed(now, outputs);
        self.proposals.on_applied(self.store.applied().term);
        self.tell_halt(outputs);
        self.tell_complaints(outputs);
        self.digest_compaction(outputs);
        self.campaign_if_alone(outputs);
        self.follow_leadership(now);
        self.answer_leases(now, outputs);
        for ticket in self.reads.ready(self.store.applied().index) {
            outputs.push(Output::ReadReady { ticket });
        }
        self.checkpoint_if_due(now, outputs);
        self.defragment(now, outputs);
        self.release_log(outputs);
        self.offer_snapshot();
        self.show_gate();
        self.has_more(now)
    }

    /// Raft's state as other cores see it.
    pub fn gate(&self) -> &Arc<ReadGate> {
        &self.gate
    }

    /// The hashes that compactions took, for HashKV.
    pub fn compaction_hashes(&self) -> &CompactionHashes {
        &self.digests.hashes
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

    /// Whether the disk of the store file has no room for the checkpoint under way.
    pub fn store_lacks_room(&self) -> bool {
        self.marks.is_refused()
    }

    /// What was applied since the start.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Who belongs to the cluster, by what was applied.
    pub fn cluster(&self) -> &Cluster {
        &self.state.cluster
    }

    /// A number that grows whenever [`Replica::cluster`] may have changed.
    pub fn cluster_changes(&self) -> u64 {
        self.cluster_changes
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
            + self.leases.waiting()
            + self.sweep.waiting()
    }

    /// Proposals that wait for their entry to be applied.
    pub fn pending(&self) -> usize {
        self.proposals.pending()
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Whether this member was removed from its cluster, by what was applied.
    pub fn is_removed(&self) -> bool {
        self.state.cluster.removed.contains(&self.settings.member_id)
    }

    /// How long a member hears of no leader before it stands for election, at least.
    pub fn election_timeout(&self) -> Duration {
        self.settings.tick * u32::try_from(self.settings.election_ticks).unwrap_or(u32::MAX)
    }

    /// Whether this member is a learner, by what was applied.
    pub fn is_learner(&self) -> bool {
        self.state.cluster.members.get(&self.settings.member_id).is_some_and(is_learner)
    }

    fn on_tick(&mut self) {
        self.timeouts.draw(&mut self.node);
        if !self.bars_election() {
            self.node.tick();
        }
        self.store.tidy();
        self.transfers.tick();
        self.proposals.tick();
        self.leases.tick();
        self.writes.tick();
        self.resign_if_removed();
        self.tick_handover();
    }

    fn on_propose(&mut self, ticket: Ticket, id: u64, entry: Bytes) {
        let committed = self.node.raft.raft_log.committed;
        if committed > self.store.applied().index + COMMITTED_UNAPPLIED_MAX {
            return self.proposals.refuse(ticket, Error::TooManyRequests);
        }
        self.proposals.queue(ticket, id, entry);
    }

    /// A message has surely not reached its member.
    fn on_undelivered(&mut self, message: Message) {
        if message.msg_type() == MessageType::MsgPropose {
            self.proposals.on_undelivered(message.entries);
        }
    }

    /// The only voter need not wait for an election timeout: there is nobody to disturb.
    fn campaign_if_alone(&mut self, outputs: &mut Outputs) {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader
            && self.is_sole_voter()
            && self.writes.is_idle()
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

    /// Whether nobody else can have acknowledged what is not applied here: this member is the only voter, and has
    /// applied what may have been committed while it was not. A learner may be ahead of it, and know already that it
    /// votes.
    fn decides_alone(&self) -> bool {
        let applied = self.store.applied().index;
        let is_alone = self.state.cluster.members.len() < 2;
        self.is_sole_voter()
            && applied >= self.shared
            && (is_alone || applied >= self.node.raft.raft_log.committed)
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
        message.entries = self.proposals.take_batch(self.node.raft.term, self.is_leader());
        if message.entries.is_empty() {
            return;
        }
        // raft takes them: it was asked. What is lost all the same is answered by and by.
        let _ = self.node.raft.step(message);
    }

    /// Whether raft would take a proposal now, and somebody would hear of it: raft drops what comes while nobody leads
    /// or leadership is handed over, and what is sent to a leader that has gone is lost.
    pub(super) fn has_proposee(&self) -> bool {
        let raft = &self.node.raft;
        match raft.state {
            StateRole::Leader => {
                raft.lead_transferee.is_none() && raft.prs().get(self.settings.member_id).is_some()
            }
            StateRole::Follower => raft.leader_id != 0 && !self.timeouts.is_deserted(&self.node),
            StateRole::Candidate | StateRole::PreCandidate => false,
        }
    }

    /// Expired leases are revoked as soon as the log takes the entries.
    fn may_revoke(&self, now: Instant) -> bool {
        let leads = self.is_leader() && self.leadership.is_of(self.node.raft.term);
        (leads || self.leases.revokes_late())
            && self.log_takes_more()
            && self.leases.has_expired(now, &self.state.lessor)
    }

    fn may_propose(&self) -> bool {
        self.proposals.has_queued() && self.log_takes_more()
    }

    fn has_written(outputs: &Outputs) -> bool {
        outputs.iter().any(|output| matches!(output, Output::AppendWal { .. }))
    }

    pub(super) fn log_takes_more(&self) -> bool {
        self.has_proposee()
            && self.writes.is_idle()
            && !self.waits_for_room()
            && !self.checkpoints.is_pressed(&self.store.stats())
            && (self.executing.is_none() || self.node.store().bytes() < UNAPPLIED_BYTES_MAX)
    }

    fn ask_reads(&mut self, now: Instant) {
        if self.leads_nobody() || self.reads.awaits_no_round() && self.leases.awaits_no_round() {
            return;
        }
        let raft = &self.node.raft;
        let committed = raft.raft_log.term(raft.raft_log.committed);
        let has_committed = committed.is_ok_and(|term| term == raft.term);
        let leader = Leader { term: raft.term, id: raft.leader_id, has_committed };
        let rounds = [self.reads.ask(now, leader), self.leases.ask_round(now, leader)];
        for context in rounds.into_iter().flatten() {
            self.node.read_index(context);
        }
    }

    /// The lessor runs on the leader alone, from the first entry on that the leader has committed in its term.
    fn follow_leadership(&mut self, now: Instant) {
        let applied = self.store.applied();
        let term = self.node.raft.term;
        if !self.is_leader() {
            if self.leadership.end() && !self.leases.revokes_late() {
                self.state.lessor.demote();
            }
            return;
        }
        if applied.term == term && self.leadership.begin(term) {
            self.leases.on_promoted();
            let extend = self.settings.tick * u32::try_from(self.settings.election_ticks).unwrap_or(u32::MAX);
            self.state.lessor.promote(now, extend);
        }
        if self.leadership.introduces(term) {
            let facts = introduction(&self.settings, &self.state.cluster);
            for fact in facts {
                self.proposals.queue_own(fact);
            }
        }
    }

    fn answer_leases(&mut self, now: Instant, outputs: &mut Outputs) {
        let Applied { revision, index, .. } = self.store.applied();
        let place = self.lessors_place();
        self.leases.let_on(self.decides_alone(), place, index);
        self.leases.answer(now, revision, place, &mut self.state.lessor, &mut self.proposals, outputs);
    }

    fn lessors_place(&self) -> LessorPlace {
        match self.node.raft.leader_id {
            _ if self.leads_nobody() => LessorPlace::Nowhere,
            _ if self.leadership.is_held() => LessorPlace::Here(self.leadership.term()),
            leader if leader == 0 || leader == self.settings.member_id => LessorPlace::Nowhere,
            leader => LessorPlace::At(leader),
        }
    }

    /// Shows what sessions may know of raft and of what is published.
    pub(super) fn show_gate(&self) {
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
        self.gate.set_learner(self.is_learner());
        let leads = raft.state == StateRole::Leader && applied.term == raft.term;
        self.gate.set_open(leads && self.decides_alone());
        let id = self.settings.member_id;
        let published = self.state.cluster.members.get(&id).is_some_and(|m| m.member_attributes.is_some());
        let follows = raft.state == StateRole::Follower && raft.leader_id != 0;
        if published && (leads || follows) && !self.state.cluster.version.is_empty() {
            self.gate.set_published();
        }
    }

    /// Whether the next drain has something to do without input.
    fn has_more(&self, now: Instant) -> bool {
        let has_entry = !self.committed.is_empty() && !self.awaits_commit();
        let applies = has_entry || self.executing.is_some() || self.may_sweep(now);
        self.may_propose()
            || (applies && self.may_apply())
            || self.may_revoke(now)
            || self.defragmentation.has_more()
    }

    /// Whether entries can be applied in the next turn.
    fn may_apply(&self) -> bool {
        let rests = self.awaits_quiet() && self.executing.is_none();
        !rests && !self.halted.is_halted() && !self.waits_for_spill() && !self.waits_for_checkpoint()
    }

    /// Whether a slice of garbage can be removed in this turn.
    pub(super) fn may_sweep(&self, now: Instant) -> bool {
        self.is_sweep_due() && !self.sweep.rests(now) && !self.checkpoints.is_crowded(&self.store.stats())
    }

    /// When a sweep may go on, which may have been long ago. None if no sweep is due.
    pub fn next_sweep(&self) -> Option<Instant> {
        self.is_sweep_due().then(|| self.sweep.rests_until())
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
