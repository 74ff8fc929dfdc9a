//! Messages that no correct member sends.
#![forbid(unsafe_code)]

use raft::eraftpb::{Entry, EntryType, Message, MessageType, Snapshot};

use super::network::Cluster;
use super::world::World;
use crate::limits::UNAPPLIED_BYTES_MAX;
use crate::replica::port::{Input, Output, Outputs};
use crate::request::{Entry as Command, Request};
use crate::stdx::time::Instant;

/// A member that is done with its first entries, and the term of messages that the member looks at.
fn follower() -> (World, u64) {
    let mut world = World::new(7);
    world.start().unwrap();
    world.put("key", "value");
    world.settle(|_| ());
    let term = world.replica().gate().term() + 1;
    (world, term)
}

/// A message of a leader that is none of ours.
fn message(msg_type: MessageType, term: u64) -> Message {
    let mut message = Message { from: 77, term, ..Message::default() };
    message.set_msg_type(msg_type);
    message
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, ..Entry::default() }
}

/// The member goes on after the message, has nothing of it, and says so once.
fn is_dropped(world: &mut World, message: Message) {
    let applied = world.replica().applied();
    let mut said = Vec::new();
    for _ in 0..2 {
        world.step(Input::PeerMessage(Box::new(message.clone())));
        world.settle(|output| match output {
            Output::Unsound { from, why } => said.push((*from, why.clone())),
            Output::Halt { reason } => panic!("{reason}"),
            _ => {}
        });
    }
    assert!(said.len() <= 1 && said.iter().all(|(from, why)| *from == 77 && !why.is_empty()), "{said:?}");
    assert_eq!(world.replica().applied(), applied);
    assert_eq!(world.get("key"), Some("value".to_owned()));
}

#[test]
fn a_snapshot_without_its_file_is_dropped() {
    let (mut world, term) = follower();
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (1_000, term);
    metadata.mut_conf_state().voters.push(world.replica().settings.member_id);
    let message = Message { snapshot: Some(snapshot), ..message(MessageType::MsgSnapshot, term) };
    is_dropped(&mut world, message);
}

#[test]
fn a_commit_of_entries_that_are_not_here_is_dropped() {
    let (mut world, term) = follower();
    let message = Message { commit: 1_000, ..message(MessageType::MsgHeartbeat, term) };
    is_dropped(&mut world, message);
}

#[test]
fn entries_with_a_gap_are_dropped() {
    let (mut world, term) = follower();
    let applied = world.replica().applied();
    let (index, log_term) = (applied.index, applied.term);
    let entries = vec![entry(index + 1, term), entry(index + 5, term)];
    let commit = index + 2;
    let message = Message { index, log_term, entries, commit, ..message(MessageType::MsgAppend, term) };
    is_dropped(&mut world, message);
}

#[test]
fn entries_behind_one_that_contradicts_what_is_committed_are_dropped() {
    let (mut world, term) = follower();
    let index = world.replica().applied().index;
    let entries = vec![entry(index + 1, term)];
    let message = Message { index, entries, ..message(MessageType::MsgAppend, term) };
    is_dropped(&mut world, message);
}

#[test]
fn a_leader_of_the_past_that_lacks_what_is_committed_is_told_of_the_term() {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    cluster.put(leader);
    cluster.settle();
    let (term, index) = {
        let replica = &cluster.members[&follower].replica;
        (replica.gate().term(), replica.gate().committed())
    };
    // It has left its last election behind, and has an entry there that nobody else has.
    let old = Message {
        from: leader,
        to: follower,
        index,
        log_term: term - 1,
        ..message(MessageType::MsgAppend, term - 1)
    };
    let replica = &mut cluster.members.get_mut(&follower).unwrap().replica;
    let mut outputs = Outputs::new();
    replica.step(Input::PeerMessage(Box::new(old)));
    replica.drain(Instant::default(), &mut outputs);
    assert!(
        !outputs.iter().any(|output| matches!(output, Output::Unsound { .. })),
        "no fault of a leader of the past"
    );
    let tells = |output: &Output| match output {
        Output::Send { to, message } => *to == leader && message.term == term,
        _ => false,
    };
    assert!(outputs.iter().any(tells), "it hears of the term");
}

#[test]
fn a_question_without_its_context_is_dropped() {
    let (mut world, _) = follower();
    is_dropped(&mut world, message(MessageType::MsgReadIndex, 0));
}

#[test]
fn what_has_a_term_and_should_have_none_or_the_other_way_round_is_dropped() {
    let (mut world, term) = follower();
    // A leader of the next term makes a follower of the member, which would forward what others ask for.
    world.step(Input::PeerMessage(Box::new(message(MessageType::MsgHeartbeat, term))));
    world.settle(|_| ());
    let entries = vec![entry(0, 0)];
    for msg_type in [MessageType::MsgPropose, MessageType::MsgReadIndex] {
        let message = Message { entries: entries.clone(), ..message(msg_type, term) };
        is_dropped(&mut world, message);
    }
    for msg_type in [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote, MessageType::MsgAppend] {
        is_dropped(&mut world, message(msg_type, 0));
    }
    is_dropped(&mut world, message(MessageType::MsgTransferLeader, term));
}

#[test]
fn a_proposal_of_nothing_is_dropped() {
    let (mut world, _) = follower();
    is_dropped(&mut world, message(MessageType::MsgPropose, 0));
}

#[test]
fn a_term_that_no_election_comes_to_is_dropped() {
    let (mut world, term) = follower();
    let message = message(MessageType::MsgHeartbeat, u64::MAX);
    world.step(Input::PeerMessage(Box::new(message.clone())));
    world.settle(|_| ());
    assert!(world.replica().gate().term() < term);
    is_dropped(&mut world, message);
}

/// What goes to a leader, and what the other members have of it.
fn at_leader(mut spoil: impl FnMut(&mut Cluster, u64, u64)) {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    cluster.complaints = Some(Vec::new());
    spoil(&mut cluster, leader, follower);
    cluster.settle();
    assert_eq!(cluster.complaints.as_ref().map(Vec::len), Some(1), "{:?}", cluster.complaints);
    let put = cluster.put(follower);
    cluster.until(|cluster| cluster.reply(follower, put).is_some_and(Result::is_ok));
    assert_eq!(cluster.leader(), Some(leader));
}

#[test]
fn a_leader_takes_no_answer_about_what_it_does_not_have() {
    for (index, reject_hint, reject) in [(1_000, 0, false), (u64::MAX, 0, false), (1, u64::MAX, true)] {
        at_leader(|cluster, leader, follower| {
            let term = cluster.members[&leader].replica.gate().term();
            let mut message = Message { from: follower, to: leader, term, index, ..Message::default() };
            (message.reject, message.reject_hint) = (reject, reject_hint);
            message.set_msg_type(MessageType::MsgAppendResponse);
            cluster.say(leader, message);
        });
    }
}

#[test]
fn a_forwarded_entry_that_stops_members_gets_into_no_log() {
    let joint = Entry { entry_type: EntryType::EntryConfChangeV2.into(), ..Entry::default() };
    // Bytes that end inside a field.
    let broken = Entry { data: vec![0x22, 0x05, 0x00].into(), ..Entry::default() };
    let good = Entry { data: Command::new(9, Request::DowngradeVersionTest).encode(), ..Entry::default() };
    for bad in [joint, broken] {
        for to_leader in [true, false] {
            at_leader(|cluster, leader, follower| {
                let to = if to_leader { leader } else { follower };
                let mut message =
                    Message { from: if to_leader { follower } else { leader }, to, ..Message::default() };
                message.set_msg_type(MessageType::MsgPropose);
                message.entries = vec![good.clone(), bad.clone()];
                cluster.say(to, message);
            });
        }
    }
}

#[test]
fn a_member_that_has_lost_what_it_acknowledged_stops_and_says_what_to_do() {
    let mut cluster = Cluster::new(3);
    let (leader, follower) = (cluster.leader().unwrap(), cluster.follower());
    let term = cluster.members[&leader].replica.gate().term();
    let mut message = Message { from: leader, to: follower, term, commit: 1_000, ..Message::default() };
    message.set_msg_type(MessageType::MsgHeartbeat);
    cluster.complaints = Some(Vec::new());
    cluster.say(follower, message);
    cluster.settle();
    let said = cluster.complaints.unwrap().concat();
    assert!(
        said.contains("Was the raft log corrupted, truncated, or lost?") && said.contains("add a new one"),
        "{said}"
    );
}

#[test]
fn a_follower_that_cannot_apply_takes_no_more_than_its_memory_holds() {
    let (mut world, term) = follower();
    let applied = world.replica().applied();
    let data = vec![b'x'; 1 << 20];
    let data = bytes::Bytes::from(data);
    let mut log_term = applied.term;
    for index in applied.index..applied.index + 200 {
        let entries = vec![Entry { data: data.clone(), ..entry(index + 1, term) }];
        let append = Message { index, log_term, entries, ..message(MessageType::MsgAppend, term) };
        log_term = term;
        world.step(Input::PeerMessage(Box::new(append)));
        // The disk is not done with any of them.
        world.drain(|_| ());
        world.writes.iter_mut().for_each(|(_, write)| write.bytes = Vec::new());
    }
    let held = world.replica().node.store().bytes();
    assert!(held > UNAPPLIED_BYTES_MAX / 2 && held < UNAPPLIED_BYTES_MAX + (2 << 20), "{held} bytes");
    // Heartbeats are heard all the same.
    world.step(Input::PeerMessage(Box::new(message(MessageType::MsgHeartbeat, term))));
    assert_eq!(world.replica().node.raft.leader_id, 77);
}
