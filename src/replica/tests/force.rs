//! A member that has lost the others, and goes on alone.
#![forbid(unsafe_code)]

use raft::eraftpb::ConfChangeType;

use super::network::Cluster;
use crate::btree::Store;
use crate::cluster::member::MemberContext;
use crate::replica::Opening;
use crate::replica::force::Forced;
use crate::response::Response;

/// The member `id` starts again from its log alone.
fn force(cluster: &mut Cluster, id: u64) -> (u64, u64) {
    let files = &mut cluster.members.get_mut(&id).unwrap().files;
    let recovered = Box::new(files.recover(0).unwrap());
    let own = MemberContext { id, peer_urls: vec!["http://own:2380".into()], ..MemberContext::default() };
    let forced = Forced::new(recovered, &Store::in_memory(), &own).unwrap();
    let said = (forced.commit(), forced.adopted);
    let names = files.names();
    cluster.start(id, Opening::Force(Box::new(forced), names));
    said
}

/// Three members of which one is left, which had been the leader or not. What was answered, and a put that was not.
fn bereaved(led: bool) -> (Cluster, u64, u64) {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader().unwrap();
    let tickets: Vec<_> = (0..5).map(|_| cluster.put(leader)).collect();
    cluster.until(|cluster| tickets.iter().all(|&ticket| cluster.reply(leader, ticket).is_some()));
    let left = if led { leader } else { cluster.follower() };
    let index = cluster.members[&leader].replica.applied().index;
    cluster.until(|cluster| cluster.members[&left].replica.applied().index >= index);
    // A quiet log gets to know what is committed.
    cluster.pass(3);
    let index = cluster.members[&left].replica.applied().index;
    cluster.members.retain(|id, _| *id == left);
    let unanswered = cluster.put(left);
    cluster.settle();
    assert!(cluster.reply(left, unanswered).is_none());
    (cluster, left, index)
}

#[test]
fn the_only_member_left_goes_on_with_all_of_its_log_and_grows_again() {
    for led in [true, false] {
        let (mut cluster, left, index) = bereaved(led);
        let before = cluster.members[&left].replica.applied().revision;
        let (commit, adopted) = force(&mut cluster, left);
        // A leader has the put in its log, and nobody knows whether it was agreed on; a follower forwards it.
        assert_eq!(adopted, u64::from(led));
        assert_eq!(commit, index + adopted + 2, "two members go");
        cluster.until(|cluster| cluster.leader() == Some(left));
        let revision = before + i64::from(led);
        assert_eq!(cluster.members[&left].replica.applied().revision, revision);
        let put = cluster.put(left);
        cluster.settle();
        assert!(matches!(cluster.reply(left, put), Some(Ok(Response::Put { .. }))));
        let recovered = cluster.members.get_mut(&left).unwrap().files.recover(0).unwrap();
        let names = cluster.members[&left].files.names();
        cluster.start(left, Opening::Recover(Box::new(recovered), names));
        cluster.until(|cluster| cluster.leader() == Some(left));
        assert_eq!(cluster.members[&left].replica.applied().revision, revision + 1);
        assert_eq!(cluster.join_through(left, 7, ConfChangeType::AddNode), Ok(2));
        let index = cluster.members[&left].replica.applied().index;
        cluster.until(|cluster| cluster.members[&7].replica.applied().index >= index);
        assert_eq!(cluster.members[&7].replica.applied().revision, revision + 1);
    }
}

/// The log learns what is committed later than clients do.
#[test]
fn what_was_answered_right_before_a_crash_is_there_after_a_start_by_force() {
    let (mut cluster, left, _) = bereaved(false);
    force(&mut cluster, left);
    cluster.until(|cluster| cluster.leader() == Some(left));
    for _ in 0..3 {
        let put = cluster.put(left);
        cluster.until(|cluster| cluster.reply(left, put).is_some());
        let applied = cluster.members[&left].replica.applied();
        let (commit, adopted) = force(&mut cluster, left);
        assert!(adopted > 0, "the log knew already, so this shows nothing");
        assert_eq!(commit, applied.index);
        cluster.until(|cluster| cluster.leader() == Some(left));
        assert_eq!(cluster.members[&left].replica.applied().revision, applied.revision);
    }
}

#[test]
fn a_member_that_goes_on_alone_twice_changes_nothing_the_second_time() {
    let (mut cluster, left, _) = bereaved(true);
    force(&mut cluster, left);
    cluster.until(|cluster| cluster.leader() == Some(left));
    cluster.pass(3);
    let index = cluster.members[&left].replica.applied().index;
    assert_eq!(force(&mut cluster, left), (index, 0));
    cluster.until(|cluster| cluster.leader() == Some(left));
}
