//! A stream as its receiver reads it: dialled, and dialled again whenever it has ended.
#![forbid(unsafe_code)]

use std::io;
use std::rc::Rc;

use raft::eraftpb::Message;

use super::client::{Ask, Connection};
use super::link::Link;
use super::switchboard::{Own, Switchboard};
use super::writer::name;
use crate::peer::append_stream;
use crate::peer::channel::Channel;
use crate::peer::frame::Broken;
use crate::peer::message_stream;
use crate::server::http1::reply::{Body, Reply};
use crate::server::io::{clock, task};
use crate::server::log::Line;
use crate::stdx::time::Duration;

/// Time between two attempts, etcd's own figure.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Time between two attempts where the member sends what is no message.
const BACK_OFF_FROM_NONSENSE: Duration = Duration::from_secs(1);

/// Reads one stream of a link for as long as its member belongs to the cluster.
pub async fn read(switchboard: Rc<Switchboard>, link: Rc<Link>, channel: Channel) {
    while !link.is_gone() {
        let began = clock::now();
        let mut back_off = BACK_OFF;
        match dial(&switchboard, &link, channel).await {
            Err(error) => {
                if link.is_refused(&error) {
                    switchboard.gone(link.id);
                }
                link.on_failure("dial", &error);
            }
            Ok((mut connection, mut reply)) => {
                link.on_success();
                let ended = follow(&switchboard, &link, channel, &mut connection, &mut reply.body).await;
                if ended.is_err() && !link.is_gone() {
                    link.contact().receive_failures.inc();
                }
                if ended.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) {
                    back_off = BACK_OFF_FROM_NONSENSE;
                }
                let why = ended.err().map_or_else(|| "EOF".to_owned(), |error| error.to_string());
                Line::warn("lost TCP streaming connection with remote peer")
                    .text("stream-reader-type", name(channel))
                    .id("remote-peer-id", link.id)
                    .text("error", why)
                    .write();
            }
        }
        let passed = clock::now().since(began);
        task::sleep(back_off.saturating_sub(passed).max(Duration::from_millis(1))).await;
    }
}

/// Asks for a stream.
async fn dial(switchboard: &Switchboard, link: &Link, channel: Channel) -> io::Result<(Connection, Reply)> {
    let own = switchboard.own();
    let mut connection = Connection::dial(own, &link.url()?).await?;
    let kind = if channel == Channel::Append { "msgapp" } else { "message" };
    let path = format!("/raft/stream/{kind}/{:x}", own.member_id);
    let ask = Ask { method: "GET", path: &path, to: Some(link.id), content: None };
    let reply = connection.ask(own, &ask).await?;
    if reply.status == 200 {
        return Ok((connection, reply));
    }
    if reply.status == 410 {
        switchboard.on_removed(link.id);
    }
    let text = connection.read_whole(reply.body).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim_end().to_owned();
    Err(io::Error::other(match reply.status {
        410 => "the member has been permanently removed from the cluster".to_owned(),
        404 => format!("peer {:x} failed to find local node {:x}", link.id, own.member_id),
        412 if text == crate::peer::greeting::OTHER_CLUSTER => {
            format!("{text}: it belongs to {}, this member to {:x}", reply.cluster_id, own.cluster_id)
        }
        412 => text,
        status => format!("unhandled http status {status}: {text}"),
    }))
}

/// Hands the messages of a stream to the replica, until the stream ends.
async fn follow(
    switchboard: &Switchboard,
    link: &Link,
    channel: Channel,
    connection: &mut Connection,
    body: &mut Body,
) -> io::Result<()> {
    let mut decoder = Decoder::new(channel, link.id, switchboard.own());
    while *body != Body::Done && !link.is_gone() {
        let take = |bytes: &[u8]| {
            link.contact().received_bytes.add(bytes.len() as u64);
            decoder.push(bytes);
        };
        connection.read_body(body, take).await?;
        let broken = |broken: Broken| io::Error::new(io::ErrorKind::InvalidData, broken.to_string());
        while let Some(message) = decoder.take().map_err(broken)? {
            switchboard.inbox().room().await;
            if let Err(refusal) = switchboard.deliver(message) {
                Line::warn("rejected Raft message").id("from", link.id).text("error", refusal).write();
            }
        }
        task::make_room().await;
    }
    Ok(())
}

/// The decoder of either stream.
enum Decoder {
    Append(append_stream::Decoder),
    Message(message_stream::Decoder),
}

impl Decoder {
    fn new(channel: Channel, from: u64, own: &Own) -> Self {
        let bytes_max = own.message_bytes_max;
        match channel {
            Channel::Append => Self::Append(append_stream::Decoder::new(from, own.member_id, bytes_max)),
            _ => Self::Message(message_stream::Decoder::new(bytes_max)),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::Append(decoder) => decoder.push(bytes),
            Self::Message(decoder) => decoder.push(bytes),
        }
    }

    fn take(&mut self) -> Result<Option<Message>, Broken> {
        match self {
            Self::Append(decoder) => decoder.take(),
            Self::Message(decoder) => decoder.take(),
        }
    }
}
