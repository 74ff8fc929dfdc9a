//! Committed entries become state: one transaction for all of a turn, then replies and events.
#![forbid(unsafe_code)]

use std::sync::Arc;

use prost::Message;
use raft::RawNode;
use raft::eraftpb::{ConfChange, Entry as LogEntry, EntryType};
use raft_proto::CONF_CHANGE_UPDATE_NODE;

use super::apply::{self, apply};
use super::port::{Output, Outputs};
use super::replica::{Replica, lowest};
use super::tail::Tail;
use crate::btree::{Applied, Read};
use crate::cluster::cost::cost;
use crate::limits::{CATCHUP_BYTES_MAX, TAIL_BYTES_MAX};
use crate::mvcc::compact;
use crate::request::{Entry, Request};
use crate::response::Response;
use crate::stdx::time::Instant;

impl Replica {
    /// Applies what is committed and removes a slice of garbage, in one transaction.
    pub(super) fn apply_committed(&mut self, now: Instant, outputs: &mut Outputs) {
        let sweep = self.is_sweep_due();
        if self.committed.is_empty() && !sweep {
            return;
        }
        let count = self.committed.len().min(self.apply_entries_max);
        let entries: Vec<LogEntry> = self.committed.drain(..count).collect();
        let mut told = Vec::with_capacity(2 * count);
        // A compaction among these entries is not published yet: a reader may still pin below it.
        let published = self.store.applied().compact_revision;
        let mut grown = false;
        let mut txn = self.store.write();
        for entry in &entries {
            let before = txn.applied();
            assert_eq!(entry.index, before.index + 1, "entries are applied one after the other");
            match entry.entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => {
                    let command = Entry::decode(entry.data.clone()).unwrap_or_else(|error| {
                        panic!(
                            "log entry {} cannot be applied: {error}; it was written by another version: start the \
                             member with that version, or restore it from a snapshot",
                            entry.index
                        )
                    });
                    let ticket = self.proposals.answer(command.id);
                    let expiry = ticket.is_none()
                        && self.revoking > 0
                        && matches!(command.request, Request::LeaseRevoke(_));
                    self.revoking -= usize::from(expiry);
                    let apply::Applied { reply, events, ops } =
                        apply(&mut txn, &mut self.state, now, &command.request, ticket.is_some());
                    if let Ok(Response::Compact { compacted, .. }) = &reply {
                        self.digests.queue(entry.index, *compacted, before.compact_revision);
                    }
                    self.tally.count(&command.request, &reply, &ops, expiry);
                    match &command.request {
                        Request::Alarm(_) => self.alarming = 0,
                        Request::LeaseCheckpoint(request) => {
                            request.checkpoints.iter().for_each(|lease| _ = self.clearing.remove(&lease.id));
                        }
                        _ => {}
                    }
                    grown |= reply.is_ok() && cost(&command.request) > 0;
                    if let Some(batch) = events {
                        told.push(Output::Publish(Arc::new(batch)));
                    }
                    match (ticket, reply) {
                        (Some(ticket), Ok(Response::Compact { revision, compacted, physical: true })) => {
                            let response = Response::Compact { revision, compacted, physical: true };
                            self.sweeping.push((compacted, ticket, response));
                        }
                        (Some(ticket), result) => told.push(Output::Reply { ticket, result }),
                        (None, _) => {}
                    }
                }
                EntryType::EntryConfChange => {
                    // What nobody can read and what the rules reject changes nothing, here as on every other member.
                    let change = ConfChange::decode(entry.data.clone()).unwrap_or_default();
                    if let Ok(judged) = self.state.cluster.judge(&change)
                        && takes_effect(&mut self.node, &change)
                    {
                        self.state.cluster.change(&mut txn, judged);
                    }
                }
                EntryType::EntryConfChangeV2 => {
                    panic!("log entry {} changes several members at once, which nobody proposes", entry.index)
                }
            }
            let after = txn.applied();
            txn.set_applied(Applied { index: entry.index, term: entry.term, ..after });
        }
        self.tally.sweeps += u64::from(sweep);
        let swept = if sweep {
            let pinned = lowest(self.pins.lowest(), self.digests.pin());
            compact::sweep(&mut txn, lowest(pinned, Some(published)), self.sweep_slice)
        } else {
            compact::Swept::default()
        };
        txn.commit();
        self.checkpoints.applied(now);
        if grown {
            self.raise_alarm_if_full();
        }
        if let Some(last) = entries.last() {
            self.node.advance_apply_to(last.index);
            self.trim_tail();
        }
        outputs.append(&mut told);
        self.swept += swept.removed as u64;
        self.tell_swept(outputs);
    }

    fn tell_swept(&mut self, outputs: &mut Outputs) {
        let applied = self.store.applied();
        for (_, ticket, response) in self.sweeping.extract_if(.., |waits| waits.0 <= applied.swept_revision) {
            outputs.push(Output::Reply { ticket, result: Ok(response) });
        }
        if applied.swept_revision < applied.compact_revision {
            return;
        }
        if self.swept_told < applied.compact_revision {
            self.swept_told = applied.compact_revision;
            let removed = std::mem::take(&mut self.swept);
            outputs.push(Output::Compacted { revision: applied.compact_revision, removed });
        }
    }

    /// Keeps in memory what a lagging member may need, within bounds.
    fn trim_tail(&mut self) {
        let applied = self.store.applied().index;
        let kept = if self.is_sole_voter() { 0 } else { self.settings.catchup_entries };
        let tail = self.node.mut_store();
        if tail.len() as u64 > 2 * kept + 1024 || tail.bytes() > TAIL_BYTES_MAX {
            tail.compact(applied.saturating_sub(kept));
            tail.shrink(applied, CATCHUP_BYTES_MAX);
        }
    }
}

/// Has raft take part in a change that the rules allow. False if raft cannot: nobody may remove the last voter.
fn takes_effect(node: &mut RawNode<Tail>, change: &ConfChange) -> bool {
    change.change_type == CONF_CHANGE_UPDATE_NODE || node.apply_conf_change(change).is_ok()
}
