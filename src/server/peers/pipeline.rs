//! Messages posted one by one: while a member has not dialled its streams, and for what would hold a stream up.
#![forbid(unsafe_code)]

use std::io;
use std::rc::Rc;

use prost::Message as _;
use raft::eraftpb::Message;

use super::client::{Ask, Connection};
use super::link::Link;
use super::switchboard::Switchboard;
use crate::server::io::task;

/// Messages that may wait to be posted, etcd's own figure.
pub const MESSAGES_MAX: usize = 64;
/// Messages posted at a time, etcd's own figure.
const POSTS_MAX: usize = 4;

/// Takes a message. False if too many wait.
pub fn push(switchboard: &Rc<Switchboard>, link: &Rc<Link>, message: Box<Message>) -> bool {
    if link.posts.borrow().len() >= MESSAGES_MAX {
        return false;
    }
    link.posts.borrow_mut().push_back(message);
    if link.posting.get() < POSTS_MAX {
        link.posting.set(link.posting.get() + 1);
        let (switchboard, link) = (switchboard.clone(), link.clone());
        task::spawn(async move {
            post_all(&switchboard, &link).await;
            link.posting.set(link.posting.get() - 1);
        });
    }
    true
}

/// Posts until nothing waits.
async fn post_all(switchboard: &Switchboard, link: &Link) {
    loop {
        let message = link.posts.borrow_mut().pop_front();
        let Some(message) = message else { return };
        match post(switchboard, link, &message).await {
            Ok(()) => link.on_success(),
            Err(Failure { error, was_sent }) => {
                link.contact().send_failures.inc();
                link.on_failure("post a message to", &error);
                if was_sent {
                    switchboard.unreachable(link.id);
                } else {
                    switchboard.undelivered(link.id, [message]);
                }
            }
        }
        task::make_room().await;
    }
}

/// Why a request has failed.
pub struct Failure {
    error: io::Error,
    /// The member may have got it.
    was_sent: bool,
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl Failure {
    fn sent(error: io::Error) -> Self {
        Self { error, was_sent: true }
    }

    fn unsent(error: io::Error) -> Self {
        Self { error, was_sent: false }
    }
}

async fn post(switchboard: &Switchboard, link: &Link, message: &Message) -> Result<(), Failure> {
    let content = message.encode_to_vec();
    let ask = Ask {
        method: "POST",
        path: "/raft",
        to: Some(link.id),
        content: Some(("application/protobuf", &content)),
    };
    let (status, text) = exchange(switchboard, link, &ask).await?;
    link.contact().sent_bytes.add(content.len() as u64);
    let text = String::from_utf8_lossy(&text).trim_end().to_owned();
    let refused = |why: String| Err(Failure::sent(io::Error::other(why)));
    match status {
        204 => Ok(()),
        403 => {
            if text.contains("removed member") {
                switchboard.on_removed(link.id);
            }
            refused(format!("refused for good: {text}"))
        }
        412 => refused(text),
        status => refused(format!("unexpected http status {status}: {text}")),
    }
}

/// Asks a member and reads the whole answer: status and body. The request is sent once: whether a member that goes in
/// the middle has taken it is not known, and a proposal that is taken twice is applied twice.
///
/// # Errors
/// When the member cannot be reached.
pub async fn exchange(
    switchboard: &Switchboard,
    link: &Link,
    ask: &Ask<'_>,
) -> Result<(u16, Vec<u8>), Failure> {
    while let Some(mut used) = link.take_idle() {
        // The member may have ended it meanwhile.
        if used.is_quiet().await {
            return exchange_on(switchboard, link, used, ask).await.map_err(Failure::sent);
        }
    }
    let url = link.url().map_err(Failure::unsent)?;
    let fresh = Connection::dial(switchboard.own(), &url).await.map_err(Failure::unsent)?;
    exchange_on(switchboard, link, fresh, ask).await.map_err(Failure::sent)
}

async fn exchange_on(
    switchboard: &Switchboard,
    link: &Link,
    mut connection: Connection,
    ask: &Ask<'_>,
) -> io::Result<(u16, Vec<u8>)> {
    let reply = connection.ask(switchboard.own(), ask).await?;
    let body = connection.read_whole(reply.body).await?;
    if reply.keeps_alive {
        link.keep_idle(connection);
    }
    Ok((reply.status, body))
}
