//! The Cluster service: who the members are. Changing that is not built yet.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::Bytes;
use prost::Message;

use super::answer::{Answer, Outcome};
use super::decode::decode;
use crate::btree::{Read, Tree};
use crate::mvcc::View;
use crate::proto::etcdserverpb::{Member, MemberListRequest, MemberListResponse, ResponseHeader};
use crate::proto::membershippb;
use crate::server::session::Session;

/// The header of an answer at `revision`; the Cluster service says none.
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
pub fn members<R: Read>(view: &View<'_, R>) -> Vec<Member> {
    let mut cursor = view.read().cursor(Tree::Member);
    cursor.seek(&[]);
    let mut members = Vec::new();
    while cursor.valid() {
        // An id without a member is one that was removed.
        if !cursor.value().is_empty() {
            let stored = membershippb::Member::decode(cursor.value()).expect("a stored member decodes");
            members.push(translate(stored));
        }
        cursor.next();
    }
    members
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
    if request.linearizable { Ok(Answer::read(|session| Ok(all(session)))) } else { Ok(all(session)) }
}

fn all(session: &Rc<Session>) -> Answer {
    #[expect(clippy::redundant_closure, reason = "the function alone is not general enough in its lifetimes")]
    let members = session.view(|view| members(view));
    let response = MemberListResponse { header: header(session, 0), members };
    Answer::Now(response.encode_to_vec().into())
}
