//! What a member says of itself on the HTTP/1.1 endpoints.
#![forbid(unsafe_code)]

use std::rc::Rc;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, ready};
use serde_json::json;

use super::{Session, observer};
use crate::btree::Read;
use crate::cluster::members::cluster_version;
use crate::cluster::{membership, stored};
use crate::config::ETCD_VERSION;
use crate::error::Error;
use crate::proto::etcdserverpb::{AlarmMember, AlarmType};
use crate::replica::read_gate::ReadGate;
use crate::server::admin::{AdminSource, Versions};
use crate::server::io::clock;
use crate::server::metrics;
use crate::server::session::key_count;
use crate::snapshot::buckets::storage_version;

/// A session core's view of the member.
pub struct MemberHealth(pub Rc<Session>);

/// The alarms that are raised, as the store has them.
pub fn alarms(session: &Session) -> Vec<AlarmMember> {
    // A record that cannot be read is damage, which is an alarm itself.
    let damaged = |_| vec![AlarmMember { member_id: 0, alarm: AlarmType::Corrupt as i32 }];
    session.view(|view| stored::alarms(view.read())).unwrap_or_else(damaged)
}

/// Whether this member is a learner, as the published state has it.
///
/// # Errors
/// When the stored member cannot be read.
pub fn is_learner(session: &Session) -> Result<bool, Error> {
    session.view(|view| learner_in(view.read(), session.member.member_id))
}

/// Whether `id` is a learner. Who is not a member, or not any more, is none.
fn learner_in(read: &impl Read, id: u64) -> Result<bool, Error> {
    Ok(stored::member(read, id)?.is_some_and(|member| membership::is_learner(&member)))
}

impl AdminSource for MemberHealth {
    fn alarms(&self) -> Vec<&'static str> {
        let name = |alarm: &AlarmMember| match alarm.alarm() {
            AlarmType::Nospace => "NOSPACE",
            AlarmType::Corrupt => "CORRUPT",
            AlarmType::None => "UNKNOWN",
        };
        alarms(&self.0).iter().map(name).collect()
    }

    fn has_leader(&self) -> bool {
        self.0.gate().leader() != 0
    }

    fn is_learner(&self) -> bool {
        // A member that cannot be read is damage, for which there is a check of its own.
        is_learner(&self.0).unwrap_or(false)
    }

    fn log_lacks_room(&self) -> bool {
        self.0.log_lacks_room()
    }

    fn store_lacks_room(&self) -> bool {
        self.0.store_lacks_room()
    }

    fn raft_status(&self) -> serde_json::Value {
        raft_status(self.0.gate(), self.0.member.member_id)
    }

    fn serializable_read(&self) -> LocalBoxFuture<'static, Result<(), String>> {
        let asked = clock::now();
        // A look at one key of the published state. A page of the store file that fails its checksum ends the process.
        let read = self.0.view(|view| view.find(b"health", view.revision()));
        observer::probe(&self.0, asked, read.is_ok());
        ready(read.map(drop).map_err(|error| error.message().to_owned())).boxed_local()
    }

    fn linearizable_read(&self) -> LocalBoxFuture<'static, Result<(), String>> {
        let session = self.0.clone();
        async move {
            let asked = clock::now();
            let read = session.read_barrier().await.map_err(|status| status.message.into_owned());
            observer::probe(&session, asked, read.is_ok());
            read
        }
        .boxed_local()
    }

    fn versions(&self) -> Versions {
        let cluster = self.0.view(|view| cluster_version(view.read()));
        let storage = storage_version(cluster.as_deref().unwrap_or_default());
        Versions { server: ETCD_VERSION.to_owned(), cluster, storage: storage.map(str::to_owned) }
    }

    fn metrics(&self) -> LocalBoxFuture<'static, String> {
        let session = &self.0;
        key_count::learn_keys(session);
        let cluster_version = session.view(|view| cluster_version(view.read()));
        let short =
            cluster_version.as_deref().and_then(|version| version.rsplit_once('.')).map(|(short, _)| short);
        let text = metrics::scrape(&metrics::Sources {
            cores: &session.member.metrics,
            rpc: &session.member.rpc,
            member_id: session.member.member_id,
            cluster_version: short,
            gates: &session.member.gates,
            contacts: &session.member.contacts,
        });
        ready(text).boxed_local()
    }

    fn count_check(&self, endpoint: &'static str, check: &'static str, passed: bool) {
        self.0.metrics.checks.count(endpoint, check, passed);
    }

    fn count_health(&self, healthy: bool) {
        let counter = if healthy { &self.0.metrics.health_success } else { &self.0.metrics.health_failures };
        counter.inc();
    }
}

/// Raft's state in the form of etcd's. Progress is that of a sole voter alone, which commits what its own log holds.
fn raft_status(gate: &ReadGate, id: u64) -> serde_json::Value {
    let (committed, hex) = (gate.committed(), |id: u64| format!("{id:x}"));
    let progress = match gate.is_open() {
        true => json!({ hex(id): { "match": committed, "next": committed + 1, "state": "StateReplicate" } }),
        false => json!({}),
    };
    json!({
        "id": hex(id),
        "term": gate.term(),
        "vote": hex(gate.vote()),
        "commit": committed,
        "lead": hex(gate.leader()),
        "raftState": gate.role().name(),
        "applied": gate.applied(),
        "progress": progress,
        "leadtransferee": "0",
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::btree::{Store, Tree};
    use crate::proto::membershippb::{Member, RaftAttributes};

    #[test]
    fn a_learner_is_who_the_store_says_it_is() {
        let mut store = Store::in_memory();
        let mut txn = store.write();
        for (id, is_learner) in [(7u64, true), (8, false)] {
            let raft_attributes = Some(RaftAttributes { is_learner, ..RaftAttributes::default() });
            let stored = Member { id, raft_attributes, ..Member::default() };
            txn.put(Tree::Member, &id.to_be_bytes(), &stored.encode_to_vec());
        }
        txn.put(Tree::Member, &9u64.to_be_bytes(), b"");
        txn.put(Tree::Member, &10u64.to_be_bytes(), b"\xff");
        let found: Vec<_> = (6..=10).map(|id| learner_in(&txn, id)).collect();
        assert_eq!(found, [Ok(false), Ok(true), Ok(false), Ok(false), Err(Error::Corrupt)]);
    }

    #[test]
    fn rafts_status_has_the_fields_of_etcds() {
        let status = raft_status(&ReadGate::default(), 0x8e9e_05c5_2164_694d);
        assert_eq!(
            status,
            json!({
                "id": "8e9e05c52164694d", "term": 0, "vote": "0", "commit": 0, "lead": "0",
                "raftState": "StateFollower", "applied": 0, "progress": {}, "leadtransferee": "0",
            })
        );
    }
}
