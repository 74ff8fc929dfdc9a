//! Members that come and go, and leadership that is handed over.
#![forbid(unsafe_code)]

use raft::eraftpb::{ConfChangeType, Entry as LogEntry, Message, MessageType};

use super::network::{Cluster, settings};
use super::world::TICK;
use crate::btree::Store;
use crate::error::Error;
use crate::mvcc::pin::Pins;
use crate::proto::etcdserverpb::PutRequest;
use crate::replica::bootstrap::Foundation;
use crate::replica::configure::removed;
use crate::replica::port::{Input, Output, Outputs};
use crate::replica::{Opening, Replica};
use crate::request::{Entry, Request};
use crate::response::Response;

#[test]
fn a_leader_that_stops_hands_over_and_no_proposal_is_lost() {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    cluster.ask(leader, |_| Input::Resign);
    assert!(cluster.members[&leader].replica.is_handing_over());
    // One is proposed at the member that hands over, one is forwarded to it.
    let tickets = [(leader, cluster.put(leader)), (follower, cluster.put(follower))];
    // No tick: nobody waits for an election timeout.
    cluster.settle();
    assert!(cluster.leader().is_some_and(|next| next != leader));
    for (id, ticket) in tickets {
        assert!(matches!(cluster.reply(id, ticket), Some(Ok(Response::Put { .. }))), "through {id:x}");
    }
}

#[test]
fn a_leader_that_stops_goes_on_until_others_have_heard_who_leads() {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    cluster.ask(leader, |_| Input::Resign);
    cluster.settle();
    assert!(cluster.leader().is_some_and(|next| next != leader));
    // What was on its way to it comes late.
    let before = cluster.members[&follower].replica.applied().revision;
    let put = PutRequest { key: "late".into(), ..PutRequest::default() };
    let data = Entry::new(7, Request::Put(put)).encode();
    let mut message = Message { from: follower, to: leader, ..Message::default() };
    message.set_msg_type(MessageType::MsgPropose);
    message.entries = vec![LogEntry { data, ..LogEntry::default() }];
    cluster.ask(leader, |_| Input::PeerMessage(Box::new(message)));
    assert!(cluster.members[&leader].replica.is_leaving(), "it is still needed");
    cluster.settle();
    assert_eq!(cluster.members[&follower].replica.applied().revision, before + 1);
    for is_leaving in [true, false] {
        cluster.tick();
        assert_eq!(cluster.members[&leader].replica.is_leaving(), is_leaving);
    }
}

#[test]
fn leadership_goes_to_who_is_named_and_to_nobody_else() {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    let mut ask = |id, target| {
        let ticket = cluster.ask(id, |ticket| Input::MoveLeader { ticket, target });
        cluster.settle();
        cluster.reply(id, ticket).cloned()
    };
    assert_eq!(ask(follower, follower), Some(Err(Error::NotLeader)));
    assert_eq!(ask(leader, 7), Some(Err(Error::BadLeaderTransferee)));
    assert_eq!(ask(leader, leader), Some(Ok(Response::Done)));
    assert_eq!(ask(leader, follower), Some(Ok(Response::Done)));
    assert_eq!(cluster.leader(), Some(follower));
}

#[test]
fn leadership_that_nobody_takes_stays_and_who_asked_hears_of_it() {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    cluster.members.remove(&follower);
    let ticket = cluster.ask(leader, |ticket| Input::MoveLeader { ticket, target: follower });
    let put = cluster.put(leader);
    cluster.until(|cluster| cluster.reply(leader, put).is_some());
    assert_eq!(cluster.reply(leader, ticket), Some(&Err(Error::LeaderTransferTimeout)));
    assert_eq!(cluster.leader(), Some(leader));
}

#[test]
fn a_member_that_joins_learns_everything_and_gets_its_vote_when_it_has() {
    let mut cluster = Cluster::new(2);
    (0..20).for_each(|_| _ = cluster.put(cluster.leader().unwrap()));
    assert_eq!(cluster.join(7, ConfChangeType::AddLearnerNode), Ok(3));
    let leader = cluster.leader().unwrap();
    let promote = |cluster: &mut Cluster, id| cluster.ask(id, |ticket| Input::Promote { ticket, id: 7 });
    let early = promote(&mut cluster, leader);
    cluster.turn(leader);
    assert_eq!(cluster.reply(leader, early), Some(&Err(Error::LearnerNotReady)));
    assert_eq!(cluster.join(8, ConfChangeType::AddLearnerNode), Err(Error::TooManyLearners));
    let all = cluster.members[&leader].replica.applied();
    cluster.until(|cluster| cluster.members[&7].replica.applied().index >= all.index);
    assert!(cluster.members[&7].replica.is_learner() && cluster.members[&7].replica.gate().is_learner());
    let follower = cluster.follower();
    promote(&mut cluster, follower);
    cluster.settle();
    assert_eq!(cluster.members[&follower].said.promotions, [7], "the leader has to be asked");
    let promoted = promote(&mut cluster, leader);
    cluster.until(|cluster| cluster.reply(leader, promoted).is_some());
    assert!(matches!(cluster.reply(leader, promoted), Some(Ok(Response::Members { .. }))));
    cluster.until(|cluster| !cluster.members[&7].replica.is_learner());
    let again = promote(&mut cluster, leader);
    cluster.until(|cluster| cluster.reply(leader, again).is_some());
    assert_eq!(cluster.reply(leader, again), Some(&Err(Error::MemberNotLearner)));
}

#[test]
fn a_leader_that_is_removed_has_handed_over_before_and_hears_of_its_end() {
    for through_leader in [true, false] {
        let mut cluster = Cluster::new(3);
        let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
        let through = if through_leader { leader } else { follower };
        assert_eq!(cluster.change(through, removed(leader)), Ok(2));
        let ticket = cluster.put(follower);
        cluster.settle();
        assert!(matches!(cluster.reply(follower, ticket), Some(Ok(Response::Put { .. }))));
        cluster.until(|cluster| cluster.members[&leader].said.removed);
        assert!(cluster.leader().is_some_and(|next| next != leader));
        assert_eq!(cluster.change(follower, removed(leader)), Err(Error::MemberNotFound));
    }
}

#[test]
fn the_last_voter_stays() {
    let mut cluster = Cluster::new(1);
    let only = cluster.leader().unwrap();
    assert_eq!(cluster.change(only, removed(only)), Err(Error::MemberNotEnoughStarted));
    let ticket = cluster.put(only);
    cluster.settle();
    assert!(matches!(cluster.reply(only, ticket), Some(Ok(_))));
}

/// Kills the leader: its process ends in the middle of whatever it did.
fn kill_leader(cluster: &mut Cluster) -> u64 {
    let leader = cluster.leader().unwrap();
    cluster.members.remove(&leader);
    leader
}

#[test]
fn a_leader_that_has_gone_is_followed_within_ticks_and_no_proposal_is_lost() {
    let mut cluster = Cluster::new(3);
    let leader = kill_leader(&mut cluster);
    let rest: Vec<u64> = cluster.members.keys().copied().collect();
    for &id in &rest {
        // Again and again, as attempts to connect fail.
        (0..3).for_each(|_| _ = cluster.ask(id, |_| Input::PeerGone(leader)));
    }
    let tickets = rest.iter().map(|&id| (id, cluster.put(id))).collect::<Vec<_>>();
    let began = cluster.now;
    cluster.until(|cluster| tickets.iter().all(|&(id, ticket)| cluster.reply(id, ticket).is_some()));
    assert_eq!(cluster.leader(), Some(rest[0]), "the first stands first");
    assert!(cluster.now.since(began) <= TICK * 3, "{:?}", cluster.now.since(began));
    for (id, ticket) in tickets {
        assert!(matches!(cluster.reply(id, ticket), Some(Ok(Response::Put { .. }))), "through {id:x}");
    }
}

#[test]
fn a_leader_that_others_hear_stays_whoever_takes_it_for_gone() {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    let term = cluster.members[&leader].replica.held_term();
    cluster.ask(follower, |_| Input::PeerGone(leader));
    let ticket = cluster.put(follower);
    cluster.until(|cluster| cluster.reply(follower, ticket).is_some());
    for _ in 0..30 {
        cluster.tick();
        cluster.settle();
    }
    assert_eq!((cluster.leader(), cluster.members[&leader].replica.held_term()), (Some(leader), term));
    assert!(matches!(cluster.reply(follower, ticket), Some(Ok(Response::Put { .. }))));
}

#[test]
fn a_second_stands_where_the_first_cannot_be_elected() {
    let mut cluster = Cluster::new(3);
    let leader = kill_leader(&mut cluster);
    let rest: Vec<u64> = cluster.members.keys().copied().collect();
    // The first does not hear that the leader has gone, and so hears it still, for a while.
    cluster.ask(rest[1], |_| Input::PeerGone(leader));
    cluster.until(|cluster| cluster.leader().is_some());
}

#[test]
fn whoever_reads_a_snapshot_that_was_taken_in_knows_how_much_is_committed() {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    let mut replica = cluster.members.remove(&follower).unwrap().replica;
    cluster.put(leader);
    cluster.settle();
    let everything = cluster.members[&leader].replica.applied().index;
    assert!(replica.applied().index < everything);
    replica.step(Input::Snapshot(cluster.snapshot(leader, follower)));
    let mut outputs = Outputs::new();
    replica.drain(cluster.now, &mut outputs);
    assert!(matches!(outputs[..], [Output::PlaceSnapshot]));
    replica.step(Input::SnapshotPlaced);
    // The log begins anew, and the turn ends so that this write can go first.
    replica.turn_size.beside_min = 0;
    assert!(replica.drain(cluster.now, &mut outputs), "the turn has not ended early");
    assert!(outputs.iter().any(|output| matches!(output, Output::Installed { .. })));
    let shown = (replica.gate().committed(), replica.gate().applied());
    assert_eq!((shown, replica.applied().index), ((everything, everything), everything));
}

#[test]
fn a_start_shows_what_it_finds_before_its_first_turn() {
    let foundation = Foundation::new([("m".to_owned(), vec!["http://m:2380".to_owned()])], "token");
    let id = foundation.founders[0].id;
    let opening = Opening::Found(foundation);
    let replica = Replica::open(settings(id), Store::in_memory(), opening, Pins::new(1)).unwrap();
    assert_eq!((replica.gate().term(), replica.gate().committed()), (1, 1));
}

#[test]
fn a_leader_that_is_removed_with_more_on_its_way_leads_no_longer() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader().unwrap();
    let others: Vec<u64> = cluster.members.keys().copied().filter(|id| *id != leader).collect();
    cluster.remove_itself(leader);
    for &id in others.iter().chain(&others) {
        cluster.turn(id);
    }
    // The removal is committed, and this is on its way to the log when it is applied.
    cluster.put(leader);
    cluster.settle();
    assert!(cluster.members[&leader].said.removed && !cluster.members[&leader].replica.is_leader());
    cluster.until(|cluster| cluster.leader().is_some_and(|next| next != leader));
}

#[test]
fn a_member_that_was_removed_gives_its_vote_where_the_others_have_not_heard_of_it() {
    let mut cluster = Cluster::new(2);
    let (leader, other) = (cluster.leader().unwrap(), cluster.follower());
    cluster.remove_itself(leader);
    (0..2).for_each(|_| _ = cluster.turn(other));
    // The removal is committed and applied, and the leader dies before the other one hears of that.
    cluster.loses = |_| true;
    (0..9).for_each(|_| _ = cluster.turn(leader));
    assert!(cluster.members[&leader].said.removed);
    cluster.restart(leader).unwrap();
    cluster.loses = |_| false;
    cluster.until(|cluster| cluster.leader() == Some(other));
    assert!(cluster.members[&leader].replica.is_removed() && cluster.members[&leader].said.removed);
    let ticket = cluster.put(other);
    cluster.settle();
    assert!(matches!(cluster.reply(other, ticket), Some(Ok(Response::Put { .. }))));
    assert_eq!(cluster.members[&other].replica.cluster().members.len(), 1);
}

#[test]
fn what_a_leader_takes_along_is_answered_soon_and_what_has_not_reached_it_is_done() {
    for comes_back in [true, false] {
        let mut cluster = Cluster::new(3);
        let leader = kill_leader(&mut cluster);
        let follower = *cluster.members.keys().next().unwrap();
        let (ticket, began) = (cluster.put(follower), cluster.now);
        // It goes to the leader, of whom the follower does not know that it has gone.
        cluster.turn(follower);
        if comes_back {
            let put = PutRequest { key: "key".into(), ..PutRequest::default() };
            let data = Entry::new(follower << 48 | ticket.0 as u64, Request::Put(put)).encode();
            let entries = vec![LogEntry { data, ..LogEntry::default() }];
            let mut message = Message { from: follower, to: leader, entries, ..Message::default() };
            message.set_msg_type(MessageType::MsgPropose);
            cluster.ask(follower, |_| Input::PeerGone(leader));
            cluster.ask(follower, |_| Input::Undelivered(Box::new(message)));
        }
        cluster.until(|cluster| cluster.reply(follower, ticket).is_some());
        let (reply, took) = (cluster.reply(follower, ticket), cluster.now.since(began));
        match comes_back {
            true => assert!(matches!(reply, Some(Ok(Response::Put { .. }))), "{reply:?}"),
            false => assert_eq!(reply, Some(&Err(Error::TimeoutDueToLeaderFail))),
        }
        assert!(took <= TICK * 50, "an election and half a second, not {took:?}");
    }
}
