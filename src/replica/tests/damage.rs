//! A store whose pages are those that were written, and whose records are not: what cannot be read, or is missing,
//! stops the member where a write, a sweep or a hash meets it, and is an error to a read.
#![forbid(unsafe_code)]

use bytes::Bytes;

use super::entries::{copying, many_puts, suspend};
use super::world::{Crash, World};
use crate::btree::{Read, Tree, WriteTxn};
use crate::error::Error;
use crate::mvcc::hash::HashKv;
use crate::mvcc::revision::Revision;
use crate::mvcc::schema::{IndexEntry, LIVE, garbage_key, index_key, lease_key};
use crate::mvcc::view::View;
use crate::mvcc::{RangeStream, range};
use crate::proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest,
};
use crate::replica::port::{Output, Outputs};
use crate::request::Request;
use crate::response::Header;

const LEASE: i64 = 7;

/// Where the live revision of `attached` is, which has the lease.
const ATTACHED: Revision = Revision::new(2, 0);

/// Where the first revision of `key` is, which the second supersedes.
const OLD: Revision = Revision::new(3, 0);

/// Where the live revision of `key` is.
const LIVE_KEY: Revision = Revision::new(4, 0);

fn put(key: &'static str, lease: i64) -> PutRequest {
    PutRequest { key: key.into(), value: "value".into(), lease, ..PutRequest::default() }
}

fn everything() -> DeleteRangeRequest {
    let all = Bytes::from_static(b"\0");
    DeleteRangeRequest { key: all.clone(), range_end: all, prev_kv: true }
}

fn txn(op: Op) -> Request {
    Request::Txn(TxnRequest { success: vec![RequestOp { request: Some(op) }], ..TxnRequest::default() })
}

fn compaction() -> Request {
    Request::Compaction(CompactionRequest { revision: 4, physical: false })
}

/// A member whose store has the keys `attached` and `key`, and a lease, and then what `damage` makes of it.
fn damaged(damage: impl FnOnce(&mut WriteTxn<'_>)) -> World {
    let mut world = World::new(8);
    world.start().unwrap();
    world.propose(Request::LeaseGrant(LeaseGrantRequest { id: LEASE, ttl: 1_000 }));
    for put in [put("attached", LEASE), put("key", 0), put("key", 0)] {
        world.propose(Request::Put(put));
    }
    world.settle(|_| ());
    let mut txn = world.replica().store.write();
    assert_eq!(txn.applied().revision, 4);
    damage(&mut txn);
    txn.commit();
    world
}

/// The request stops the member, with a reason that says `why`: nothing of the request is published or answered, nor of
/// what follows, and the entry is in the log for a store that is whole.
fn stops(why: &str, request: Request, damage: impl FnOnce(&mut WriteTxn<'_>)) {
    let mut world = damaged(damage);
    let before = world.replica().applied();
    let compacts = matches!(request, Request::Compaction(_));
    world.propose(request);
    let later = world.put("later", "x");
    let (mut reasons, mut replies) = (Vec::new(), Vec::new());
    world.settle(|output| match output {
        Output::Halt { reason } => reasons.push(reason.clone()),
        Output::Reply { ticket, .. } => replies.push(ticket.0 as u64),
        _ => {}
    });
    let [reason] = &reasons[..] else { panic!("{reasons:?}") };
    assert!(reason.contains(why) && reason.contains("copy of the data directory"), "{reason}");
    assert!(reason.contains("in a cluster, have the others rebuild it"), "{reason}");
    assert_eq!(world.replica().applied().swept_revision, before.swept_revision);
    if !compacts {
        assert_eq!((world.replica().applied(), replies), (before, Vec::new()));
        assert_eq!(world.get("later"), None);
    }
    assert!(world.replica().settle(&mut Outputs::default()), "it can be stopped in order");
    world.replica().store.check_invariants();
    world.crash(Crash::Clean);
    world.start().unwrap();
    world.settle(|_| ());
    assert!(world.replica().applied().index >= before.index + 2, "entry {later} is in the log");
}

#[test]
fn a_value_that_the_index_leads_to_and_that_is_gone_stops_whoever_needs_it() {
    let keep = PutRequest { value: Bytes::new(), ignore_value: true, ..put("key", 0) };
    let shown = PutRequest { prev_kv: true, ..put("key", 0) };
    let one = DeleteRangeRequest { key: "key".into(), prev_kv: true, ..DeleteRangeRequest::default() };
    let compare = Compare {
        key: "key".into(),
        target: CompareTarget::Value as i32,
        target_union: Some(TargetUnion::Value("value".into())),
        ..Compare::default()
    };
    let conditional = TxnRequest {
        compare: vec![compare],
        success: vec![RequestOp { request: Some(Op::RequestPut(put("other", 0))) }],
        ..TxnRequest::default()
    };
    for request in [
        Request::Put(keep.clone()),
        Request::Put(shown.clone()),
        Request::DeleteRange(one.clone()),
        Request::DeleteRange(everything()),
        Request::Txn(conditional),
        txn(Op::RequestPut(keep)),
        txn(Op::RequestPut(shown)),
        txn(Op::RequestDeleteRange(one)),
        txn(Op::RequestDeleteRange(everything())),
    ] {
        stops("log entry", request, |txn| assert!(txn.delete(Tree::Kv, &LIVE_KEY.to_bytes())));
    }
}

#[test]
fn an_index_entry_that_cannot_be_read_stops_a_write_of_its_key() {
    let one = DeleteRangeRequest { key: "key".into(), ..DeleteRangeRequest::default() };
    for request in [
        Request::Put(put("key", 0)),
        Request::DeleteRange(one.clone()),
        Request::DeleteRange(everything()),
        txn(Op::RequestPut(put("key", 0))),
        txn(Op::RequestDeleteRange(one)),
    ] {
        stops("log entry", request, |txn| txn.put(Tree::Index, &index_key(b"key", LIVE_KEY), &[]));
    }
    stops("log entry", Request::DeleteRange(everything()), |txn| txn.put(Tree::Index, &[1, 2, 3], &[]));
    let later = index_key(b"key", Revision::new(1_000, 0));
    stops("log entry", Request::Put(put("key", 0)), |txn| {
        txn.put(
            Tree::Index,
            &later,
            &IndexEntry { create_revision: 900, ..IndexEntry::default() }.encode(1_000),
        );
    });
    let last = IndexEntry { create_revision: 3, version: i64::MAX, ..IndexEntry::default() };
    stops("log entry", Request::Put(put("key", 0)), |txn| {
        txn.put(Tree::Index, &index_key(b"key", LIVE_KEY), &last.encode(4));
    });
}

#[test]
fn a_value_that_cannot_be_read_stops_a_put_that_keeps_it() {
    let keep = PutRequest { value: Bytes::new(), ignore_value: true, ..put("key", 0) };
    for value in [&[][..], &[7], &[LIVE, 0x0a, 9, b'k']] {
        let damage = |txn: &mut WriteTxn<'_>| txn.put(Tree::Kv, &LIVE_KEY.to_bytes(), value);
        stops("log entry", Request::Put(keep.clone()), damage);
    }
}

#[test]
fn an_entry_that_meets_damage_after_many_turns_leaves_nothing() {
    let mut world = World::new(9);
    let request = copying(&mut world);
    let mut txn = world.replica().store.write();
    assert!(txn.delete(Tree::Kv, &Revision::new(201, 0).to_bytes()), "the value of the last key");
    txn.commit();
    let before = world.replica().applied();
    world.propose(request);
    let (mut spills, mut halts) = (0, 0);
    world.settle(|output| match output {
        Output::WriteCheckpoint(job) => spills += usize::from(job.is_spill()),
        Output::Halt { .. } => halts += 1,
        Output::Reply { .. } | Output::Publish(_) => panic!("a part of the entry is told"),
        _ => {}
    });
    assert!(spills > 0 && halts == 1, "{spills} spills, {halts} halts");
    assert!(!world.replica().is_suspended() && world.replica().tally().suspensions > 0);
    assert_eq!((world.replica().applied(), world.replica().store.draft_bytes()), (before, 0));
    assert_eq!(world.get("key000"), Some("v".repeat(60_000)));
    world.replica().store.check_invariants();
    assert!(world.replica().settle(&mut Outputs::default()), "it can be stopped in order");
}

#[test]
fn keys_and_leases_that_do_not_know_each_other_stop_a_member() {
    let revoke = || Request::LeaseRevoke(LeaseRevokeRequest { id: LEASE });
    let detach = |txn: &mut WriteTxn<'_>| assert!(txn.delete(Tree::LeaseKey, &lease_key(LEASE, b"attached")));
    stops("log entry", Request::Put(put("attached", 0)), detach);
    stops("log entry", Request::DeleteRange(everything()), detach);
    for key in [&b"key"[..], b"unknown"] {
        stops("log entry", revoke(), |txn| txn.put(Tree::LeaseKey, &lease_key(LEASE, key), &[]));
    }
    stops("log entry", revoke(), |txn| assert!(txn.delete(Tree::Lease, &LEASE.to_be_bytes())));
    stops("log entry", revoke(), |txn| txn.put(Tree::Index, &index_key(b"attached", ATTACHED), &[]));
}

#[test]
fn garbage_that_cannot_be_removed_stops_a_member() {
    let removed = "what a compaction allows to go cannot be removed";
    stops(removed, compaction(), |txn| assert!(txn.delete(Tree::Kv, &OLD.to_bytes())));
    stops(removed, compaction(), |txn| assert!(txn.delete(Tree::Index, &index_key(b"key", OLD))));
    stops(removed, compaction(), |txn| txn.put(Tree::Garbage, &[0; 3], &[]));
    stops(removed, compaction(), |txn| txn.put(Tree::Garbage, &garbage_key(i64::MIN, OLD), &[]));
}

#[test]
fn a_hash_that_cannot_be_taken_stops_a_member() {
    let taken = "the hash of the compaction to 4 cannot be taken";
    stops(taken, compaction(), |txn| txn.put(Tree::Kv, &OLD.to_bytes(), &[7]));
    let longer = [&OLD.to_bytes()[..], &[0]].concat();
    stops(taken, compaction(), |txn| txn.put(Tree::Kv, &longer, &[LIVE]));
}

#[test]
fn a_member_that_halts_in_the_middle_of_an_entry_can_be_stopped() {
    let mut world = damaged(|txn| txn.put(Tree::Kv, &OLD.to_bytes(), &[7]));
    world.propose(compaction());
    while world.digest.is_none() {
        world.drain(|_| ());
        world.sync();
    }
    let before = world.replica().applied();
    world.propose(many_puts());
    suspend(&mut world);
    assert!(world.finish_digest());
    let mut halts = 0;
    world.settle(|output| halts += usize::from(matches!(output, Output::Halt { .. })));
    assert_eq!((halts, world.replica().is_suspended(), world.replica().applied()), (1, false, before));
    assert!(world.replica().settle(&mut Outputs::default()), "it can be stopped in order");
    world.replica().store.check_invariants();
}

#[test]
fn a_lease_under_another_id_is_refused_at_the_start() {
    let mut world = damaged(|txn| {
        let record = txn.get(Tree::Lease, &LEASE.to_be_bytes()).unwrap().to_vec();
        txn.put(Tree::Lease, &9_i64.to_be_bytes(), &record);
    });
    let mut outputs = Outputs::default();
    assert!(world.replica().settle(&mut outputs), "nothing is on its way");
    for output in outputs {
        world.keep(output);
    }
    assert!(world.finish_checkpoint());
    world.crash(Crash::Clean);
    let why = world.start().unwrap_err();
    assert!(
        why.contains("a lease that cannot be read") && why.contains("copy of the data directory"),
        "{why}"
    );
}

#[test]
fn damage_is_an_error_to_a_read() {
    let all = || Bytes::from_static(b"\0");
    let list = RangeRequest { key: all(), range_end: all(), ..RangeRequest::default() };
    let one = RangeRequest { key: "key".into(), ..RangeRequest::default() };
    let damages: [fn(&mut WriteTxn<'_>); 5] = [
        |txn| assert!(txn.delete(Tree::Kv, &LIVE_KEY.to_bytes())),
        |txn| txn.put(Tree::Kv, &LIVE_KEY.to_bytes(), &[7]),
        |txn| txn.put(Tree::Kv, &LIVE_KEY.to_bytes(), &[LIVE, 1]),
        |txn| txn.put(Tree::Index, &index_key(b"key", LIVE_KEY), &[]),
        |txn| txn.put(Tree::Index, &index_key(b"key", LIVE_KEY), &[0, 1, 1, 0x80]),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let mut world = damaged(damage);
        let mut reader = world.replica().readers().register();
        let snapshot = reader.snapshot();
        let view = View::new(&snapshot);
        for request in [&list, &one] {
            let answered = range::answer(&view, &Header::default(), request);
            assert_eq!(answered, Err(Error::Corrupt), "damage {number}");
        }
        let by_value = RangeRequest { sort_order: 1, sort_target: 4, keys_only: true, ..list.clone() };
        assert_eq!(
            range::answer(&view, &Header::default(), &by_value),
            Err(Error::Corrupt),
            "damage {number}"
        );
        // Whoever wants the stored bytes gets them, whatever they are.
        let is_stored = number == 2;
        assert_eq!(view.value_at(b"key", 4).is_ok(), is_stored, "damage {number}");
        assert!(RangeStream::new(&view, &list, 1 << 20).is_ok(), "it has read nothing yet");
    }
    let longer = |txn: &mut WriteTxn<'_>| txn.put(Tree::Index, &index_key(b"key", LIVE_KEY), &[0, 1, 1, 99]);
    let mut reader = damaged(longer).replica().readers().register();
    let view = reader.snapshot();
    let answered = range::answer(&View::new(&view), &Header::default(), &list);
    assert_eq!(answered, Err(Error::Corrupt), "the index says that the pair is longer");
    let mut world = damaged(|txn| txn.put(Tree::Kv, &LIVE_KEY.to_bytes(), &[7]));
    let mut reader = world.replica().readers().register();
    let snapshot = reader.snapshot();
    let mut hash = HashKv::new(&View::new(&snapshot), 0).unwrap();
    let hash = std::iter::repeat_with(|| hash.step(&View::new(&snapshot), 100)).find_map(Result::transpose);
    assert_eq!(hash, Some(Err(Error::Corrupt)));
}
