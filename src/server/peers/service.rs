//! What is answered at the peer port. Statuses and texts are etcd's.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};
use futures::io::AsyncWriteExt;
use raft::eraftpb::Message;

use super::client::{PATIENCE, in_time};
use super::guests::{Guests, Visit};
use super::lessor;
use super::link::Link;
use super::promotion;
use super::reception;
use super::switchboard::Switchboard;
use super::writer;
use crate::cluster::member::MemberContext;
use crate::config::ETCD_VERSION;
use crate::peer::channel::Channel;
use crate::peer::greeting::{self, parse_id};
use crate::peer::hash_kv;
use crate::peer::message;
use crate::server::http1::answer::{Answer, Form};
use crate::server::http1::connection::{self, Read};
use crate::server::http1::head::Head;
use crate::server::io::accept::{self, Accepted, Take};
use crate::server::io::wire::{ByteStream, linger};
use crate::server::io::{clock, socket, task};
use crate::server::log::Line;
use crate::server::tls::door::Door;
use crate::snapshot::buckets::storage_version;
use crate::stdx::time::Duration;

/// How long a connection may be without a request.
const IDLE: Duration = Duration::from_secs(30);
/// Longest body of a request that is no message.
const QUESTION_BYTES_MAX: u64 = 64 << 10;
/// Bytes of all bodies that are being read, where no message is longer.
const BODIES_BYTES_MAX: u64 = 96 << 20;

/// Where messages are posted.
const MESSAGES: &str = "/raft";
/// Where snapshots are sent to.
const SNAPSHOTS: &str = "/raft/snapshot";

/// Serves a peer listener for as long as the executor runs.
pub async fn listen(switchboard: Rc<Switchboard>, socket: TcpListener, door: Option<Rc<Door>>) {
    let listener = socket::accept_on(socket);
    let desk = Desk { switchboard, door, guests: Guests::new() };
    accept::accept(&listener, &desk.guests.admission, &desk).await;
}

/// Where connections of other members are served.
struct Desk {
    switchboard: Rc<Switchboard>,
    /// Where they come in, if they are secured.
    door: Option<Rc<Door>>,
    /// Those of whom it is not known whether they are members.
    guests: Guests,
}

impl Take for Desk {
    fn take(&self, accepted: Accepted) {
        let Ok((stream, peer, place)) = accepted.bind() else { return };
        let (switchboard, door) = (self.switchboard.clone(), self.door.clone());
        let visit = self.guests.enter(place);
        task::spawn(async move {
            let serve = async {
                match door {
                    None => serve(&switchboard, stream, &visit).await,
                    Some(door) => {
                        if let Some((stream, _)) = door.welcome(stream, &[], peer).await {
                            serve(&switchboard, stream, &visit).await;
                        }
                    }
                }
            };
            visit.last(serve).await;
        });
    }

    fn crowded(&self) {
        self.guests.make_room();
        if let Some(door) = &self.door {
            door.handshakes.evict();
        }
    }
}

/// What a request comes to.
enum Outcome {
    /// An answer, and perhaps another request.
    Answer(Answer),
    /// A stream that goes on until the connection ends.
    Stream(Rc<Link>, Channel),
}

/// Serves one connection to its end.
async fn serve<S: ByteStream>(switchboard: &Rc<Switchboard>, mut stream: S, visit: &Visit) {
    let mut input = BytesMut::new();
    loop {
        match serve_one(switchboard, &mut stream, &mut input, visit).await {
            Ok(Next::Request) => task::make_room().await,
            Ok(Next::Stream(link, channel)) => {
                return writer::write(switchboard, &link, channel, stream).await;
            }
            Ok(Next::End) => return linger(&mut stream).await,
            Err(_) => return,
        }
    }
}

/// What follows on a connection.
enum Next {
    Request,
    Stream(Rc<Link>, Channel),
    End,
}

async fn serve_one<S: ByteStream>(
    switchboard: &Rc<Switchboard>,
    stream: &mut S,
    input: &mut BytesMut,
    visit: &Visit,
) -> io::Result<Next> {
    let reading = task::until(clock::now() + IDLE, connection::read_head(stream, input));
    let Some(read) = reading.await else { return Ok(Next::End) };
    let head = match read? {
        Read::Head(head, _) => head,
        Read::Gone => return Ok(Next::End),
        Read::Refused(refusal) => {
            let form = Form { is_old: false, keeps_alive: false, is_head: false };
            connection::write(stream, *refusal, form).await?;
            return Ok(Next::End);
        }
    };
    input.advance(head.bytes);
    if let Some(link) = member(switchboard, &head) {
        visit.is_of(&link);
    }
    if head.expects_continue && (head.body_bytes > 0 || head.is_chunked) {
        in_time(stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")).await?;
    }
    if head.target == SNAPSHOTS && head.method == "POST" {
        let answer = reception::receive(switchboard, &head, stream, input).await;
        connection::write(stream, answer, Form { keeps_alive: false, ..head.form }).await?;
        return Ok(Next::End);
    }
    let Some(held) = Held::new(switchboard, &head) else {
        let form = Form { keeps_alive: false, ..head.form };
        connection::write(stream, Answer::error(413, "request body too large"), form).await?;
        return Ok(Next::End);
    };
    let body = in_time(connection::read_body(stream, input, head.body_bytes as usize)).await?;
    let outcome = answer(switchboard, &head, body).await;
    drop(held);
    match outcome {
        Outcome::Stream(link, channel) => {
            in_time(stream.write_all(stream_head(switchboard.own().cluster_id).as_bytes())).await?;
            Ok(Next::Stream(link, channel))
        }
        Outcome::Answer(answer) => {
            let closes = connection::write(stream, answer, head.form).await?;
            Ok(if head.form.keeps_alive && !closes { Next::Request } else { Next::End })
        }
    }
}

/// Room for the body of a request, until dropped.
struct Held<'a>(&'a Switchboard, u64);

impl<'a> Held<'a> {
    fn new(switchboard: &'a Switchboard, head: &Head) -> Option<Self> {
        let message_bytes_max = switchboard.own().message_bytes_max;
        let bytes_max = if head.target == MESSAGES { message_bytes_max } else { QUESTION_BYTES_MAX };
        let bytes = head.body_bytes;
        let held = switchboard.body_bytes.get().saturating_add(bytes);
        (bytes <= bytes_max && held <= BODIES_BYTES_MAX.max(message_bytes_max)).then(|| {
            switchboard.body_bytes.set(held);
            Self(switchboard, bytes)
        })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.body_bytes.set(self.0.body_bytes.get() - self.1);
    }
}

/// The head of a stream.
fn stream_head(cluster_id: u64) -> String {
    format!(
        "HTTP/1.1 200 OK\r\n{}: {cluster_id:x}\r\n{}: {ETCD_VERSION}\r\nTransfer-Encoding: chunked\r\n\r\n",
        greeting::CLUSTER_ID,
        greeting::SERVER_VERSION,
    )
}

async fn answer(switchboard: &Rc<Switchboard>, head: &Head, body: Bytes) -> Outcome {
    let path = head.target.split('?').next().unwrap_or_default();
    Outcome::Answer(match path {
        MESSAGES => only("POST", head, post(switchboard, head, body)).await,
        "/raft/probing" => probing(),
        SNAPSHOTS => {
            switchboard.contacts.snapshots.from(None).fail();
            not_allowed("POST")
        }
        "/members" => only("GET", head, async { members(switchboard) }).await,
        "/downgrade/enabled" => only("GET", head, async { downgrade(switchboard) }).await,
        hash_kv::PATH => only("GET", head, super::hash_kv::answer(switchboard, head, body)).await,
        "/version" => only("GET", head, async { version(switchboard) }).await,
        lessor::RENEWALS if head.method == "POST" => lessor::renew(switchboard, body).await,
        lessor::QUESTIONS if head.method == "POST" => lessor::time_to_live(switchboard, body).await,
        lessor::RENEWALS | lessor::QUESTIONS => Answer::error(405, "Method Not Allowed"),
        _ if path.starts_with(promotion::PATH) => {
            let answer = only("POST", head, promotion::promote(switchboard, path)).await;
            with_cluster_id(answer, switchboard)
        }
        _ => match path.strip_prefix("/raft/stream/") {
            Some(_) if head.method != "GET" => not_allowed("GET"),
            Some(rest) => match stream(switchboard, head, rest) {
                Ok((link, channel)) => return Outcome::Stream(link, channel),
                Err(refusal) => with_cluster_id(refusal, switchboard),
            },
            None => Answer::error(404, "404 page not found"),
        },
    })
}

async fn only(method: &'static str, head: &Head, answer: impl Future<Output = Answer>) -> Answer {
    if head.method == method { answer.await } else { not_allowed(method) }
}

fn not_allowed(method: &'static str) -> Answer {
    let mut answer = Answer::error(405, "Method Not Allowed");
    answer.headers.push(("Allow", method.into()));
    answer
}

pub(super) fn with_cluster_id(mut answer: Answer, switchboard: &Switchboard) -> Answer {
    let id = format!("{:x}", switchboard.own().cluster_id);
    answer.headers.push((greeting::CLUSTER_ID, Cow::Owned(id)));
    answer
}

/// The refusal of a member of another cluster or of a version that is not understood.
pub(super) fn refusal(switchboard: &Switchboard, head: &Head) -> Option<Answer> {
    let why = greeting::refusal(|name| head.extension(name), ETCD_VERSION, switchboard.own().cluster_id)?;
    let said = |name| head.extension(name).unwrap_or_default();
    Line::warn(if why == greeting::OTHER_CLUSTER { "request cluster ID mismatch" } else { why })
        .text("remote-peer-server-name", said(greeting::SERVER_FROM))
        .text("remote-peer-server-version", said(greeting::SERVER_VERSION))
        .text("remote-peer-cluster-id", said(greeting::CLUSTER_ID))
        .id("local-member-cluster-id", switchboard.own().cluster_id)
        .write();
    Some(Answer::error(412, why))
}

/// A member that asks, and says where it is, can be answered: it may be one that this member has yet to learn of.
pub(super) fn meet(switchboard: &Switchboard, head: &Head) {
    let id = head.extension(greeting::SERVER_FROM).and_then(parse_id);
    let urls = head.extension(greeting::PEER_URLS).unwrap_or_default();
    if let Some(id) = id {
        let urls: Vec<String> = urls.split(',').filter(|url| !url.is_empty()).map(str::to_owned).collect();
        switchboard.meet(id, &urls);
    }
}

/// The member whose request it says it is: one of the cluster, or of the one that this member joins.
fn member(switchboard: &Switchboard, head: &Head) -> Option<Rc<Link>> {
    let id = head.extension(greeting::SERVER_FROM).and_then(parse_id)?;
    let link = switchboard.member(id)?;
    let refusal = greeting::refusal(|name| head.extension(name), ETCD_VERSION, switchboard.own().cluster_id);
    refusal.is_none().then_some(link)
}

/// One message. It waits until the replica has room for it, and its body counts among those that are being read.
async fn post(switchboard: &Switchboard, head: &Head, body: Bytes) -> Answer {
    let answer = match refusal(switchboard, head) {
        Some(refusal) => refusal,
        None => {
            meet(switchboard, head);
            match message::decode(body) {
                Err(_) => Answer::error(400, "error unmarshalling raft message"),
                Ok(message) => take_in(switchboard, message).await,
            }
        }
    };
    with_cluster_id(answer, switchboard)
}

async fn take_in(switchboard: &Switchboard, message: Message) -> Answer {
    switchboard.inbox().room().await;
    match switchboard.deliver(message) {
        Ok(()) => Answer::empty(204),
        Err(why) => Answer::json(403, serde_json::json!({ "message": why }).to_string()),
    }
}

/// Which stream of which member is asked for; `rest` stands behind the streams' common path.
fn stream(switchboard: &Switchboard, head: &Head, rest: &str) -> Result<(Rc<Link>, Channel), Answer> {
    if let Some(answer) = refusal(switchboard, head) {
        return Err(answer);
    }
    let channel = match rest.split_once('/') {
        Some(("msgapp", _)) => Channel::Append,
        Some(("message", _)) => Channel::Message,
        _ => return Err(Answer::error(404, "invalid path")),
    };
    let id = rest.split_once('/').and_then(|(_, id)| parse_id(id));
    let id = id.ok_or_else(|| Answer::error(404, "invalid from"))?;
    if switchboard.is_removed(id) {
        return Err(Answer::error(410, "removed member"));
    }
    let link = switchboard.link(id).ok_or_else(|| {
        meet(switchboard, head);
        Answer::error(404, "error sender not found")
    })?;
    if head.extension(greeting::RAFT_TO) != Some(format!("{:x}", switchboard.own().member_id).as_str()) {
        return Err(Answer::error(412, "to field mismatch"));
    }
    link.takes_digest.set(head.extension(greeting::TAKES_DIGEST) == Some(greeting::SHA256));
    Ok((link, channel))
}

/// Tells that this member lives, and its time.
fn probing() -> Answer {
    const TYPE: &str = "text/plain; charset=utf-8";
    let now = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(clock::wall_nanos()));
    let format = &time::format_description::well_known::Rfc3339;
    let now = now.ok().and_then(|now| now.format(format).ok()).unwrap_or_default();
    Answer::new(200, TYPE, format!("{{\"OK\":true,\"Now\":\"{now}\"}}\n"))
}

fn members(switchboard: &Switchboard) -> Answer {
    let mut members: Vec<MemberContext> =
        switchboard.with_cluster(|cluster| cluster.members.values().map(MemberContext::of).collect());
    if members.is_empty() {
        members = switchboard.known().to_vec();
    }
    with_cluster_id(Answer::json(200, json_line(&members)), switchboard)
}

/// A list of members as Go's encoder writes it.
pub(super) fn json_line(members: &[MemberContext]) -> String {
    // Numbers, texts and flags have a JSON form.
    format!("{}\n", serde_json::to_string(members).unwrap_or_default())
}

/// Whether the cluster goes down by a version.
fn downgrade(switchboard: &Switchboard) -> Answer {
    let is_enabled = switchboard.with_cluster(|cluster| cluster.downgrade_target.is_some());
    with_cluster_id(Answer::plain(200, is_enabled.to_string()), switchboard)
}

fn version(switchboard: &Switchboard) -> Answer {
    let cluster = switchboard.with_cluster(|cluster| cluster.version.clone());
    let storage = storage_version(&cluster).unwrap_or("unknown");
    let cluster = if cluster.is_empty() { "not_decided".to_owned() } else { cluster };
    Answer::json(
        200,
        format!(r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{cluster}","storage":"{storage}"}}"#),
    )
}

const _: () =
    assert!(PATIENCE.as_secs() < IDLE.as_secs(), "a kept connection is not closed under its client");
