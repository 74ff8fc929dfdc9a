//! Who the other members are, and which way a message takes to one of them.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use raft::eraftpb::{Message, MessageType};

use super::hash_kv::{self, Hashes};
use super::inbox::{Answered, Inbox};
use super::lessor::Questions;
use super::link::Link;
use super::reception::{self, Snapshots};
use super::{pipeline, probe, reader, service, transfer};
use crate::cluster::Cluster;
use crate::cluster::member::MemberContext;
use crate::peer::channel::{self, Channel};
use crate::proto::membershippb::Member;
use crate::replica::port::Input;
use crate::replica::read_gate::ReadGate;
use crate::server::io::task;
use crate::server::log::Line;
use crate::server::metrics;
use crate::server::metrics::contacts::Contacts;
use crate::server::tls::Ports;
use crate::server::tls::door::Door;
use crate::server::tls::handshake::Handshakes;
use crate::server::tls::san::Addresses;
use crate::stdx::time::Duration;

/// Members that are answered before it is known whether they belong to the cluster.
const REMOTES_MAX: usize = 64;

/// What this member is to others.
#[derive(Clone)]
pub struct Own {
    /// Its id.
    pub member_id: u64,
    /// The id of its cluster.
    pub cluster_id: u64,
    /// Where others reach it, as a header has it.
    pub peer_urls: String,
    /// How long a connection may take to be made.
    pub dial_timeout: Duration,
    /// How long a question for a client may take.
    pub request_timeout: Duration,
    /// Bytes of one message of another member.
    pub message_bytes_max: u64,
    /// The number that the tickets of questions have in place of a session core's.
    pub core: u16,
    /// What secures connections with others.
    pub ports: Ports,
}

/// What a switchboard begins with, before the replica's executor runs.
pub struct Beginning {
    /// What this member is to others.
    pub own: Own,
    /// The sockets of the peer listeners, and whether each is secured.
    pub sockets: Vec<(TcpListener, bool)>,
    /// What the replica core counts.
    pub counts: Arc<metrics::Core>,
    /// What this member knows of raft.
    pub gate: Arc<ReadGate>,
    /// What other cores learn of the other members.
    pub contacts: Arc<Contacts>,
    /// The members of a cluster that this member joins, as they said before its first start.
    pub known: Vec<MemberContext>,
    /// What is needed for snapshots.
    pub snapshots: reception::Settings,
    /// What is needed for hashes.
    pub hashes: hash_kv::Settings,
}

/// The ways to all other members.
pub struct Switchboard {
    own: Own,
    links: RefCell<BTreeMap<u64, Rc<Link>>>,
    /// Members that this one has heard of and does not know yet to belong to the cluster: it answers them. At most
    /// [`REMOTES_MAX`].
    remotes: RefCell<BTreeMap<u64, Rc<Link>>>,
    /// See [`Beginning::known`].
    known: Vec<MemberContext>,
    pub(super) contacts: Arc<Contacts>,
    /// Another member has said that this one was removed.
    is_removed: Cell<bool>,
    /// The cluster when it was last looked at.
    cluster: RefCell<Cluster>,
    inbox: Inbox,
    pub(super) questions: Questions,
    pub(super) gate: Arc<ReadGate>,
    pub(super) snapshots: Snapshots,
    pub(super) hashes: Hashes,
    /// What the replica core counts.
    pub(super) counts: Arc<metrics::Core>,
    /// Bytes of requests' bodies that are being read.
    pub(super) body_bytes: Cell<u64>,
}

impl Switchboard {
    /// Begins to serve the peer listeners. No other member is known yet.
    pub fn start(beginning: Beginning) -> Rc<Self> {
        let Beginning { own, sockets, counts, gate, contacts, known, snapshots, hashes } = beginning;
        let handshakes = own.ports.peer_workers.clone().map(Handshakes::new);
        let switchboard = Rc::new(Self {
            remotes: RefCell::default(),
            contacts,
            is_removed: Cell::new(false),
            questions: Questions::new(own.core, own.request_timeout),
            own,
            links: RefCell::default(),
            cluster: RefCell::default(),
            inbox: Inbox::default(),
            gate,
            snapshots: Snapshots::new(snapshots),
            hashes: Hashes::new(hashes),
            counts: counts.clone(),
            body_bytes: Cell::new(0),
            known,
        });
        for member in &switchboard.known {
            switchboard.meet(member.id, &member.peer_urls);
        }
        for (socket, is_secure) in sockets {
            let door = match (&switchboard.own.ports.peer, &handshakes) {
                (Some(port), Some(handshakes)) if is_secure => Some(Rc::new(Door {
                    port: port.clone(),
                    handshakes: handshakes.clone(),
                    counts: counts.clone(),
                    addresses: (!port.files.skips_client_san).then(Addresses::default),
                })),
                _ if is_secure => continue,
                _ => None,
            };
            task::spawn(service::listen(switchboard.clone(), socket, door));
        }
        switchboard
    }

    /// What this member is to others.
    pub fn own(&self) -> &Own {
        &self.own
    }

    /// What has come for the replica.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// Ready while something waits for the replica loop.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.inbox.poll(cx)
    }

    /// Answers for clients of this member.
    pub fn take_answers(&self) -> Vec<Answered> {
        self.inbox.take_answers()
    }

    /// The way to a member.
    pub fn link(&self, id: u64) -> Option<Rc<Link>> {
        self.links.borrow().get(&id).cloned()
    }

    /// The way to a member, also to one that belongs to the cluster by what others have told before it is in the log.
    pub fn member(&self, id: u64) -> Option<Rc<Link>> {
        let told = || self.known.iter().any(|member| member.id == id);
        self.link(id).or_else(|| self.remotes.borrow().get(&id).filter(|_| told()).cloned())
    }

    /// A member that is not known asks, or was told of: it can be answered from now on.
    pub fn meet(&self, id: u64, urls: &[String]) {
        let is_known = id == self.own.member_id || self.is_removed(id) || self.link(id).is_some();
        let mut remotes = self.remotes.borrow_mut();
        if is_known || urls.is_empty() || remotes.contains_key(&id) || remotes.len() >= REMOTES_MAX {
            return;
        }
        Line::info("added new remote peer").id("remote-peer-id", id).texts("remote-peer-urls", urls).write();
        remotes.insert(id, Rc::new(Link::new(id, urls, Arc::default())));
    }

    /// Who the members are by what was known before this one has learnt it from the log.
    pub fn known(&self) -> &[MemberContext] {
        &self.known
    }

    /// Another member, `by`, says that this one was removed for good.
    pub fn on_removed(&self, by: u64) {
        if self.cluster.borrow().releases(self.own.member_id, by) {
            self.is_removed.set(true);
        }
    }

    /// Whether another member has said that this one was removed for good.
    pub fn was_removed(&self) -> bool {
        self.is_removed.get()
    }

    /// The ways to all other members.
    pub fn links(&self) -> Vec<Rc<Link>> {
        self.links.borrow().values().cloned().collect()
    }

    /// Whether a member was removed for good.
    pub fn is_removed(&self, id: u64) -> bool {
        self.cluster.borrow().removed.contains(&id)
    }

    /// Shows `look` the cluster as it was last looked at.
    pub fn with_cluster<T>(&self, look: impl FnOnce(&Cluster) -> T) -> T {
        look(&self.cluster.borrow())
    }

    /// Sends a message. One to somebody who is not known is lost.
    pub fn send(self: &Rc<Self>, to: u64, message: Box<Message>) {
        let remote = || self.remotes.borrow().get(&to).cloned();
        let Some(link) = self.link(to).or_else(remote) else { return };
        let channel = channel::choose(message.msg_type(), link.append.is_open(), link.message.is_open());
        let taken = match channel {
            Channel::Append => link.append.push(message),
            Channel::Message => link.message.push(message),
            Channel::Pipeline => pipeline::push(self, &link, message),
        };
        if !taken {
            link.contact().send_failures.inc();
            Line::warn("dropped internal Raft message since sending buffer is full")
                .id("remote-peer-id", to)
                .debug("channel", &channel)
                .write();
            self.unreachable(to);
        }
    }

    /// A message to this member was lost.
    pub fn unreachable(&self, id: u64) {
        self.inbox.push(Input::PeerUnreachable(id));
    }

    /// These messages to a member were not sent. What was proposed to it may be proposed to another one.
    pub fn undelivered(&self, id: u64, unsent: impl IntoIterator<Item = Box<Message>>) {
        let mut unsent = unsent.into_iter().peekable();
        if unsent.peek().is_some() {
            self.unreachable(id);
        }
        for message in unsent.filter(|message| message.msg_type() == MessageType::MsgPropose) {
            self.inbox.push(Input::Undelivered(message));
        }
    }

    /// Nobody listens where a member was. What raft does not follow is no news to it.
    pub fn gone(&self, id: u64) {
        if self.gate.leader() == id {
            self.inbox.push(Input::PeerGone(id));
        }
    }

    /// Takes a message for raft.
    ///
    /// # Errors
    /// Why it is none, in etcd's words.
    pub fn deliver(&self, message: Message) -> Result<(), &'static str> {
        self.admit(&message)?;
        self.inbox.push(Input::PeerMessage(Box::new(message)));
        Ok(())
    }

    /// Whether a message is for this member's raft.
    ///
    /// # Errors
    /// Why it is not, in etcd's words.
    pub(super) fn admit(&self, message: &Message) -> Result<(), &'static str> {
        if self.is_removed(message.from) {
            return Err("cannot process message from removed member");
        }
        if message.to != self.own.member_id {
            return Err("cannot process message to mismatch member");
        }
        Ok(())
    }

    /// Sends the newest state to a member that lags.
    pub fn send_snapshot(self: &Rc<Self>, to: u64, message: Box<Message>) {
        transfer::begin(self, to, message);
    }

    /// Follows the cluster: who has come or gone, and who has moved.
    pub fn follow(self: &Rc<Self>, cluster: &Cluster) {
        if *self.cluster.borrow() == *cluster {
            return;
        }
        *self.cluster.borrow_mut() = cluster.clone();
        let others = cluster.members.iter().filter(|(id, _)| **id != self.own.member_id);
        for (&id, member) in others {
            match self.link(id) {
                Some(link) => link.set_urls(peer_urls(member)),
                None => self.add(id, peer_urls(member)),
            }
        }
        let gone = |id: &u64, _: &mut Rc<Link>| !cluster.members.contains_key(id);
        let gone: Vec<Rc<Link>> =
            self.links.borrow_mut().extract_if(.., gone).map(|(_, link)| link).collect();
        for link in gone {
            Line::info("removed remote peer").id("removed-remote-peer-id", link.id).write();
            self.contacts.remove(link.id);
            link.end();
        }
    }

    fn add(self: &Rc<Self>, id: u64, urls: &[String]) {
        Line::info("added remote peer").id("remote-peer-id", id).texts("remote-peer-urls", urls).write();
        let remote = self.remotes.borrow_mut().remove(&id);
        if let Some(remote) = remote {
            remote.end();
        }
        let link = Rc::new(Link::new(id, urls, self.contacts.add(id)));
        self.links.borrow_mut().insert(id, link.clone());
        for channel in [Channel::Append, Channel::Message] {
            task::spawn(reader::read(self.clone(), link.clone(), channel));
        }
        task::spawn(probe::run(self.clone(), link));
    }

    /// Whether there is another member.
    pub fn has_peers(&self) -> bool {
        !self.links.borrow().is_empty()
    }
}

fn peer_urls(member: &Member) -> &[String] {
    member.raft_attributes.as_ref().map_or(&[], |attributes| &attributes.peer_urls)
}
