//! Messages that no correct member sends.
#![forbid(unsafe_code)]

use raft::eraftpb::{Entry, Message, MessageType, Snapshot};

use super::world::World;
use crate::replica::port::Input;

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

/// The member goes on after the message, and has nothing of it.
fn is_dropped(world: &mut World, message: Message) {
    let applied = world.replica().applied();
    world.step(Input::PeerMessage(Box::new(message)));
    world.settle(|_| ());
    assert_eq!(world.replica().applied(), applied);
    assert_eq!(world.get("key"), Some("value".to_owned()));
}

#[test]
fn a_snapshot_that_nobody_can_take_in_is_dropped() {
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
