//! Disks that stand still, messages that are lost and processes that are killed while members come and go.
#![forbid(unsafe_code)]

use raft::eraftpb::{ConfChangeType, Entry, Message, MessageType, Snapshot, SnapshotMetadata};

use super::network::Cluster;
use super::world::World;
use crate::btree::{Applied, Read as _, Store};
use crate::limits::{FAREWELL, LAST_FAREWELL};
use crate::mvcc::write::initialize;
use crate::replica::apply::State;
use crate::replica::arrival::Arrival;
use crate::replica::configure::removed;
use crate::replica::port::{Input, Output, Outputs};
use crate::stdx::time::{Duration, Instant};

fn is_timeout_now(message: &Message) -> bool {
    message.msg_type() == MessageType::MsgTimeoutNow
}

#[test]
fn a_leader_that_was_removed_confirms_no_read_and_renews_no_lease() {
    let mut cluster = Cluster::new(2);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    cluster.loses = is_timeout_now;
    assert_eq!(cluster.change(leader, removed(leader)), Ok(1));
    assert!(cluster.members[&leader].said.removed && cluster.members[&leader].replica.is_leader());
    cluster.until(|cluster| cluster.members[&follower].replica.held_term().is_some());
    let put = cluster.put(follower);
    cluster.settle();
    assert!(cluster.reply(follower, put).is_some_and(Result::is_ok));
    let read = cluster.ask(leader, |ticket| Input::ReadIndex { ticket });
    let renewal = cluster.renew(leader);
    cluster.settle();
    assert!(!cluster.members[&leader].said.reads.contains(&read), "the read would miss the put");
    assert_eq!(cluster.reply(leader, renewal), None, "nobody would know of the renewal");
    // Nor does it answer for another member.
    let mut round = Message { from: follower, to: leader, ..Message::default() };
    round.set_msg_type(MessageType::MsgReadIndex);
    round.entries.push(Entry { data: "context".into(), ..Entry::default() });
    cluster.say(leader, round);
    cluster.loses = |message| {
        assert_ne!(message.msg_type(), MessageType::MsgReadIndexResp);
        false
    };
    cluster.settle();
}

#[test]
fn a_learner_hears_of_no_term_that_a_crash_of_the_only_voter_undoes() {
    let mut cluster = Cluster::new(1);
    let voter = cluster.leader().unwrap();
    assert_eq!(cluster.join(7, ConfChangeType::AddLearnerNode), Ok(2));
    let put = cluster.put(voter);
    cluster
        .until(|cluster| cluster.members[&7].replica.applied() == cluster.members[&voter].replica.applied());
    assert!(cluster.reply(voter, put).is_some_and(Result::is_ok));
    cluster.restart(voter).unwrap();
    cluster.members.get_mut(&voter).unwrap().is_stalled = true;
    let term = cluster.members[&7].replica.gate().term();
    for _ in 0..30 {
        cluster.settle();
        cluster.tick();
    }
    assert!(cluster.members[&voter].replica.is_leader());
    assert_eq!(cluster.members[&7].replica.gate().term(), term, "a crash undoes the vote");
    cluster.members.get_mut(&voter).unwrap().is_stalled = false;
    cluster.until(|cluster| cluster.members[&7].replica.gate().term() > term);
    let put = cluster.put(7);
    cluster.until(|cluster| cluster.reply(7, put).is_some_and(Result::is_ok));
}

#[test]
fn a_member_that_is_left_alone_leads_also_behind_a_crash() {
    for settles in [true, false] {
        let mut cluster = Cluster::new(2);
        let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
        let removal = cluster.configure(leader, removed(follower));
        if settles {
            cluster.settle();
            assert!(cluster.reply(leader, removal).is_some_and(Result::is_ok));
        } else {
            // The crash comes as soon as the other member knows that it was removed.
            while !cluster.members[&follower].said.removed {
                cluster.turn(leader);
                cluster.turn(follower);
            }
        }
        assert!(cluster.members[&follower].said.removed);
        cluster.members.remove(&follower);
        cluster.restart(leader).unwrap();
        cluster.until(|cluster| cluster.leader().is_some());
        let put = cluster.put(leader);
        cluster.until(|cluster| cluster.reply(leader, put).is_some_and(Result::is_ok));
    }
}

#[test]
fn a_member_whose_removal_leaves_one_voter_stays_for_longer() {
    for (founders, farewell) in [(3, FAREWELL), (2, LAST_FAREWELL)] {
        let mut cluster = Cluster::new(founders);
        let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
        cluster.change(leader, removed(follower)).unwrap();
        cluster.until(|cluster| cluster.members[&follower].said.removed);
        assert_eq!(cluster.members[&follower].replica.farewell(), farewell);
    }
}

#[test]
fn the_last_voter_gets_the_vote_of_a_leader_that_was_removed_whatever_its_log_lacks() {
    let mut cluster = Cluster::new(2);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    cluster.remove_itself(leader);
    (0..2).for_each(|_| _ = cluster.turn(follower));
    // The removal is committed, and the follower hears neither of that nor of this.
    cluster.put(leader);
    cluster.loses = |_| true;
    cluster.settle();
    assert!(cluster.members[&leader].said.removed && !cluster.members[&leader].replica.is_leader());
    cluster.loses = |_| false;
    cluster.until(|cluster| cluster.members[&follower].replica.cluster().members.len() == 1);
    let ticket = cluster.put(follower);
    cluster.until(|cluster| cluster.reply(follower, ticket).is_some());
}

#[test]
fn a_removal_that_was_never_committed_keeps_nobody_from_starting() {
    let mut cluster = Cluster::new(2);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    cluster.loses = |message| message.msg_type() == MessageType::MsgAppendResponse;
    cluster.configure(leader, removed(follower));
    cluster.settle();
    cluster.restart(follower).unwrap();
    cluster.restart(leader).unwrap();
    cluster.loses = |_| false;
    cluster.until(|cluster| cluster.members[&follower].said.removed);
    cluster.until(|cluster| cluster.members[&leader].replica.held_term().is_some());
    // One that was removed starts, as others may need its vote, and says that it was removed.
    cluster.restart(follower).unwrap();
    cluster.until(|cluster| cluster.members[&follower].said.removed);
}

#[test]
fn a_leader_resigns_in_the_turn_in_which_raft_forgets_who_has_answered() {
    for ticks in 1..20 {
        let mut cluster = Cluster::new(3);
        let leader = cluster.leader().unwrap();
        let replica = &mut cluster.members.get_mut(&leader).unwrap().replica;
        (0..ticks).for_each(|_| replica.step(Input::Tick));
        replica.step(Input::Resign);
        assert!(replica.is_handing_over() || !replica.is_leader(), "after {ticks} ticks");
    }
}

#[test]
fn a_leader_resigns_for_none_that_has_gone_a_moment_ago() {
    for gone in 0..4 {
        let mut cluster = Cluster::new(5);
        let leader = cluster.leader().unwrap();
        let put = cluster.put(leader);
        cluster.until(|cluster| cluster.reply(leader, put).is_some_and(Result::is_ok));
        cluster.settle();
        let gone = *cluster.members.keys().filter(|id| **id != leader).nth(gone).unwrap();
        let replica = &mut cluster.members.get_mut(&leader).unwrap().replica;
        replica.step(Input::PeerUnreachable(gone));
        replica.step(Input::Resign);
        let target = replica.node.raft.lead_transferee;
        assert!(target.is_some_and(|target| target != gone), "{target:?} of which {gone} has gone");
    }
}

#[test]
fn the_only_voter_leads_only_when_its_log_is_durable() {
    let mut world = World::new(7);
    world.start().unwrap();
    world.settle(|_| ());
    // A leader that is none of ours has it follow, and append.
    let (applied, term) = (world.replica().applied(), world.replica().gate().term() + 1);
    let entries = vec![Entry { index: applied.index + 1, term, ..Entry::default() }];
    let (index, log_term) = (applied.index, applied.term);
    let mut append = Message { from: 77, term, index, log_term, entries, ..Message::default() };
    append.set_msg_type(MessageType::MsgAppend);
    world.step(Input::PeerMessage(Box::new(append)));
    world.drain(|_| ());
    assert!(!world.writes.is_empty());
    for tick in 0..40 {
        world.step(Input::Tick);
        if tick == 20 {
            let mut order = Message { from: 77, term, ..Message::default() };
            order.set_msg_type(MessageType::MsgTimeoutNow);
            world.step(Input::PeerMessage(Box::new(order)));
        }
        world.drain(|_| ());
        assert!(!world.replica().is_leader());
    }
    world.settle(|_| ());
    assert!(world.replica().is_leader());
}

/// The leader's snapshot of the members of `cluster`, with the entries up to `index`.
fn arrival(cluster: &Cluster, leader: u64, to: u64, index: u64) -> Box<Arrival> {
    let replica = &cluster.members[&leader].replica;
    let (term, members) = (replica.gate().term(), replica.cluster().clone());
    let mut store = Store::in_memory();
    let mut txn = store.write();
    initialize(&mut txn);
    let mut copy = crate::cluster::Cluster::default();
    members.members.values().for_each(|member| copy.set_member(&mut txn, member.clone()));
    let applied = txn.applied();
    txn.set_applied(Applied { index, term, ..applied });
    txn.commit();
    let conf_state = Some(members.conf_state());
    let metadata = Some(SnapshotMetadata { conf_state, index, term });
    let snapshot = Some(Snapshot { metadata, ..Snapshot::default() });
    let mut message = Message { from: leader, to, term, snapshot, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    let state =
        State::restore(&store.readers().register().snapshot(), 2, 1).unwrap_or_else(|_| panic!("state"));
    Box::new(Arrival { message: Box::new(message), store, state })
}

#[test]
fn an_election_waits_while_a_snapshot_is_on_its_way_to_the_log() {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    let arrival = arrival(&cluster, leader, follower, 1_000);
    let term = cluster.members[&leader].replica.gate().term();
    let replica = &mut cluster.members.get_mut(&follower).unwrap().replica;
    let mut turn = |input| {
        let mut outputs = Outputs::new();
        replica.step(input);
        replica.drain(Instant::default(), &mut outputs);
        outputs
    };
    let outputs = turn(Input::Snapshot(arrival));
    assert!(outputs.iter().any(|output| matches!(output, Output::PlaceSnapshot)));
    let write = turn(Input::SnapshotPlaced).into_iter().find_map(|output| match output {
        Output::AppendWal { ready, write } => Some((ready, write)),
        _ => None,
    });
    let (ready, write) = write.expect("the log begins anew");
    // The leader has gone.
    (0..40).for_each(|_| _ = turn(Input::Tick));
    let mut order = Message { from: leader, to: follower, term, ..Message::default() };
    order.set_msg_type(MessageType::MsgTimeoutNow);
    turn(Input::PeerMessage(Box::new(order)));
    turn(Input::WalSynced { ready, buffer: write.bytes, took: Duration::ZERO });
    let asks = |output: &Output| matches!(output, Output::Send { message, .. } if message.term > term);
    let mut turns = std::iter::repeat_with(|| turn(Input::Tick)).take(40);
    let asked = turns.any(|outputs| outputs.iter().any(asks));
    assert!(asked, "it asks for votes in the end");
    assert_eq!(replica.applied().index, 1_000);
}
