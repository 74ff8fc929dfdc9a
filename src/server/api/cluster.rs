//! The Cluster service: who the members are. Changing that is not built yet.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::Bytes;
use prost::Message;

use super::answer::{Answer, Outcome};
use super::decode::decode;
use crate::btree::Read;
use crate::cluster::stored;
use crate::error::Error;
use crate::mvcc::View;
use crate::proto::etcdserverpb::{Member, MemberListRequest, MemberListResponse, ResponseHeader};
use crate::proto::membershippb;
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
}
