//! What the two loops tell the metrics.
#![forbid(unsafe_code)]

use super::metrics::Core;
use super::session::Session;
use crate::replica::Replica;
use crate::replica::port::Output;
use crate::request::Response;

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
    core.store_used_bytes.set(store.file_bytes.saturating_sub(store.free_bytes) as i64);
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
