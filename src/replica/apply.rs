//! Applying one committed entry: a flat match, total, the only place where store, leases, alarms and cluster
//! facts meet.
//!
//! Whatever a client can do wrong is part of the reply and changes nothing. Everything an entry changes is in the
//! one transaction that the caller commits together with the entry's index.
#![forbid(unsafe_code)]

use crate::btree::{Read, WriteTxn};
use crate::cluster::{Alarms, Cluster};
use crate::error::Error;
use crate::lease::{self, Lessor};
use crate::mvcc::answer_room::AnswerRoom;
use crate::mvcc::attached::lease_keys;
use crate::mvcc::txn::Ops;
use crate::mvcc::view::View;
use crate::mvcc::write::Writer;
use crate::mvcc::{EventBatch, compact, range, txn};
use crate::proto::etcdserverpb::PutRequest;
use crate::request::Request;
use crate::response::{Header, Response};
use crate::stdx::time::Instant;

/// What apply keeps in memory beside the store. All of it can be read back from there.
pub struct State {
    /// Leases and when they expire.
    pub lessor: Lessor,
    /// Raised alarms.
    pub alarms: Alarms,
    /// Facts about the cluster.
    pub cluster: Cluster,
}

/// What applying an entry amounts to.
pub struct Applied {
    /// For the client that waits, if one does.
    pub reply: Result<Response, Error>,
    /// For watchers.
    pub events: Option<EventBatch>,
    /// What was read and written.
    pub ops: Ops,
}

impl State {
    /// The state that belongs to a store.
    pub fn restore(read: &impl Read, lease_ttl_min: i64, secret: u64) -> Self {
        Self {
            lessor: Lessor::restore(lease_ttl_min, secret, read),
            alarms: Alarms::restore(read),
            cluster: Cluster::restore(read),
        }
    }
}

/// Applies one entry. `reply_wanted` is false where no client waits for it: then reads inside transactions are
/// skipped, and the reply is of no use.
pub fn apply(
    txn: &mut WriteTxn<'_>,
    state: &mut State,
    now: Instant,
    request: &Request,
    reply_wanted: bool,
) -> Applied {
    if let Some(error) = state.alarms.refuse(request) {
        return Applied { reply: Err(error), events: None, ops: Ops::default() };
    }
    let mut events = None;
    let mut ops = Ops::default();
    let revision = txn.applied().revision;
    let reply = match request {
        Request::Range(request) => {
            ops.ranges = 1;
            let none = Header::default();
            range::answer(&View::new(&*txn), &none, request).map(|answer| {
                // Field 1 is the header that the caller will put there itself.
                Response::Range { revision, body: answer.slice(none.field_len(revision)..) }
            })
        }
        Request::Put(request) => put(txn, state, request).map(|(response, batch)| {
            ops.put(request);
            events = batch;
            response
        }),
        Request::DeleteRange(request) => {
            ops.delete(request);
            let mut writer = Writer::begin(txn);
            let mut room = AnswerRoom::default();
            let deleted = writer.delete_range(request, &mut room);
            let revision = writer.revision();
            events = writer.finish();
            let prev_kvs = deleted.prev_kvs.freeze();
            Ok(match room.overlong() {
                None => Response::DeleteRange { revision, deleted: deleted.keys, prev_kvs },
                Some(len) => Response::Overlong { revision, len },
            })
        }
        Request::Txn(request) => {
            let exists = |id| state.lessor.exists(id);
            txn::apply(txn, request, &exists, reply_wanted).and_then(|(outcome, batch)| {
                ops = outcome.ops;
                events = batch;
                outcome.response
            })
        }
        Request::Compaction(request) => compact::mark(txn, request.revision).map(|()| {
            // etcd reads a key to learn the revision.
            ops.ranges = 1;
            Response::Compact { revision, compacted: request.revision, physical: request.physical }
        }),
        Request::LeaseGrant(request) => state
            .lessor
            .grant(txn, now, request.id, request.ttl)
            .map(|ttl| Response::LeaseGrant { revision, id: request.id, ttl })
            .map_err(lease_error),
        Request::LeaseRevoke(request) => {
            let keys = lease_keys(&*txn, request.id);
            state.lessor.revoke(txn, request.id).map_err(lease_error).map(|()| {
                ops.deletes = keys.len() as u32;
                let mut writer = Writer::begin(txn);
                writer.delete_keys(&keys);
                let revision = writer.revision();
                events = writer.finish();
                Response::LeaseRevoke { revision }
            })
        }
        Request::LeaseCheckpoint(request) => {
            for checkpoint in &request.checkpoints {
                state.lessor.checkpoint(txn, checkpoint.id, checkpoint.remaining_ttl);
            }
            Ok(Response::LeaseCheckpoint { revision })
        }
        Request::Alarm(request) => Ok(Response::Alarm { revision, alarms: state.alarms.apply(txn, request) }),
        Request::ClusterVersionSet(request) => {
            state.cluster.set_version(txn, &request.ver);
            Ok(Response::Done)
        }
        Request::ClusterMemberAttrSet(request) => {
            let attributes = request.member_attributes.clone().unwrap_or_default();
            state.cluster.set_attributes(txn, request.member_id, attributes);
            Ok(Response::Done)
        }
        Request::DowngradeInfoSet(request) => {
            let target = if request.enabled { request.ver.as_str() } else { "" };
            state.cluster.set_downgrade(txn, request.enabled, target);
            Ok(Response::Done)
        }
        Request::DowngradeVersionTest => Ok(Response::Done),
    };
    Applied { reply, events, ops }
}

fn put(
    txn: &mut WriteTxn<'_>,
    state: &State,
    request: &PutRequest,
) -> Result<(Response, Option<EventBatch>), Error> {
    let mut writer = Writer::begin(txn);
    txn::check_put(&writer.view(), request, &|id| state.lessor.exists(id))?;
    let prev_kv = writer.put(request);
    let revision = writer.revision();
    Ok((Response::Put { revision, prev_kv }, writer.finish()))
}

fn lease_error(error: lease::Error) -> Error {
    match error {
        lease::Error::Exists => Error::LeaseExists,
        lease::Error::NotFound => Error::LeaseNotFound,
        lease::Error::TtlTooLarge => Error::LeaseTtlTooLarge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;
    use crate::mvcc::write::initialize;
    use crate::proto::etcdserverpb::alarm_request::AlarmAction;
    use crate::proto::etcdserverpb::request_op::Request as Op;
    use crate::proto::etcdserverpb::{
        AlarmMember, AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest,
        LeaseRevokeRequest, RequestOp, TxnRequest,
    };
    use crate::proto::membershippb::{
        Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest, DowngradeInfoSetRequest,
        RaftAttributes,
    };

    /// Whether it is a deletion, and the key.
    type Change = (bool, Vec<u8>);

    struct Member {
        store: Store,
        state: State,
    }

    impl Member {
        fn new() -> Self {
            let mut store = Store::in_memory();
            let mut txn = store.write();
            initialize(&mut txn);
            let state = State::restore(&txn, 2, 1);
            txn.commit();
            Self { store, state }
        }

        fn apply(&mut self, request: Request) -> Result<Response, Error> {
            self.apply_with_events(request).0
        }

        fn apply_with_events(&mut self, request: Request) -> (Result<Response, Error>, Vec<Change>) {
            let mut txn = self.store.write();
            let applied = apply(&mut txn, &mut self.state, Instant::default(), &request, true);
            txn.commit();
            let events = applied.events.map_or(Vec::new(), |batch| batch.events);
            (applied.reply, events.iter().map(|event| (event.delete, event.key.to_vec())).collect())
        }
    }

    fn put(key: &'static str, lease: i64) -> Request {
        Request::Put(PutRequest { key: key.into(), lease, ..PutRequest::default() })
    }

    fn grant(id: i64) -> Request {
        Request::LeaseGrant(LeaseGrantRequest { id, ttl: 60 })
    }

    fn alarm(action: AlarmAction, alarm: AlarmType) -> Request {
        Request::Alarm(AlarmRequest { action: action as i32, member_id: 7, alarm: alarm as i32 })
    }

    #[test]
    fn a_revoked_lease_takes_its_keys_along_in_one_revision_in_key_order() {
        let mut member = Member::new();
        assert_eq!(member.apply(put("a", 5)), Err(Error::LeaseNotFound));
        assert_eq!(member.apply(grant(5)), Ok(Response::LeaseGrant { revision: 1, id: 5, ttl: 60 }));
        for key in ["b", "a", "d", "c"] {
            member.apply(put(key, 5)).unwrap();
        }
        // A put without a lease detaches, a deletion too.
        member.apply(put("d", 0)).unwrap();
        let delete = DeleteRangeRequest { key: "c".into(), ..DeleteRangeRequest::default() };
        member.apply(Request::DeleteRange(delete)).unwrap();
        let revoke = || Request::LeaseRevoke(LeaseRevokeRequest { id: 5 });
        let (reply, events) = member.apply_with_events(revoke());
        assert_eq!(reply, Ok(Response::LeaseRevoke { revision: 8 }));
        assert_eq!(events, [(true, b"a".to_vec()), (true, b"b".to_vec())]);
        assert_eq!(member.apply(revoke()), Err(Error::LeaseNotFound));
        member.apply(grant(6)).unwrap();
        let empty = Request::LeaseRevoke(LeaseRevokeRequest { id: 6 });
        assert_eq!(member.apply(empty), Ok(Response::LeaseRevoke { revision: 8 }), "no key, no revision");
    }

    #[test]
    fn alarms_forbid_what_etcd_forbids_and_survive_a_restart() {
        let mut member = Member::new();
        member.apply(grant(1)).unwrap();
        member.apply(put("a", 1)).unwrap();
        let raised = vec![AlarmMember { member_id: 7, alarm: AlarmType::Nospace as i32 }];
        let reply = member.apply(alarm(AlarmAction::Activate, AlarmType::Nospace));
        assert_eq!(reply, Ok(Response::Alarm { revision: 2, alarms: raised.clone() }));
        let mut reader = member.store.readers().register();
        member.state = State::restore(&reader.snapshot(), 2, 1);

        assert_eq!(member.apply(put("b", 0)), Err(Error::NoSpace));
        assert_eq!(member.apply(grant(2)), Err(Error::NoSpace));
        let Request::Put(inner) = put("b", 0) else { unreachable!() };
        let op = |request| RequestOp { request: Some(request) };
        let writing = TxnRequest { failure: vec![op(Op::RequestPut(inner))], ..TxnRequest::default() };
        assert_eq!(member.apply(Request::Txn(writing.clone())), Err(Error::NoSpace), "either branch counts");
        let nested = TxnRequest { success: vec![op(Op::RequestTxn(writing))], ..TxnRequest::default() };
        assert_eq!(member.apply(Request::Txn(nested)), Err(Error::NoSpace));
        let delete = || DeleteRangeRequest { key: "a".into(), ..DeleteRangeRequest::default() };
        let deleting =
            TxnRequest { success: vec![op(Op::RequestDeleteRange(delete()))], ..Default::default() };
        assert!(member.apply(Request::Txn(deleting)).is_ok());
        assert!(member.apply(Request::DeleteRange(delete())).is_ok());

        member.apply(alarm(AlarmAction::Activate, AlarmType::Corrupt)).unwrap();
        let revoke = || Request::LeaseRevoke(LeaseRevokeRequest { id: 1 });
        let compact = Request::Compaction(CompactionRequest { revision: 2, physical: false });
        for request in [put("b", 0), Request::DeleteRange(delete()), compact, revoke()] {
            assert_eq!(member.apply(request), Err(Error::Corrupt));
        }
        for kind in [AlarmType::Corrupt, AlarmType::Nospace] {
            assert!(member.apply(alarm(AlarmAction::Deactivate, kind)).is_ok());
        }
        assert_eq!(
            member.apply(alarm(AlarmAction::Deactivate, AlarmType::Nospace)),
            Ok(Response::Alarm { revision: 3, alarms: Vec::new() })
        );
        assert!(member.apply(put("b", 0)).is_ok());
        assert!(member.apply(revoke()).is_ok());
    }

    /// etcd 3.7.3 keeps such an alarm, lists it, calls the member unhealthy, refuses nothing because of it, and
    /// clears it like any other.
    #[test]
    fn an_alarm_of_unknown_type_is_kept_and_forbids_nothing() {
        let mut member = Member::new();
        let alarm = |action| Request::Alarm(AlarmRequest { action: action as i32, member_id: 0, alarm: 77 });
        let raised = vec![AlarmMember { member_id: 0, alarm: 77 }];
        let listed = Ok(Response::Alarm { revision: 1, alarms: raised });
        assert_eq!(member.apply(alarm(AlarmAction::Activate)), listed);
        let mut reader = member.store.readers().register();
        member.state = State::restore(&reader.snapshot(), 2, 1);
        assert_eq!(member.apply(alarm(AlarmAction::Get)), listed);
        assert!(member.apply(put("a", 0)).is_ok());
        assert!(member.apply(alarm(AlarmAction::Deactivate)).is_ok());
        assert_eq!(
            member.apply(alarm(AlarmAction::Get)),
            Ok(Response::Alarm { revision: 2, alarms: Vec::new() })
        );
    }

    #[test]
    fn facts_about_the_cluster_are_read_back() {
        let mut member = Member::new();
        let mut txn = member.store.write();
        let attributes = RaftAttributes { peer_urls: vec!["http://h:1".into()], is_learner: false };
        let cluster = &mut member.state.cluster;
        for id in [1, 2] {
            let raft_attributes = Some(attributes.clone());
            let joined = crate::proto::membershippb::Member { id, raft_attributes, member_attributes: None };
            cluster.set_member(&mut txn, joined);
        }
        cluster.remove_member(&mut txn, 2);
        txn.commit();
        for member_id in [1, 2] {
            let published = Attributes { name: "m".into(), client_urls: vec!["http://h:2".into()] };
            let set = ClusterMemberAttrSetRequest { member_id, member_attributes: Some(published) };
            assert_eq!(member.apply(Request::ClusterMemberAttrSet(set)), Ok(Response::Done));
        }
        let version = ClusterVersionSetRequest { ver: "3.7.0".into() };
        member.apply(Request::ClusterVersionSet(version)).unwrap();
        let downgrade = DowngradeInfoSetRequest { enabled: true, ver: "3.6.0".into() };
        member.apply(Request::DowngradeInfoSet(downgrade)).unwrap();

        let mut reader = member.store.readers().register();
        let restored = State::restore(&reader.snapshot(), 2, 1).cluster;
        assert_eq!(restored, member.state.cluster);
        assert_eq!(restored.version, "3.7.0");
        assert_eq!(restored.downgrade_target.as_deref(), Some("3.6.0"));
        assert_eq!(restored.members.keys().collect::<Vec<_>>(), [&1], "what was removed stays removed");
        assert_eq!(restored.members[&1].member_attributes.as_ref().unwrap().name, "m");
    }
}
