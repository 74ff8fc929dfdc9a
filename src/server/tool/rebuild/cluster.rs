//! The other members of a cluster, who remove a member and add another one in its place.
#![forbid(unsafe_code)]

use std::sync::mpsc;

use super::note::Note;
use crate::config::Url;
use crate::proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberRemoveRequest,
    MemberRemoveResponse,
};
use crate::server::client::{Client, Failure};
use crate::server::io::{clock, executor, task};
use crate::server::tls::Ports;
use crate::stdx::time::Duration;

/// How long a connection may take to be made.
const DIAL_WITHIN: Duration = Duration::from_secs(5);
/// How long a call may take.
const CALL_WITHIN: Duration = Duration::from_secs(10);
/// How long the cluster may refuse a change for the moment.
const CHANGE_WITHIN: Duration = Duration::from_secs(60);
/// Time between two attempts.
const BACK_OFF: Duration = Duration::from_millis(500);
/// Requests to the kernel that are under way at a time, at most.
const RING_DEPTH: usize = 64;
/// The codes with which a cluster refuses what it may do later: DeadlineExceeded and Unavailable.
const PASSING: [u32; 2] = [4, 14];
const NOT_FOUND: u32 = 5;

const LIST: &str = "/etcdserverpb.Cluster/MemberList";
const REMOVE: &str = "/etcdserverpb.Cluster/MemberRemove";
const ADD: &str = "/etcdserverpb.Cluster/MemberAdd";

/// Who is asked for changes of the members.
pub(super) trait Others {
    /// What is known of the member that a note names, if it may be removed. Changes nothing.
    ///
    /// # Errors
    /// Why nobody can rebuild it.
    fn look(&self, note: Note) -> Result<Note, String>;

    /// Has the member removed and another one added in its place, as far as this was not done before. The new one.
    ///
    /// # Errors
    /// Why not, and whether anything may have changed.
    fn replace(&self, note: Note) -> Result<u64, Refused>;
}

/// Why the members are not those that were asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) why: String,
    /// The members are as they were.
    pub(super) is_unchanged: bool,
}

/// The members of a cluster that are reached at these client URLs.
pub(super) struct Cluster {
    pub(super) endpoints: Vec<Url>,
    pub(super) ports: Ports,
}

impl Others for Cluster {
    fn look(&self, note: Note) -> Result<Note, String> {
        let asking = self.asking(note);
        run(move || async move { asking.look().await })?
    }

    fn replace(&self, note: Note) -> Result<u64, Refused> {
        let asking = self.asking(note);
        let changed = |why| Refused { why, is_unchanged: false };
        run(move || async move { asking.replace().await }).map_err(changed)?
    }
}

impl Cluster {
    fn asking(&self, note: Note) -> Asking {
        Asking { note, endpoints: self.endpoints.clone(), ports: self.ports.clone() }
    }
}

/// Runs what asks others on an executor of its own.
fn run<A, W>(work: impl FnOnce() -> W + Send + 'static) -> Result<A, String>
where
    A: Send + 'static,
    W: Future<Output = A> + 'static,
{
    let (tell, told) = mpsc::channel();
    let main = move || async move {
        // Whoever started this waits for it.
        let _ = tell.send(work().await);
    };
    executor::spawn("rebuild", None, RING_DEPTH, main)?.join()?;
    told.recv().map_err(|_| "the cluster was not asked".to_owned())
}

/// A change of the members.
enum Change {
    Remove(u64),
    /// In the place of the removed member that is named first, one with these peer URLs, with or without a vote.
    Add(u64, Vec<String>, bool),
}

impl Change {
    /// Whether these are the members behind the change.
    fn is_made(&self, members: &[Member]) -> bool {
        match self {
            Self::Remove(id) => members.iter().all(|member| member.id != *id),
            Self::Add(old, urls, _) => added(*old, urls, members).is_some(),
        }
    }

    /// Whether a change that is refused with this code may be made later. The id of a new member is made of its URLs
    /// and of the second, so it may be the one that was removed just now: such a member is "not found".
    fn may_pass(&self, code: u32) -> bool {
        PASSING.contains(&code) || (matches!(self, Self::Add(..)) && code == NOT_FOUND)
    }

    /// Has the change made; the members behind it.
    async fn make(&self, client: &Client) -> Result<Vec<Member>, Failure> {
        match self {
            Self::Remove(id) => {
                let request = MemberRemoveRequest { id: *id };
                Ok(client.call::<MemberRemoveResponse>(REMOVE, &request, CALL_WITHIN).await?.members)
            }
            Self::Add(_, urls, is_learner) => {
                let request = MemberAddRequest { peer_ur_ls: urls.clone(), is_learner: *is_learner };
                Ok(client.call::<MemberAddResponse>(ADD, &request, CALL_WITHIN).await?.members)
            }
        }
    }
}

/// The member at these peer URLs, in whichever order, that is not the old one.
fn added<'m>(old: u64, urls: &[String], members: &'m [Member]) -> Option<&'m Member> {
    let sorted = |urls: &[String]| {
        let mut urls = urls.to_vec();
        urls.sort_unstable();
        urls
    };
    let urls = sorted(urls);
    members.iter().find(|member| member.id != old && sorted(&member.peer_ur_ls) == urls)
}

/// The members, asked about one of them.
struct Asking {
    note: Note,
    endpoints: Vec<Url>,
    ports: Ports,
}

/// What a member says of its cluster, and a way to it.
struct Answer {
    client: Client,
    members: Vec<Member>,
    /// Who answers.
    id: u64,
}

impl Asking {
    async fn look(mut self) -> Result<Note, String> {
        let id = self.note.member_id;
        let mut members = Err("no endpoint is named".to_owned());
        for endpoint in &self.endpoints {
            match self.ask(endpoint).await {
                Ok(answer) if answer.id == id => return Err(answers(id, endpoint)),
                Ok(answer) if members.is_err() => members = Ok(answer.members),
                Ok(_) => {}
                Err(failure) if members.is_err() => members = Err(format!("{endpoint}: {}", failure.text)),
                Err(_) => {}
            }
        }
        let members = members?;
        let Some(own) = find(&self.note, &members)? else { return Ok(self.note) };
        // Who cannot be dialled, or not with these certificates, does not answer.
        for url in Url::parse_list(&own.client_ur_ls.join(",")).unwrap_or_default() {
            if self.ask(&url).await.is_ok_and(|answer| answer.id == id) {
                return Err(answers(id, &url));
            }
        }
        (self.note.peer_urls, self.note.is_learner) = (own.peer_ur_ls.clone(), own.is_learner);
        Ok(self.note)
    }

    async fn replace(&self) -> Result<u64, Refused> {
        let Note { member_id: old, peer_urls: urls, is_learner, .. } = &self.note;
        let removed = self.change(&Change::Remove(*old)).await;
        removed.map_err(|(why, is_unchanged)| Refused {
            why: format!("member {old:x} is not removed: {why}"),
            is_unchanged,
        })?;
        let members = self.change(&Change::Add(*old, urls.clone(), *is_learner)).await;
        let failed = |why: &str| Refused {
            why: format!(
                "member {old:x} was removed, and a new one at {} could not be added: {why}",
                urls.join(",")
            ),
            is_unchanged: false,
        };
        let members = members.map_err(|(why, _)| failed(&why))?;
        let new = added(*old, urls, &members).ok_or_else(|| failed("it is gone again"))?;
        match new.name.as_str() {
            "" => Ok(new.id),
            name => Err(failed(&format!("member {:x}, {name}, has been started there already", new.id))),
        }
    }

    /// Has a change made. One whose answer is lost may have been made, so the members are asked for first each time.
    /// Why it was not made, and whether it is sure that it was not.
    async fn change(&self, change: &Change) -> Result<Vec<Member>, (String, bool)> {
        let deadline = clock::now() + CHANGE_WITHIN;
        let mut is_sure = true;
        loop {
            match self.attempt(change).await {
                Ok(members) => return Ok(members),
                Err(Failure { code, text }) => {
                    let is_final = code.is_some_and(|code| !change.may_pass(code));
                    is_sure &= is_final;
                    if is_final || clock::now() >= deadline {
                        return Err((text, is_sure));
                    }
                }
            }
            task::sleep(BACK_OFF).await;
        }
    }

    async fn attempt(&self, change: &Change) -> Result<Vec<Member>, Failure> {
        let mut failure = Failure { code: None, text: "no endpoint is named".to_owned() };
        for endpoint in &self.endpoints {
            match self.ask(endpoint).await {
                Ok(Answer { members, .. }) if change.is_made(&members) => return Ok(members),
                Ok(Answer { client, .. }) => return change.make(&client).await,
                Err(Failure { code, text }) => {
                    failure = Failure { code, text: format!("{endpoint}: {text}") };
                }
            }
        }
        Err(failure)
    }

    async fn ask(&self, endpoint: &Url) -> Result<Answer, Failure> {
        let client = Client::dial(endpoint, &self.ports, DIAL_WITHIN).await?;
        let request = MemberListRequest { linearizable: true };
        let MemberListResponse { header, members } = client.call(LIST, &request, CALL_WITHIN).await?;
        let (header, own) = (header.unwrap_or_default(), self.note.cluster_id);
        if header.cluster_id != own {
            let found = header.cluster_id;
            let text = format!("it belongs to cluster {found:x}, the damaged member to {own:x}");
            return Err(Failure { code: None, text });
        }
        Ok(Answer { client, members, id: header.member_id })
    }
}

/// What is said of a member that runs.
fn answers(id: u64, url: &Url) -> String {
    format!(
        "member {id:x} answers at {url}: stop it if it is to be rebuilt, and if it is well, this data directory is not \
         its own"
    )
}

/// The damaged member among those of its cluster; none where an earlier attempt has had it removed.
fn find<'m>(note: &Note, members: &'m [Member]) -> Result<Option<&'m Member>, String> {
    let id = note.member_id;
    match members.iter().find(|member| member.id == id) {
        Some(_) if members.len() == 1 => {
            Err(format!("member {id:x} is alone in its cluster: nobody can rebuild it"))
        }
        Some(own) => Ok(Some(own)),
        None if !note.peer_urls.is_empty() => Ok(None),
        None => Err(format!(
            "member {id:x} is in its cluster no more: add a new one (etcdctl member add), and start it with an empty \
             data directory and --initial-cluster-state=existing"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, url: &str) -> Member {
        let peer_ur_ls = url.split(',').map(str::to_owned).collect();
        Member { id, peer_ur_ls, ..Member::default() }
    }

    #[test]
    fn a_change_that_was_made_is_not_made_again() {
        let urls = vec!["http://c".to_owned(), "http://b".to_owned()];
        let (remove, add) = (Change::Remove(7), Change::Add(7, urls, false));
        let before = [member(5, "http://a"), member(7, "http://c,http://b")];
        let (between, after) = (&before[..1], [member(5, "http://a"), member(9, "http://b,http://c")]);
        assert!(!remove.is_made(&before) && remove.is_made(between) && remove.is_made(&after));
        assert!(!add.is_made(&before) && !add.is_made(between) && add.is_made(&after));
    }

    #[test]
    fn only_a_member_among_others_can_be_rebuilt() {
        let members = [member(5, "http://a"), member(7, "http://c")];
        let mut note = Note {
            cluster_id: 1,
            member_id: 7,
            peer_urls: vec![],
            is_learner: false,
            added: None,
            wal_dir: None,
        };
        assert_eq!(find(&note, &members).map(|found| found.map(|member| member.id)), Ok(Some(7)));
        assert!(find(&note, &members[1..]).unwrap_err().contains("alone"));
        assert!(find(&note, &members[..1]).unwrap_err().contains("no more"));
        note.peer_urls = vec!["http://c".into()];
        assert_eq!(find(&note, &members[..1]), Ok(None), "an earlier attempt has had it removed");
    }
}
