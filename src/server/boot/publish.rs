//! A follower tells the cluster its name and where clients reach it, by an entry of the log. A leader does so by itself
//! (`replica/leadership.rs`).
#![forbid(unsafe_code)]

use std::rc::Rc;

use futures::channel::oneshot;
use prost::Message;

use crate::cluster::stored;
use crate::config::{Config, Url};
use crate::proto::membershippb::{Attributes, ClusterMemberAttrSetRequest};
use crate::replica::read_gate::Role;
use crate::request::Kind;
use crate::server::io::{clock, task};
use crate::server::session::Session;
use crate::stdx::time::Duration;

/// Time between two looks at what is known.
const LOOK: Duration = Duration::from_millis(50);
/// How long an attempt may take before the next one.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Publishes what `config` says of this member, and ends when the member has seen it applied.
pub async fn run(session: Rc<Session>, config: Config) {
    let client_urls = config.advertise.client.iter().map(Url::to_string).collect();
    let attributes = Attributes { name: config.name.clone(), client_urls };
    while !is_published(&session, &attributes) {
        let gate = session.gate();
        if gate.role() == Role::Follower && gate.leader() != 0 {
            attempt(&session, &attributes).await;
        }
        task::sleep(LOOK).await;
    }
}

fn is_published(session: &Session, attributes: &Attributes) -> bool {
    let member = session.view(|view| stored::member(view.read(), session.member.member_id));
    member.is_ok_and(|member| {
        member.is_some_and(|member| member.member_attributes.as_ref() == Some(attributes))
    })
}

/// Proposes once. A proposal that comes twice changes nothing the second time.
async fn attempt(session: &Rc<Session>, attributes: &Attributes) {
    let (done, wait) = oneshot::channel();
    let request = ClusterMemberAttrSetRequest {
        member_id: session.member.member_id,
        member_attributes: Some(attributes.clone()),
    };
    session.propose_then(Kind::ClusterMemberAttrSet, &request.encode_to_vec(), move |_, _| {
        // Nobody waits any more where the attempt took too long.
        let _ = done.send(());
    });
    let _ = task::until(clock::now() + ATTEMPT, wait).await;
}
