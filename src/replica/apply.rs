//! Applying one committed entry: a flat match, total, the only place where store, leases, alarms and cluster
//! facts meet.
//!
//! Whatever a client can do wrong is part of the reply and changes nothing. Everything an entry changes is in the
//! one transaction that the caller commits together with the entry's index.
//!
//! A small request can ask for much: to keep or to show long values that are stored, to delete many keys, or long ones.
//! What bounds it:
//!
//! | what is done | the budget of a slice pays for | memory |
//! |---|---|---|
//! | puts, also such that keep or show a value | each put, the bytes of pairs copied | pages, events, answer |
//! | deletions of keys, ranges, leases' keys | each key looked at, bytes of keys and of values shown | likewise |
//! | ranges in a transaction | each key looked at, bytes of pairs copied | answer |
//! | conditions | each key looked at, bytes of values compared | none |
//! | checkpoints of leases | each lease | none |
//! | a compaction | a mark; its sweep has slices of its own, by number and bytes | none |
//! | nested transactions | their operations | one byte for each |
//!
//! *Pages* go to the file before the entry goes on when they take `DRAFT_BYTES_MAX` ([`spill`](super::spill)). *Events*
//! beyond `EVENTS_PUBLISHED_MAX` or `EVENTS_PUBLISHED_BYTES_MAX` are dropped, and read from the store by whoever wants
//! them. Of an *answer* beyond `ANSWER_ASSEMBLED_BYTES_MAX` only the length is kept.
#![forbid(unsafe_code)]

use bytes::{Bytes, BytesMut};

use crate::btree::{Read, WriteTxn};
use crate::cluster::{Alarms, Cluster};
use crate::error::Error;
use crate::lease::{self, Lessor};
use crate::limits::EVENTS_PUBLISHED_MAX;
use crate::mvcc::answer_body::AnswerBody;
use crate::mvcc::answer_room::AnswerRoom;
use crate::mvcc::attached::first_lease_keys;
use crate::mvcc::txn::Ops;
use crate::mvcc::txn_write::TxnWrite;
use crate::mvcc::view::View;
use crate::mvcc::write::{CHANGE_COST, Deletion, Writer, Written};
use crate::mvcc::{EventBatch, compact, range, txn};
use crate::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseCheckpointRequest, PutRequest, RangeRequest, TxnRequest,
};
use crate::request::Request;
use crate::response::{Header, Response};
use crate::stdx::time::Instant;

/// A lease with fewer keys than this is revoked among other entries, if the turn's budget suffices.
const FEW_KEYS: usize = 64;

/// Likewise if its keys have no more bytes than this.
const FEW_KEYS_BYTES: usize = 64 << 10;

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
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn restore(read: &impl Read, lease_ttl_min: i64, secret: u64) -> Result<Self, Error> {
        Ok(Self {
            lessor: Lessor::restore(lease_ttl_min, secret, read).map_err(lease_error)?,
            alarms: Alarms::restore(read)?,
            cluster: Cluster::restore(read)?,
        })
    }
}

/// The store has a record that cannot be read, or lacks one that another is about. The transaction may have a part of
/// the entry, and has to be dropped: the member cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// What may be done before the turn ends.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// Index entries that may still be looked at, or as much else as takes about as long.
    pub budget: usize,
    /// [`EVENTS_PUBLISHED_MAX`], or a simulation's.
    pub events_max: usize,
}

/// How far an entry has come.
pub enum Progress {
    /// It is applied.
    Done(Applied),
    /// The slice was not enough.
    Pending(Work),
}

/// What is left of an entry. Its changes so far are in the transaction, which is suspended meanwhile; what [`State`]
/// has of leases and alarms is changed at the end.
pub enum Work {
    /// A DeleteRange.
    Delete(Box<DeleteWork>),
    /// A LeaseRevoke.
    Revoke(Written),
    /// A LeaseCheckpoint, from this lease on.
    Checkpoint(usize),
    /// A transaction.
    Txn(Box<TxnWrite>),
}

/// What is left of a DeleteRange.
pub struct DeleteWork {
    written: Written,
    deletion: Deletion,
    deleted: bool,
    prev_kvs: AnswerBody,
    room: AnswerRoom,
}

/// Whether a request surely takes no more than `budget`. One that may take more gets a transaction of its own, so that
/// nothing else waits to be published while it is suspended.
pub fn is_within(read: &impl Read, request: &Request, budget: usize) -> bool {
    match request {
        Request::DeleteRange(request) => request.range_end.is_empty(),
        Request::Txn(request) => txn::is_within(request, budget),
        Request::LeaseRevoke(request) => {
            let most = budget / CHANGE_COST;
            first_lease_keys(read, request.id, most.min(FEW_KEYS), FEW_KEYS_BYTES).is_all
        }
        Request::LeaseCheckpoint(request) => request.checkpoints.len() < budget / CHANGE_COST,
        _ => true,
    }
}

/// Applies one entry whole.
///
/// # Errors
/// When the store is damaged.
pub fn apply(
    txn: &mut WriteTxn<'_>,
    state: &mut State,
    now: Instant,
    request: &Request,
    reply_wanted: bool,
) -> Result<Applied, Damaged> {
    let mut slice = Slice { budget: usize::MAX, events_max: EVENTS_PUBLISHED_MAX };
    let mut progress = begin(txn, state, now, request, reply_wanted, &mut slice)?;
    loop {
        match progress {
            Progress::Done(applied) => return Ok(applied),
            Progress::Pending(work) => progress = resume(work, txn, state, request, &mut slice)?,
        }
    }
}

/// Begins to apply an entry. `reply_wanted` is false where no client waits for it: then reads are skipped, and the
/// reply is of no use.
///
/// # Errors
/// When the store is damaged.
pub fn begin(
    txn: &mut WriteTxn<'_>,
    state: &mut State,
    now: Instant,
    request: &Request,
    reply_wanted: bool,
    slice: &mut Slice,
) -> Result<Progress, Damaged> {
    if let Some(error) = state.alarms.refuse(request) {
        return Ok(done(Err(error)));
    }
    slice.budget = slice.budget.saturating_sub(CHANGE_COST);
    let revision = txn.applied().revision;
    Ok(match request {
        Request::Range(request) => range(txn, request, reply_wanted),
        Request::Put(request) => put(txn, state, request, slice)?,
        Request::DeleteRange(request) => DeleteWork::begin(txn, request, slice)?,
        Request::Txn(request) => {
            transact(TxnWrite::new(reply_wanted, slice.events_max), txn, state, request, slice)?
        }
        Request::Compaction(request) => compact(txn, request),
        Request::LeaseGrant(request) => {
            let granted = state.lessor.grant(txn, now, request.id, request.ttl).map_err(lease_error);
            done(granted.map(|ttl| Response::LeaseGrant { revision, id: request.id, ttl }))
        }
        Request::LeaseRevoke(request) if state.lessor.exists(request.id) => {
            let written = Writer::begin_with(txn, slice.events_max).pause();
            revoke(written, txn, state, request.id, slice)?
        }
        Request::LeaseRevoke(_) => done(Err(Error::LeaseNotFound)),
        Request::LeaseCheckpoint(request) => checkpoint(0, txn, state, request, slice),
        Request::Alarm(request) => {
            done(Ok(Response::Alarm { revision, alarms: state.alarms.apply(txn, request) }))
        }
        Request::ClusterVersionSet(request) => {
            state.cluster.set_version(txn, &request.ver);
            done(Ok(Response::Done))
        }
        Request::ClusterMemberAttrSet(request) => {
            let attributes = request.member_attributes.clone().unwrap_or_default();
            state.cluster.set_attributes(txn, request.member_id, attributes);
            done(Ok(Response::Done))
        }
        Request::DowngradeInfoSet(request) => {
            let target = if request.enabled { request.ver.as_str() } else { "" };
            state.cluster.set_downgrade(txn, request.enabled, target);
            done(Ok(Response::Done))
        }
        Request::DowngradeVersionTest => done(Ok(Response::Done)),
    })
}

/// Goes on with an entry. The request is the one that the work began with.
///
/// # Errors
/// When the store is damaged, or the work is that of another kind of request.
pub fn resume(
    work: Work,
    txn: &mut WriteTxn<'_>,
    state: &mut State,
    request: &Request,
    slice: &mut Slice,
) -> Result<Progress, Damaged> {
    match (work, request) {
        (Work::Delete(work), Request::DeleteRange(request)) => work.proceed(txn, request, slice),
        (Work::Revoke(written), Request::LeaseRevoke(request)) => {
            revoke(written, txn, state, request.id, slice)
        }
        (Work::Checkpoint(next), Request::LeaseCheckpoint(request)) => {
            Ok(checkpoint(next, txn, state, request, slice))
        }
        (Work::Txn(write), Request::Txn(request)) => transact(*write, txn, state, request, slice),
        _ => Err(Damaged),
    }
}

/// An entry is applied that watchers see nothing of, and that executes no operation of etcd's.
fn done(reply: Result<Response, Error>) -> Progress {
    Progress::Done(Applied { reply, events: None, ops: Ops::default() })
}

/// Tells what a client has done wrong from damage. [`Error::Corrupt`] of a write is never a client's doing.
fn intact<T>(written: Result<T, Error>) -> Result<Result<T, Error>, Damaged> {
    if written.as_ref().is_err_and(|error| *error == Error::Corrupt) { Err(Damaged) } else { Ok(written) }
}

fn range(txn: &WriteTxn<'_>, request: &RangeRequest, reply_wanted: bool) -> Progress {
    let revision = txn.applied().revision;
    let none = Header::default();
    let reply = match reply_wanted {
        // Field 1 is the header that the caller will put there itself.
        true => range::answer(&View::new(txn), &none, request)
            .map(|answer| Response::Range { revision, body: answer.slice(none.field_len(revision)..) }),
        false => Ok(Response::Done),
    };
    Progress::Done(Applied { reply, events: None, ops: Ops { ranges: 1, ..Ops::default() } })
}

fn compact(txn: &mut WriteTxn<'_>, request: &CompactionRequest) -> Progress {
    let revision = txn.applied().revision;
    let &CompactionRequest { revision: compacted, physical } = request;
    let marked = compact::mark(txn, compacted);
    // etcd reads a key to learn the revision.
    let ops = Ops { ranges: u32::from(marked.is_ok()), ..Ops::default() };
    let reply = marked.map(|()| Response::Compact { revision, compacted, physical });
    Progress::Done(Applied { reply, events: None, ops })
}

fn put(
    txn: &mut WriteTxn<'_>,
    state: &State,
    request: &PutRequest,
    slice: &mut Slice,
) -> Result<Progress, Damaged> {
    let mut writer = Writer::begin_with(txn, slice.events_max);
    let checked = txn::check_put(&writer.view(), request, &|id| state.lessor.exists(id));
    if let Err(error) = intact(checked)? {
        return Ok(done(Err(error)));
    }
    let prev_kv = match intact(writer.put(request))? {
        Ok(prev_kv) => prev_kv,
        Err(error) => return Ok(done(Err(error))),
    };
    slice.budget = slice.budget.saturating_sub(writer.copy_cost());
    let mut ops = Ops { growth: writer.growth(), ..Ops::default() };
    ops.put(request);
    let reply = Ok(Response::Put { revision: writer.revision(), prev_kv });
    Ok(Progress::Done(Applied { reply, events: writer.finish(), ops }))
}

impl DeleteWork {
    /// A fault for the simulator: [`Deletion::skip_key`].
    #[cfg(any(debug_assertions, feature = "faults"))]
    pub(super) fn skip_key(&mut self, txn: &WriteTxn<'_>) {
        self.deletion.skip_key(txn);
    }

    fn begin(
        txn: &mut WriteTxn<'_>,
        request: &DeleteRangeRequest,
        slice: &mut Slice,
    ) -> Result<Progress, Damaged> {
        let mut writer = Writer::begin_with(txn, slice.events_max);
        if !request.range_end.is_empty() {
            let work = Self {
                written: writer.pause(),
                deletion: Deletion::new(request),
                deleted: false,
                prev_kvs: AnswerBody::default(),
                room: AnswerRoom::default(),
            };
            return work.proceed(txn, request, slice);
        }
        let (mut prev_kvs, mut room) = (BytesMut::new(), AnswerRoom::default());
        let is_deleted = writer.delete_one(request, &mut prev_kvs, &mut room).map_err(|_| Damaged)?;
        slice.budget = slice.budget.saturating_sub(writer.copy_cost());
        Ok(Self::done(writer, request, i64::from(is_deleted), prev_kvs.freeze(), &room))
    }

    fn proceed(
        self,
        txn: &mut WriteTxn<'_>,
        request: &DeleteRangeRequest,
        slice: &mut Slice,
    ) -> Result<Progress, Damaged> {
        let Self { written, mut deletion, mut deleted, mut prev_kvs, mut room } = self;
        let mut writer = Writer::resume(txn, written);
        let budget = &mut slice.budget;
        while !deleted && *budget > 0 {
            let some = writer.delete_some(request, &mut deletion, prev_kvs.out(), &mut room, budget);
            deleted = some.map_err(|_| Damaged)?;
        }
        let joined = match (deleted, room.overlong()) {
            (false, _) => None,
            // Of what is too long to be sent, only the length is told.
            (true, Some(_)) => Some(Bytes::new()),
            (true, None) => prev_kvs.join(budget),
        };
        Ok(match joined {
            Some(prev_kvs) => Self::done(writer, request, deletion.keys(), prev_kvs, &room),
            None => {
                let work = Self { written: writer.pause(), deletion, deleted, prev_kvs, room };
                Progress::Pending(Work::Delete(Box::new(work)))
            }
        })
    }

    fn done(
        writer: Writer<'_, '_>,
        request: &DeleteRangeRequest,
        deleted: i64,
        prev_kvs: Bytes,
        room: &AnswerRoom,
    ) -> Progress {
        let mut ops = Ops::default();
        ops.delete(request);
        ops.growth = writer.growth();
        let revision = writer.revision();
        let response = match room.overlong() {
            None => Response::DeleteRange { revision, deleted, prev_kvs },
            Some(len) => Response::Overlong { revision, len },
        };
        Progress::Done(Applied { reply: Ok(response), events: writer.finish(), ops })
    }
}

fn revoke(
    written: Written,
    txn: &mut WriteTxn<'_>,
    state: &mut State,
    id: i64,
    slice: &mut Slice,
) -> Result<Progress, Damaged> {
    let mut writer = Writer::resume(txn, written);
    if !writer.delete_attached(id, &mut slice.budget).map_err(|_| Damaged)? {
        return Ok(Progress::Pending(Work::Revoke(writer.pause())));
    }
    let deletes = u32::try_from(writer.changes()).unwrap_or(u32::MAX);
    let ops = Ops { deletes, growth: writer.growth(), ..Ops::default() };
    let revision = writer.revision();
    let events = writer.finish();
    let revoked = intact(state.lessor.revoke(txn, id).map_err(lease_error))?;
    let reply = revoked.map(|()| Response::LeaseRevoke { revision });
    Ok(Progress::Done(Applied { reply, events, ops }))
}

fn checkpoint(
    first: usize,
    txn: &mut WriteTxn<'_>,
    state: &mut State,
    request: &LeaseCheckpointRequest,
    slice: &mut Slice,
) -> Progress {
    let revision = txn.applied().revision;
    for (number, checkpoint) in request.checkpoints.iter().enumerate().skip(first) {
        if slice.budget == 0 {
            return Progress::Pending(Work::Checkpoint(number));
        }
        slice.budget = slice.budget.saturating_sub(CHANGE_COST);
        state.lessor.checkpoint(txn, checkpoint.id, checkpoint.remaining_ttl);
    }
    done(Ok(Response::LeaseCheckpoint { revision }))
}

fn transact(
    mut write: TxnWrite,
    txn: &mut WriteTxn<'_>,
    state: &State,
    request: &TxnRequest,
    slice: &mut Slice,
) -> Result<Progress, Damaged> {
    let exists = |id| state.lessor.exists(id);
    let Some(executed) = write.step(txn, request, &exists, &mut slice.budget) else {
        return Ok(Progress::Pending(Work::Txn(Box::new(write))));
    };
    Ok(match intact(executed)? {
        Ok((outcome, events)) => {
            Progress::Done(Applied { reply: outcome.response, events, ops: outcome.ops })
        }
        Err(error) => done(Err(error)),
    })
}

fn lease_error(error: lease::Error) -> Error {
    match error {
        lease::Error::Exists => Error::LeaseExists,
        lease::Error::NotFound => Error::LeaseNotFound,
        lease::Error::TtlTooLarge => Error::LeaseTtlTooLarge,
        lease::Error::Damaged => Error::Corrupt,
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
        AlarmMember, AlarmRequest, AlarmType, LeaseGrantRequest, LeaseRevokeRequest, RequestOp,
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
            let state = State::restore(&txn, 2, 1).unwrap();
            txn.commit();
            Self { store, state }
        }

        fn apply(&mut self, request: Request) -> Result<Response, Error> {
            self.apply_with_events(request).0
        }

        fn apply_with_events(&mut self, request: Request) -> (Result<Response, Error>, Vec<Change>) {
            let mut txn = self.store.write();
            let applied = apply(&mut txn, &mut self.state, Instant::default(), &request, true).unwrap();
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
        member.state = State::restore(&reader.snapshot(), 2, 1).unwrap();

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
        member.state = State::restore(&reader.snapshot(), 2, 1).unwrap();
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
        let restored = State::restore(&reader.snapshot(), 2, 1).unwrap().cluster;
        assert_eq!(restored, member.state.cluster);
        assert_eq!(restored.version, "3.7.0");
        assert_eq!(restored.downgrade_target.as_deref(), Some("3.6.0"));
        assert_eq!(restored.members.keys().collect::<Vec<_>>(), [&1], "what was removed stays removed");
        assert_eq!(restored.members[&1].member_attributes.as_ref().unwrap().name, "m");
    }

    #[test]
    fn work_is_not_gone_on_with_for_a_request_of_another_kind() {
        let mut member = Member::new();
        let mut txn = member.store.write();
        let mut slice = Slice { budget: 100, events_max: EVENTS_PUBLISHED_MAX };
        let resumed = resume(Work::Checkpoint(0), &mut txn, &mut member.state, &put("a", 0), &mut slice);
        assert_eq!(resumed.err(), Some(Damaged));
    }
}
