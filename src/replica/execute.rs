//! One committed entry after the other: what it changes goes into the draft, what is to be told of it waits for the
//! draft's commit.
//!
//! ```text
//!   committed ──▶ execute_next ──┬─▶ done: Draft has what to tell           any number of small entries per draft
//!                                ├─▶ may take long, draft not empty: it is the first of the next draft
//!                                └─▶ the turn is over: Executing::work, and the draft, wait for the next turn
//! ```
//!
//! Only an entry that is alone in its draft is ever suspended, and it changes leases and alarms in memory at its end.
//! So whatever is asked of a member in between is answered as it was before the entry.
#![forbid(unsafe_code)]

use std::sync::Arc;

use prost::Message;
use raft::RawNode;
use raft::eraftpb::{ConfChange, Entry as LogEntry, EntryType};
use raft_proto::CONF_CHANGE_UPDATE_NODE;

use super::apply::{self, Damaged, Progress, Slice, Work};
use super::halt::{damaged, unknown};
use super::port::{Output, Outputs, Ticket};
use super::replica::Replica;
use super::tail::Tail;
use crate::btree::{Applied, Read};
use crate::cluster::cost::cost;
use crate::cluster::membership::Change;
use crate::error::Error;
use crate::limits::TOLD_BYTES_MAX;
use crate::request::{Entry, Request};
use crate::response::Response;
use crate::stdx::time::Instant;

/// What entries came to whose changes are in one draft.
#[derive(Default)]
pub(super) struct Draft {
    /// Index of the last of them.
    pub(super) last: Option<u64>,
    /// Replies and events, to be told once the draft is published.
    pub(super) told: Vec<Output>,
    /// Bytes of pairs in the replies.
    told_bytes: usize,
    /// The store may have grown by what was not in the log at the start.
    pub(super) grown: bool,
    /// The draft has a part of an entry that cannot be applied.
    pub(super) is_spoilt: bool,
}

/// A command under way.
pub(super) struct Executing {
    pub(super) index: u64,
    term: u64,
    command: Entry,
    /// Who waits for it.
    pub(super) ticket: Option<Ticket>,
    /// It revokes a lease that this member found expired.
    expiry: bool,
    /// What is left of it; none if it has not begun.
    pub(super) work: Option<Work>,
}

/// What is wrong with an entry that changes several members at once.
const JOINT_CHANGE: &str = "it changes several members at once, which no version of etcd proposes";

/// Why this version cannot apply an entry, and what to do; none if it can.
pub(super) fn refuse(entry: &LogEntry) -> Option<String> {
    flaw(entry).map(|why| unknown(entry, &why))
}

/// What is wrong with an entry that this version cannot apply.
pub(super) fn flaw(entry: &LogEntry) -> Option<String> {
    match entry.entry_type() {
        EntryType::EntryNormal if entry.data.is_empty() => None,
        EntryType::EntryNormal => Entry::decode(entry.data.clone()).err().map(|error| error.to_string()),
        EntryType::EntryConfChange => None,
        EntryType::EntryConfChangeV2 => Some(JOINT_CHANGE.to_owned()),
    }
}

fn decode(entry: &LogEntry) -> Result<Entry, String> {
    Entry::decode(entry.data.clone()).map_err(|error| unknown(entry, &error.to_string()))
}

impl Replica {
    /// Whether the draft of an entry waits for the next turn.
    pub fn is_suspended(&self) -> bool {
        self.executing.as_ref().is_some_and(|executing| executing.work.is_some())
    }

    /// Executes the next entry in the suspended draft, or goes on with the one under way. False if the draft takes no
    /// more: nothing is committed, the entry wants a draft of its own, or the slice is over.
    pub(super) fn execute_next(&mut self, now: Instant, slice: &mut Slice, draft: &mut Draft) -> bool {
        if let Some(executing) = self.executing.take() {
            return self.execute(now, executing, slice, draft);
        }
        if self.awaits_commit() {
            return false;
        }
        let Some(entry) = self.committed.pop_front() else { return false };
        assert_eq!(entry.index, self.draft_applied().index + 1, "entries are applied one after the other");
        match entry.entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => {}
            EntryType::EntryNormal => {
                let command = match decode(&entry) {
                    Ok(command) => command,
                    Err(reason) => return self.halt(reason),
                };
                let ticket = self.proposals.answer(command.id);
                let expiry = ticket.is_none()
                    && matches!(command.request, Request::LeaseRevoke(_))
                    && self.leases.take_expiry(command.id);
                let (index, term) = (entry.index, entry.term);
                let executing = Executing { index, term, command, ticket, expiry, work: None };
                return self.execute(now, executing, slice, draft);
            }
            EntryType::EntryConfChange => self.change_membership(&entry, draft),
            EntryType::EntryConfChangeV2 => return self.halt(unknown(&entry, JOINT_CHANGE)),
        }
        self.pass(entry.index, entry.term, draft);
        true
    }

    /// Applies nothing more: this member would differ from those that can apply the entry. False, as the draft takes no
    /// more.
    fn halt(&mut self, reason: String) -> bool {
        self.halted.halt(reason);
        false
    }

    /// Says once that the member is to stop.
    pub(super) fn tell_halt(&mut self, outputs: &mut Outputs) {
        if let Some(reason) = self.halted.take_due() {
            outputs.push(Output::Halt { reason });
        }
    }

    /// One slice of a command; true once it is done.
    fn execute(
        &mut self,
        now: Instant,
        mut executing: Executing,
        slice: &mut Slice,
        draft: &mut Draft,
    ) -> bool {
        let mut txn = self.store.resume();
        let compacted = txn.applied().compact_revision;
        let request = &executing.command.request;
        let wanted = executing.ticket.is_some();
        let executed = match executing.work.take() {
            Some(work) => apply::resume(work, &mut txn, &mut self.state, request, slice),
            None if draft.last.is_none() => {
                apply::begin(&mut txn, &mut self.state, now, request, wanted, slice)
            }
            None if apply::is_within(&txn, request, slice.budget) => {
                let mut whole = Slice { budget: usize::MAX, ..*slice };
                let executed = apply::begin(&mut txn, &mut self.state, now, request, wanted, &mut whole);
                slice.budget = slice.budget.saturating_sub(usize::MAX - whole.budget);
                executed
            }
            None => {
                txn.suspend();
                self.executing = Some(executing);
                return false;
            }
        };
        txn.suspend();
        match executed {
            Err(Damaged) => {
                draft.is_spoilt = true;
                self.halt(damaged(&format!("log entry {} cannot be applied", executing.index)))
            }
            Ok(Progress::Pending(work)) => {
                assert!(draft.last.is_none(), "an entry that takes several turns is alone in its draft");
                executing.work = Some(work);
                self.executing = Some(executing);
                false
            }
            Ok(Progress::Done(applied)) => {
                let (index, term) = (executing.index, executing.term);
                self.tell(executing, applied, compacted, draft);
                if draft.told_bytes > TOLD_BYTES_MAX {
                    slice.budget = 0;
                }
                self.pass(index, term, draft);
                true
            }
        }
    }

    /// What an executed command leads to. The compaction before it was at `previous`.
    fn tell(&mut self, executing: Executing, applied: apply::Applied, previous: i64, draft: &mut Draft) {
        let Executing { index, command, ticket, expiry, .. } = executing;
        let apply::Applied { reply, events, ops } = applied;
        if let Ok(Response::Compact { compacted, .. }) = &reply {
            self.digests.queue(index, *compacted, previous);
        }
        self.tally.count(&command.request, &reply, &ops, expiry);
        match &command.request {
            Request::ClusterVersionSet(_)
            | Request::ClusterMemberAttrSet(_)
            | Request::DowngradeInfoSet(_) => {
                self.cluster_changes += 1;
            }
            Request::Alarm(_) => self.leadership.on_alarm_applied(),
            Request::LeaseCheckpoint(request) => {
                request.checkpoints.iter().for_each(|lease| self.leases.on_checkpoint(lease.id));
            }
            _ => {}
        }
        // What follows in a log that is replayed may have made room, and an operator may have cleared the alarm.
        draft.grown |= !self.digests.is_replay(index) && reply.is_ok() && cost(&command.request) > 0;
        if let Some(batch) = events {
            draft.told.push(Output::Publish(Arc::new(batch)));
        }
        match (ticket, reply) {
            (Some(ticket), Ok(response @ Response::Compact { compacted, physical: true, .. })) => {
                self.sweep.wait(compacted, ticket, response);
            }
            (Some(ticket), result) => {
                draft.told_bytes += result.as_ref().map_or(0, Response::pairs_len);
                draft.told.push(Output::Reply { ticket, result });
            }
            (None, _) => {}
        }
    }

    fn change_membership(&mut self, entry: &LogEntry, draft: &mut Draft) {
        // What nobody can read and what the rules reject changes nothing, here as on every other member.
        let change = ConfChange::decode(entry.data.clone()).unwrap_or_default();
        let judged = self.state.cluster.judge(&change, self.settings.rules.learners_max);
        let result = judged.map_err(Error::from).and_then(|judged| {
            if !takes_effect(&mut self.node, &change) {
                return Err(Error::MemberNotEnoughStarted);
            }
            self.shared = self.node.raft.raft_log.last_index();
            if judged == Change::Remove(self.settings.member_id) {
                draft.told.push(Output::Removed);
                self.leave(entry.index);
            }
            let mut txn = self.store.resume();
            self.state.cluster.change(&mut txn, judged);
            txn.suspend();
            self.cluster_changes += 1;
            Ok(self.members())
        });
        if let Some(ticket) = self.proposals.answer(change.id) {
            draft.told.push(Output::Reply { ticket, result });
        }
    }

    /// What the draft contains.
    fn draft_applied(&mut self) -> Applied {
        let txn = self.store.resume();
        let applied = txn.applied();
        txn.suspend();
        applied
    }

    /// The draft contains this entry.
    fn pass(&mut self, index: u64, term: u64, draft: &mut Draft) {
        let mut txn = self.store.resume();
        let applied = txn.applied();
        txn.set_applied(Applied { index, term, ..applied });
        txn.suspend();
        draft.last = Some(index);
    }
}

/// Has raft take part in a change that the rules allow. False if raft cannot: nobody may remove the last voter.
fn takes_effect(node: &mut RawNode<Tail>, change: &ConfChange) -> bool {
    if change.change_type == CONF_CHANGE_UPDATE_NODE {
        return true;
    }
    let Ok(conf_state) = node.apply_conf_change(change) else { return false };
    node.mut_store().set_members(conf_state);
    true
}
