//! Entries that take several turns, that need much memory, that cannot be applied, or that share a turn.
#![forbid(unsafe_code)]

use bytes::Bytes;

use super::world::{Crash, World};
use crate::limits::APPLY_BUDGET;
use crate::mvcc::write::CHANGE_COST;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RequestOp,
    TxnRequest,
};
use crate::replica::port::{Input, LeaseCall, Output, Outputs, Ticket};
use crate::request::Request;
use crate::response::Response;
use crate::stdx::time::Duration;

const MANY: usize = 5_000;

pub(super) fn many_puts() -> Request {
    let put = |number: usize| {
        let (key, value) = (format!("key{number:05}").into(), "value".into());
        RequestOp { request: Some(Op::RequestPut(PutRequest { key, value, ..Default::default() })) }
    };
    Request::Txn(TxnRequest { success: (0..MANY).map(put).collect(), ..Default::default() })
}

fn delete_all() -> Request {
    let all = || Bytes::from_static(b"\0");
    Request::DeleteRange(DeleteRangeRequest { key: all(), range_end: all(), prev_kv: true })
}

/// Turns until the entry under way has begun and is suspended.
pub(super) fn suspend(world: &mut World) {
    while !world.replica().is_suspended() {
        world.drain(|_| ());
        world.sync();
    }
}

#[test]
fn the_expiry_of_a_lease_does_not_end_one_that_was_granted_again() {
    let revoke = || Request::LeaseRevoke(LeaseRevokeRequest { id: 7 });
    let grant = |ttl| Request::LeaseGrant(LeaseGrantRequest { id: 7, ttl });
    // The revocation of the first lease waits in the log behind a long entry, or it is not in the log yet.
    for in_the_log in [true, false] {
        let mut world = World::new(1);
        world.start().unwrap();
        world.propose(grant(2));
        world.settle(|_| ());
        if in_the_log {
            world.propose(many_puts());
            suspend(&mut world);
        }
        world.propose(revoke());
        world.propose(grant(60));
        if in_the_log {
            world.drain(|_| ());
            assert!(world.sync() && world.replica().is_suspended());
        }
        world.now = world.now + Duration::from_secs(3);
        world.settle(|_| ());
        let call = LeaseCall::TimeToLive { id: 7 };
        world.step(Input::Lease { ticket: Ticket(0), call });
        let mut told = None;
        world.drain(|output| {
            if let Output::Reply { result: Ok(Response::LeaseTimeToLive { granted_ttl, .. }), .. } = output {
                told = Some(*granted_ttl);
            }
        });
        assert_eq!(told, Some(60), "in the log: {in_the_log}");
    }
}

#[test]
fn an_entry_of_many_keys_takes_many_turns_and_shows_at_its_end() {
    let mut world = World::new(1);
    world.start().unwrap();
    world.settle(|_| ());
    for (request, before, after) in
        [(many_puts(), None, Some("value".to_owned())), (delete_all(), Some("value".to_owned()), None)]
    {
        let id = world.propose(request);
        suspend(&mut world);
        let applied = world.replica().applied();
        let later = world.put("later", "x");
        let (mut turns, mut logged, mut replies) = (1, false, Vec::new());
        while world.replica().is_suspended() {
            assert_eq!((world.get("key00000"), world.get("key04999")), (before.clone(), before.clone()));
            assert_eq!(world.replica().applied(), applied, "an entry that is not complete was published");
            assert!(replies.is_empty(), "an answer came before its entry was published");
            world.step(Input::Tick);
            world.finish_checkpoint();
            let more = world.drain(|output| match output {
                Output::AppendWal { .. } => logged = true,
                Output::Reply { ticket, .. } => replies.push(ticket.0 as u64),
                Output::WriteCheckpoint(_) => panic!("a checkpoint began in the middle of an entry"),
                _ => {}
            });
            assert!(more || !world.replica().is_suspended(), "nobody would call again");
            turns += 1;
        }
        assert!(turns >= MANY * CHANGE_COST / APPLY_BUDGET, "{turns} turns");
        assert!(logged, "the log waited for the entry");
        assert_eq!(world.get("key04999"), after);
        world.settle(|output| {
            if let Output::Reply { ticket, .. } = output {
                replies.push(ticket.0 as u64);
            }
        });
        assert_eq!(replies, [id, later]);
        let (index, revision) = (world.replica().applied().index, world.replica().applied().revision);
        assert_eq!((index, revision), (applied.index + 2, applied.revision + 2));
    }
}

/// A member with 200 keys that hold 12 MB, and the entry that keeps the values of all.
pub(super) fn copying(world: &mut World) -> Request {
    world.start().unwrap();
    world.replica().spill.set_bound(1 << 20);
    for number in 0..200 {
        world.put(&format!("key{number:03}"), &"v".repeat(60_000));
    }
    world.settle(|_| ());
    copying_of(200)
}

/// A request that keeps the first values that [`copying`] has written.
fn copying_of(count: usize) -> Request {
    let keep = |number: usize| {
        let put =
            PutRequest { key: format!("key{number:03}").into(), ignore_value: true, ..Default::default() };
        RequestOp { request: Some(Op::RequestPut(put)) }
    };
    Request::Txn(TxnRequest { success: (0..count).map(keep).collect(), ..Default::default() })
}

#[test]
fn an_entry_that_copies_much_keeps_little_in_memory() {
    let mut world = World::new(4);
    let request = copying(&mut world);
    world.propose(request);
    suspend(&mut world);
    let revision = world.replica().applied().revision;
    let dirty = world.replica().store_stats().dirty_bytes;
    let (mut most, mut spills) = (0, 0);
    while world.replica().is_suspended() {
        most = most.max(world.replica().store.draft_bytes());
        let more = world.drain(|_| ());
        if let Some(job) = &world.checkpoint {
            assert!(job.is_spill(), "a checkpoint began in the middle of an entry");
            spills += 1;
            assert!(!more, "nothing can be done while the pages are being written");
            assert_eq!(world.replica().applied().revision, revision, "a part of an entry was published");
        }
        world.finish_checkpoint();
    }
    assert!(spills >= 3, "{spills} spills");
    // A slice takes 6 MB, which are copied twice.
    assert!(most < 5 << 20, "{most} bytes were in memory");
    assert!(
        world.replica().store_stats().dirty_bytes < dirty + (5 << 20),
        "what was spilled is written again"
    );
    world.replica().store.check_invariants();
    let kept = "v".repeat(60_000);
    assert_eq!(world.get("key199").as_ref(), Some(&kept));
    world.settle(|_| ());
    world.crash(Crash::Clean);
    world.start().unwrap();
    world.settle(|_| ());
    assert_eq!((world.get("key000"), world.get("key199")), (Some(kept.clone()), Some(kept)));
    assert_eq!(world.replica().applied().revision, revision + 1);
    world.replica().store.check_invariants();
}

#[test]
fn entries_that_copy_much_are_found_among_short_ones() {
    let mut world = World::new(7);
    copying(&mut world);
    world.replica().heavy.set_bounds(100 << 10, 1 << 20);
    for number in 0..100 {
        world.propose(copying_of(4));
        for short in 0..20 {
            world.put(&format!("short{number}.{short}"), "x");
        }
    }
    let before = world.replica().store_stats().dirty_bytes;
    let (mut most, mut waited) = (0, 0);
    loop {
        let more = world.drain(|_| ());
        most = most.max(world.replica().store_stats().dirty_bytes);
        waited += u64::from(world.replica().waits_for_checkpoint());
        if !more && !world.sync() && !world.finish_checkpoint() {
            break;
        }
    }
    // 24 MB are copied. A megabyte and one entry are made before a checkpoint begins, and as much beside it.
    assert!(most < before + (4 << 20) && waited > 4, "{most} bytes in memory, {waited} waits for the file");
    world.replica().store.check_invariants();
}

#[test]
fn entries_that_copy_much_begin_when_the_file_has_those_before_them() {
    const ENTRIES: i64 = 20;
    let mut world = World::new(6);
    let request = copying(&mut world);
    world.replica().spill.set_bound(64 << 20);
    world.replica().heavy.set_bounds(256 << 10, 16 << 20);
    let revision = world.replica().applied().revision;
    for _ in 0..ENTRIES {
        world.propose(request.clone());
    }
    let mut waited = 0;
    while world.replica().applied().revision < revision + ENTRIES {
        while world.drain(|_| ()) {
            world.sync();
        }
        let dirty = world.replica().store_stats().dirty_bytes;
        // Two entries, and one that has begun, before a checkpoint and after its beginning; each is copied twice.
        assert!(dirty < 6 * (26 << 20), "{dirty} bytes are in memory");
        waited += u64::from(world.replica().waits_for_checkpoint());
        world.sync();
        world.finish_checkpoint();
    }
    assert!(waited > 4, "{waited} times was the file waited for");
    world.settle(|_| ());
    world.replica().store.check_invariants();
}

/// Turns until nothing can be done before the checkpoint under way is.
fn go_on(world: &mut World) -> i64 {
    while world.drain(|_| ()) | world.sync() {}
    world.replica().applied().revision
}

#[test]
fn entries_that_copy_much_go_on_up_to_a_bound_without_room_for_a_checkpoint() {
    const ENTRIES: i64 = 20;
    let mut world = World::new(6);
    let request = copying(&mut world);
    world.replica().spill.set_bound(64 << 20);
    world.put("before", "x");
    world.settle(|_| ());
    world.replica().heavy.set_bounds(256 << 10, 16 << 20);
    let revision = world.replica().applied().revision;
    for _ in 0..ENTRIES {
        world.propose(request.clone());
    }
    let before = go_on(&mut world);
    assert!(world.replica().waits_for_checkpoint() && !world.replica().store_lacks_room());
    world.step(Input::CheckpointRefused);
    assert!(world.replica().store_lacks_room() && !world.replica().waits_for_checkpoint());
    let after = go_on(&mut world);
    assert!(world.replica().waits_for_checkpoint(), "nothing bounds what is in memory");
    assert!(before + 2 <= after && after < revision + ENTRIES, "{revision} {before} {after}");
    world.put("later", "x");
    world.drain(|_| ());
    assert!(world.writes.is_empty(), "the log took what has to wait");
    world.finish_checkpoint();
    assert!(!world.replica().store_lacks_room());
    world.settle(|_| ());
    assert_eq!(world.get("later").as_deref(), Some("x"));
    assert_eq!(world.replica().applied().revision, revision + ENTRIES + 1);
    world.replica().store.check_invariants();
}

#[test]
fn an_entry_that_copies_much_goes_on_up_to_a_bound_without_room_for_a_checkpoint_before_its_pages() {
    let mut world = World::new(4);
    let request = copying(&mut world);
    world.put("before", "x");
    while world.drain(|_| ()) | world.sync() {}
    let mut outputs = Outputs::default();
    assert!(world.replica().write_checkpoint(&mut outputs));
    outputs.into_iter().for_each(|output| world.keep(output));
    world.propose(request);
    let revision = go_on(&mut world);
    let most = world.replica().store.draft_bytes();
    assert!(world.replica().waits_for_spill() && !world.replica().waits_for_room());
    world.step(Input::CheckpointRefused);
    assert_eq!(go_on(&mut world), revision);
    let more = world.replica().store.draft_bytes();
    let bytes = [most, more];
    assert!(world.replica().waits_for_room() && most < 3 << 20, "{bytes:?} are in memory");
    assert!((4 << 20..7 << 20).contains(&more), "{bytes:?} are in memory");
    world.settle(|_| ());
    assert_eq!(world.replica().applied().revision, revision + 1);
    world.replica().store.check_invariants();
}

#[test]
fn an_entry_whose_pages_the_disk_refuses_is_applied_in_memory() {
    let mut world = World::new(5);
    let request = copying(&mut world);
    world.propose(request);
    let revision = world.replica().applied().revision;
    let mut refused = 0;
    while world.replica().applied().revision == revision {
        world.drain(|_| ());
        world.sync();
        // The job is not executed.
        if let Some(job) = world.checkpoint.take() {
            refused += 1;
            world.step(Input::CheckpointSynced { generation: job.generation() });
        }
    }
    assert!((1..=4).contains(&refused), "asked {refused} times");
    assert_eq!(world.get("key199"), Some("v".repeat(60_000)));
    world.replica().store.check_invariants();
}

#[test]
fn an_entry_that_cannot_be_applied_stops_the_member_behind_those_before_it() {
    let mut world = World::new(6);
    world.start().unwrap();
    world.settle(|_| ());
    let before = world.put("before", "x");
    // An AuthEnable, which is not built.
    let entry = Bytes::from_static(&[0xc2, 0x3e, 0x00]);
    world.step(Input::Propose { ticket: Ticket(1 << 40), id: 1 << 40, entry });
    world.put("after", "y");
    let (mut said, mut replies) = (Vec::new(), Vec::new());
    world.settle(|output| match output {
        Output::Halt { reason } => said.push(reason.clone()),
        Output::Reply { ticket, .. } => replies.push(ticket.0 as u64),
        _ => {}
    });
    assert_eq!(replies, [before]);
    assert!(said.len() == 1 && said[0].contains("start the member with that version"), "{said:?}");
    assert_eq!((world.get("before"), world.get("after")), (Some("x".into()), None));
    assert!(world.replica().settle(&mut Outputs::default()), "it can be stopped in order");
}

#[test]
fn a_crash_in_the_middle_of_an_entry_costs_nothing() {
    let mut world = World::new(2);
    world.start().unwrap();
    world.settle(|_| ());
    for (request, after) in [(many_puts(), Some("value".to_owned())), (delete_all(), None)] {
        world.propose(request);
        suspend(&mut world);
        let revision = world.replica().applied().revision;
        world.crash(Crash::Clean);
        world.start().unwrap();
        world.settle(|_| ());
        assert_eq!((world.get("key00000"), world.get("key04999")), (after.clone(), after));
        assert_eq!(world.replica().applied().revision, revision + 1);
    }
}

#[test]
fn the_hash_of_a_compaction_begins_at_the_one_before_also_within_a_turn() {
    let mut world = World::new(3);
    world.start().unwrap();
    world.settle(|_| ());
    for value in ["a", "b", "c", "d", "e"] {
        world.put("key", value);
    }
    world.settle(|_| ());
    for revision in [3, 5] {
        world.propose(Request::Compaction(CompactionRequest { revision, physical: false }));
    }
    world.settle(|_| ());
    let hashes = world.replica().compaction_hashes();
    let begins = [3, 5].map(|revision| hashes.get(revision, 0).map(|hash| hash.compact_revision));
    assert_eq!(begins, [Some(-1), Some(3)]);
}
