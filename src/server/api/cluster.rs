//! The Cluster service: who the members are, and what changes that.
//!
//! A change goes through the log, and its answer comes when this member has applied it. What a client can have done
//! wrong is found out there, by every member alike ([`membership`](crate::cluster::membership)); what would endanger
//! the quorum is refused before, by the member that is asked ([`reconfig`](crate::cluster::reconfig)).
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::Bytes;
use prost::Message;
use raft::eraftpb::ConfChangeType;
use raft_proto::CONF_CHANGE_UPDATE_NODE;

use super::answer::{Answer, Outcome};
use super::decode::decode;
use crate::btree::Read;
use crate::cluster::member::MemberContext;
use crate::cluster::reconfig::Reach;
use crate::cluster::{Cluster, stored};
use crate::config::Url;
use crate::error::Error;
use crate::mvcc::View;
use crate::proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse, ResponseHeader,
};
use crate::proto::membershippb;
use crate::replica::bootstrap::member_id;
use crate::replica::configure;
use crate::response::Response;
use crate::server::grpc::{Responder, Status};
use crate::server::io::clock;
use crate::server::session::Session;

/// The header of an answer at `revision`, which is 0 in all answers of the Cluster service.
pub fn header(session: &Session, revision: i64) -> Option<ResponseHeader> {
    let header = session.header();
    Some(ResponseHeader {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision,
        raft_term: header.raft_term,
    })
}

/// The members that a published state has, by id.
///
/// # Errors
/// When a stored member cannot be read.
pub fn members<R: Read>(view: &View<'_, R>) -> Result<Vec<Member>, Error> {
    let members = stored::members(view.read())?;
    Ok(members.into_iter().filter_map(|(_, member)| member).map(translate).collect())
}

fn translate(stored: membershippb::Member) -> Member {
    let raft = stored.raft_attributes.unwrap_or_default();
    let own = stored.member_attributes.unwrap_or_default();
    Member {
        id: stored.id,
        name: own.name,
        peer_ur_ls: raft.peer_urls,
        client_ur_ls: own.client_urls,
        is_learner: raft.is_learner,
    }
}

/// `Cluster/MemberList`.
pub fn member_list(session: &Rc<Session>, message: Bytes) -> Outcome {
    let request = decode::<MemberListRequest>(message)?;
    if request.linearizable { Ok(Answer::read(all)) } else { all(session) }
}

fn all(session: &Rc<Session>) -> Outcome {
    #[expect(clippy::redundant_closure, reason = "the function alone is not general enough in its lifetimes")]
    let members = session.view(|view| members(view))?;
    let response = MemberListResponse { header: header(session, 0), members };
    Ok(Answer::Now(response.encode_to_vec().into()))
}

/// `Cluster/MemberAdd`.
pub fn member_add(session: &Rc<Session>, message: Bytes) -> Outcome {
    let MemberAddRequest { peer_ur_ls, is_learner } = decode(message)?;
    let peer_urls = checked_urls(&peer_ur_ls).ok_or(Error::MemberBadUrls)?;
    if session.member.rules.is_strict {
        cluster(session)?.may_add(is_learner, &reach(session))?;
    }
    let seconds = clock::wall_nanos() / 1_000_000_000;
    let id = member_id(&peer_urls, &seconds.to_string());
    let context = MemberContext { id, peer_urls, is_learner, ..MemberContext::default() };
    let kind = if is_learner { ConfChangeType::AddLearnerNode } else { ConfChangeType::AddNode };
    let change = configure::added(kind, &context);
    let member = translate(context.into_member(None));
    Ok(Answer::later(move |session, reply| {
        session.configure(change, move |session, result| {
            answer(session, reply, result, |header, members| {
                MemberAddResponse { header, member: Some(member), members }.encode_to_vec()
            });
        });
    }))
}

/// `Cluster/MemberRemove`.
pub fn member_remove(session: &Rc<Session>, message: Bytes) -> Outcome {
    let MemberRemoveRequest { id } = decode(message)?;
    if session.member.rules.is_strict {
        cluster(session)?.may_remove(id, &reach(session))?;
    }
    Ok(Answer::later(move |session, reply| {
        session.configure(configure::removed(id), move |session, result| {
            answer(session, reply, result, |header, members| {
                MemberRemoveResponse { header, members }.encode_to_vec()
            });
        });
    }))
}

/// `Cluster/MemberUpdate`. Any text is an address, to etcd too.
pub fn member_update(message: Bytes) -> Outcome {
    let MemberUpdateRequest { id, peer_ur_ls } = decode(message)?;
    let context = MemberContext { id, peer_urls: peer_ur_ls, ..MemberContext::default() };
    let change = configure::change(CONF_CHANGE_UPDATE_NODE, &context);
    Ok(Answer::later(move |session, reply| {
        session.configure(change, move |session, result| {
            answer(session, reply, result, |header, members| {
                MemberUpdateResponse { header, members }.encode_to_vec()
            });
        });
    }))
}

/// `Cluster/MemberPromote`.
pub fn member_promote(message: Bytes) -> Outcome {
    let MemberPromoteRequest { id } = decode(message)?;
    Ok(Answer::later(move |session, reply| {
        session.promote(id, move |session, result| {
            if result.is_ok() && session.gate().leader() == session.member.member_id {
                session.metrics.learners_promoted.inc();
            }
            answer(session, reply, result, |header, members| {
                MemberPromoteResponse { header, members }.encode_to_vec()
            });
        });
    }))
}

/// Answers with the members that there are after a change.
fn answer(
    session: &Rc<Session>,
    reply: Responder,
    result: Result<Response, Status>,
    encode: impl FnOnce(Option<ResponseHeader>, Vec<Member>) -> Vec<u8>,
) {
    match result {
        Ok(Response::Members { members }) => {
            let members = members.into_iter().map(translate).collect();
            reply.send(Ok(encode(header(session, 0), members).into()));
        }
        // The replica answers a change in no other way.
        Ok(_) => reply.fail(&Error::Stopped.into()),
        Err(status) => reply.fail(&status),
    }
}

/// The URLs of a new member, sorted and as they are told to others; none if one of them is no URL.
fn checked_urls(urls: &[String]) -> Option<Vec<String>> {
    let read: Result<Vec<Url>, String> = urls.iter().map(|url| Url::parse(url)).collect();
    let mut read: Vec<String> = read.ok()?.iter().map(Url::to_string).collect();
    read.sort();
    (!read.is_empty()).then_some(read)
}

/// The cluster that the published state has.
fn cluster(session: &Session) -> Result<Cluster, Error> {
    session.view(|view| Cluster::restore(view.read()))
}

/// Whom this member reaches.
fn reach(session: &Session) -> Reach {
    let now = clock::now();
    let contacts = session.member.contacts.all();
    let others = contacts.iter().filter_map(|(id, contact)| Some((*id, contact.active_for(now)?)));
    Reach { own: session.member.member_id, others: others.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::{Store, Tree};

    #[test]
    fn a_stored_member_that_cannot_be_read_is_an_error_and_a_removed_one_is_left_out() {
        let mut store = Store::in_memory();
        let mut txn = store.write();
        let stored = membershippb::Member { id: 7, ..membershippb::Member::default() };
        txn.put(Tree::Member, &7u64.to_be_bytes(), &stored.encode_to_vec());
        txn.put(Tree::Member, &8u64.to_be_bytes(), b"");
        let ids = members(&View::new(&txn)).map(|members| members.iter().map(|m| m.id).collect::<Vec<_>>());
        assert_eq!(ids, Ok(vec![7]));
        txn.put(Tree::Member, &9u64.to_be_bytes(), b"\xff");
        assert_eq!(members(&View::new(&txn)).err(), Some(Error::Corrupt));
    }

    #[test]
    fn a_new_member_has_urls_and_they_are_sorted() {
        let checked =
            |urls: &[&str]| checked_urls(&urls.iter().map(|&url| url.to_owned()).collect::<Vec<_>>());
        let sorted = vec!["http://a:2".to_owned(), "http://b:1".to_owned()];
        assert_eq!(checked(&[" http://b:1", "http://a:2"]), Some(sorted));
        for wrong in
            [&[][..], &[""], &["http://a:1", "b:2"], &["http://a"], &["http://a:1/path"], &["ftp://a:1"]]
        {
            assert_eq!(checked(wrong), None, "{wrong:?}");
        }
    }
}
