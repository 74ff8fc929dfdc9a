//! Promotions of learners. The leader alone knows whether a learner has caught up, so other members ask the leader for
//! their clients. Statuses and texts are etcd's.
#![forbid(unsafe_code)]

use std::io;
use std::rc::Rc;

use super::client::Ask;
use super::lessor::Answered;
use super::link::Link;
use super::pipeline::exchange;
use super::service::json_line;
use super::switchboard::Switchboard;
use crate::cluster::member::MemberContext;
use crate::error::Error;
use crate::replica::port::{Input, Ticket};
use crate::response::Response;
use crate::server::http1::answer::Answer;
use crate::server::log::Line;

/// What the path of a promotion begins with; the learner's id follows, in decimal.
pub const PATH: &str = "/members/promote/";

/// What is said of an id that no member has.
const NOT_FOUND: &str = "membership: ID not found";
/// What is said of a member that has its vote.
const NOT_LEARNER: &str = "membership: can only promote a learner member";

impl Switchboard {
    /// Asks the leader for a client of this member, whose `ticket` that is.
    pub fn forward_promotion(self: &Rc<Self>, ticket: Ticket, id: u64) {
        let switchboard = self.clone();
        let answer = async move {
            switchboard.ask_leader(async |link| promote_at(&switchboard, link, id).await.ok().flatten()).await
        };
        self.answer_later(ticket, Input::Promote { ticket, id }, answer);
    }
}

/// Asks one member. None if that member does not know either.
async fn promote_at(switchboard: &Switchboard, link: &Link, id: u64) -> io::Result<Option<Answered>> {
    let path = format!("{PATH}{id}");
    let ask = Ask { method: "POST", path: &path, to: None, content: None };
    let (status, body) = exchange(switchboard, link, &ask).await?;
    Ok(understood(status, &body))
}

/// What an answer to a promotion says; none if it does not say whether the learner was promoted.
fn understood(status: u16, body: &[u8]) -> Option<Answered> {
    let says = |text: &str| body.windows(text.len()).any(|part| part == text.as_bytes());
    match status {
        200 => {
            let members: Vec<MemberContext> = serde_json::from_slice(body).ok()?;
            let members = members.into_iter().map(MemberContext::into_new_member).collect();
            Some(Ok(Response::Members { members }))
        }
        404 if says(NOT_FOUND) => Some(Err(Error::MemberNotFound)),
        412 if says(Error::LearnerNotReady.message()) => Some(Err(Error::LearnerNotReady)),
        412 if says(NOT_LEARNER) => Some(Err(Error::MemberNotLearner)),
        _ => None,
    }
}

/// Promotes a learner for another member.
pub async fn promote(switchboard: &Switchboard, path: &str) -> Answer {
    let text = path.strip_prefix(PATH).unwrap_or_default();
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    let Some(id) = text.parse().ok().filter(|_| is_number) else {
        return Answer::error(404, &format!("member {text} not found in cluster"));
    };
    match switchboard.ask_replica(|ticket| Input::Promote { ticket, id }).await {
        Ok(Response::Members { members }) => {
            let members: Vec<_> = members.iter().map(MemberContext::of).collect();
            Answer::json(200, json_line(&members))
        }
        Ok(_) => internal(),
        Err(error) => {
            Line::warn("failed to promote a member")
                .id("member-id", id)
                .text("error", error.message())
                .write();
            refused(error)
        }
    }
}

/// What another member is told whose promotion failed.
fn refused(error: Error) -> Answer {
    match error {
        Error::MemberNotFound => Answer::error(404, NOT_FOUND),
        Error::MemberNotLearner => Answer::error(412, NOT_LEARNER),
        Error::LearnerNotReady => Answer::error(412, error.message()),
        _ => internal(),
    }
}

fn internal() -> Answer {
    Answer::json(500, r#"{"message":"Internal Server Error"}"#.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_says_of_a_promotion_is_understood() {
        for (status, body, error) in [
            (404, "membership: ID not found\n", Error::MemberNotFound),
            (412, "membership: can only promote a learner member\n", Error::MemberNotLearner),
            (
                412,
                "etcdserver: can only promote a learner member which is in sync with leader\n",
                Error::LearnerNotReady,
            ),
        ] {
            assert_eq!(understood(status, body.as_bytes()), Some(Err(error)), "{body}");
        }
        for (status, body) in [(404, "404 page not found\n"), (500, "x"), (200, "no list"), (412, "?")] {
            assert_eq!(understood(status, body.as_bytes()), None, "{body}");
        }
        let json = br#"[{"id":7,"peerURLs":["http://a:1"],"name":"a"}]"#;
        let Some(Ok(Response::Members { members })) = understood(200, json) else { panic!("members") };
        assert_eq!(members[0].member_attributes.as_ref().map(|own| own.name.as_str()), Some("a"));
    }
}
