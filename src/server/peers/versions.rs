//! The versions of the other members, which a leader asks for to find the one that the cluster agrees on.
#![forbid(unsafe_code)]

use std::rc::Rc;

use futures::future::join_all;

use super::client::Ask;
use super::join::Versions;
use super::link::Link;
use super::pipeline::exchange;
use super::switchboard::Switchboard;
use crate::replica::port::Input;
use crate::server::io::{clock, task};
use crate::stdx::time::{Duration, Instant};

/// Time between two rounds of questions in a term, etcd's own figure.
const INTERVAL: Duration = Duration::from_secs(4);

/// When the other members were asked last.
#[derive(Debug, Default)]
pub struct Asked {
    /// In which term, and when.
    last: Option<(u64, Instant)>,
}

impl Asked {
    /// Whether the leader of this term is to ask now: at the term's beginning, and then again and again.
    pub fn is_due(&mut self, term: u64, now: Instant) -> bool {
        let is_due = self.last.is_none_or(|(asked, at)| asked != term || now.since(at) >= INTERVAL);
        if is_due {
            self.last = Some((term, now));
        }
        is_due
    }
}

impl Switchboard {
    /// Asks all other members at once, and tells the replica what they say.
    pub fn ask_versions(self: &Rc<Self>) {
        let (switchboard, links) = (self.clone(), self.links());
        task::spawn(async move {
            let answers = join_all(links.iter().map(|link| version_of(&switchboard, link))).await;
            switchboard.inbox().push(Input::Versions(answers));
        });
    }
}

/// The version of a member; none if it does not answer in time.
async fn version_of(switchboard: &Switchboard, link: &Link) -> Option<String> {
    let ask = Ask { method: "GET", path: "/version", to: None, content: None };
    let deadline = clock::now() + switchboard.own().request_timeout;
    let answer = task::until(deadline, exchange(switchboard, link, &ask)).await?;
    let (status, body) = answer.ok()?;
    let versions: Versions = serde_json::from_slice(&body).ok()?;
    (status == 200).then_some(versions.server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_asked_in_each_term_and_now_and_then() {
        let (mut asked, now) = (Asked::default(), Instant::default());
        assert!(asked.is_due(2, now) && !asked.is_due(2, now + Duration::from_secs(3)));
        assert!(asked.is_due(3, now + Duration::from_secs(3)));
        assert!(
            !asked.is_due(3, now + Duration::from_secs(6)) && asked.is_due(3, now + Duration::from_secs(7))
        );
    }
}
