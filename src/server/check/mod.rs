//! Members compare their data, and say so where they differ. What hashes mean is decided in `cluster::corruption`; here
//! they are taken, asked for at the peer ports of the other members, and reported in etcd's words.
//!
//! ```text
//!   initial      a member that has data, before it serves: --feature-gates=InitialCorruptCheck=true
//!   periodic     the leader, the newest hashes: --corrupt-check-time
//!   compactions  the leader, the hashes of compactions: --feature-gates=CompactHashCheck=true
//! ```
//!
//! What is found becomes the alarm CORRUPT of the member that is accused, raised by an entry of the log; a member that
//! is about to serve does not begin to. How a member is asked, and how it answers, is in `peers::hash_kv`.
//!
//! All but the first runs on the first session core, in slices as HashKV of clients.
#![forbid(unsafe_code)]

mod compactions;
pub mod initial;
mod periodic;

use std::rc::Rc;

use prost::Message;

use crate::cluster::corruption::Told;
use crate::cluster::stored;
use crate::config::Checks;
use crate::error::Error;
use crate::mvcc::hash::KvHash;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{AlarmRequest, AlarmType};
use crate::replica::read_gate::Role;
use crate::request::Kind;
use crate::server::api::digest;
use crate::server::io::task;
use crate::server::log::Line;
use crate::server::peers::Own;
use crate::server::peers::hash_kv::{self, Other};
use crate::server::session::Session;

/// Begins what is asked for.
pub fn start(session: &Rc<Session>, own: Own, checks: &Checks) {
    let checker = Rc::new(Checker { session: session.clone(), own });
    if let Some(interval) = checks.corrupt {
        task::spawn(periodic::run(checker.clone(), interval));
    }
    if let Some(interval) = checks.compact_hash {
        task::spawn(compactions::run(checker, interval));
    }
}

/// Who compares.
struct Checker {
    session: Rc<Session>,
    /// What this member is to others.
    own: Own,
}

impl Checker {
    /// Whether this member leads.
    fn leads(&self) -> bool {
        self.session.gate().role() == Role::Leader
    }

    /// This member's hash of all that it has.
    async fn hash(&self) -> Result<KvHash, Error> {
        if let Some(hash) = digest::of_compaction(&self.session, 0) {
            return Ok(hash);
        }
        // It is wanted until it is there.
        digest::history(&self.session, 0, || true).await?.ok_or(Error::Stopped)
    }

    /// The hashes of all other members at a revision.
    async fn ask(&self, revision: i64) -> Result<Vec<Told>, Error> {
        let members = self.session.view(|view| stored::members(view.read()))?;
        let members = members.into_iter().filter_map(|(_, member)| member);
        let others = Other::among(members, self.own.member_id);
        Ok(hash_kv::ask(&self.own, &others, revision).await)
    }

    /// Raises the alarm for a member.
    fn accuse(&self, member_id: u64) {
        let (action, alarm) = (AlarmAction::Activate as i32, AlarmType::Corrupt as i32);
        let request = AlarmRequest { action, member_id, alarm }.encode_to_vec();
        self.session.propose_then(Kind::Alarm, &request, move |_, result| {
            if let Err(status) = result {
                Line::warn("failed to raise the alarm CORRUPT; the next check tries again")
                    .id("member-id", member_id)
                    .text("error", status.message)
                    .write();
            }
        });
    }
}
