//! Two members in one executor, on loopback.
#![forbid(unsafe_code)]

mod snapshots;

use std::collections::VecDeque;
use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use prost::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};

use super::client::{Ask, Connection};
use super::reception::Patience;
use super::{Beginning, Own, Switchboard, reception};
use crate::btree::{Applied, Read as _, Store};
use crate::cluster::Cluster;
use crate::config::Url;
use crate::error::Error;
use crate::limits::SNAPSHOTS_SENT_MAX;
use crate::mvcc::pin::Pins;
use crate::mvcc::write::initialize;
use crate::page::Owner;
use crate::proto::etcdserverpb::LeaseKeepAliveRequest;
use crate::proto::membershippb::{Member, RaftAttributes};
use crate::replica::arrival::Recipient;
use crate::replica::port::{Input, LeaseCall, Ticket};
use crate::replica::read_gate::ReadGate;
use crate::server::io::{clock, executor, socket, task, threads};
use crate::server::metrics;
use crate::server::tls::Ports;
use crate::stdx::time::Duration;

const WITHIN: Duration = Duration::from_secs(20);

fn own(member_id: u64) -> Own {
    let (peer_urls, timeout) = (format!("http://m{member_id}:1"), Duration::from_secs(1));
    Own {
        member_id,
        cluster_id: 0xc1,
        peer_urls,
        dial_timeout: timeout,
        request_timeout: timeout,
        core: 3,
        ports: Ports::none(),
    }
}

/// Where a member of a test keeps snapshots.
fn folder(test: &str, member_id: u64) -> PathBuf {
    std::env::temp_dir().join(format!("kevel-peers-{test}-{}-{member_id}", std::process::id()))
}

/// A store of the members 1 and 2 that has applied the entries up to 7, of term 3.
fn store() -> Store {
    let mut store = Store::in_memory();
    let mut txn = store.write();
    initialize(&mut txn);
    let mut cluster = Cluster::default();
    for id in [1, 2] {
        let raft_attributes =
            Some(RaftAttributes { peer_urls: vec![format!("http://m{id}")], is_learner: false });
        cluster.set_member(&mut txn, Member { id, raft_attributes, ..Member::default() });
    }
    let applied = txn.applied();
    txn.set_applied(Applied { index: 7, term: 3, ..applied });
    txn.commit();
    store
}

/// The snapshots of a member with that store.
fn snapshots(test: &str, member_id: u64) -> reception::Settings {
    let owner = Owner { member_id, cluster_id: 0xc1 };
    let pins = Pins::new(SNAPSHOTS_SENT_MAX);
    reception::Settings {
        readers: store().readers(),
        pins: (0..SNAPSHOTS_SENT_MAX).map(|number| pins.slot(number)).collect(),
        recipient: Recipient { owner, lease_ttl_min: 2, secret: 1 },
        store: folder(test, member_id).join("store"),
        folder: folder(test, member_id),
        is_durable: false,
        patience: Patience { pause: Duration::ZERO, ..Patience::default() },
        start: threads::start,
    }
}

/// Members by the addresses of their sockets; 9 was removed.
fn cluster(urls: &[(u64, String)]) -> Cluster {
    let mut cluster = Cluster::default();
    for (id, url) in urls {
        let raft_attributes = Some(RaftAttributes { peer_urls: vec![url.clone()], is_learner: false });
        cluster.members.insert(*id, Member { id: *id, raft_attributes, ..Member::default() });
    }
    cluster.removed.insert(9);
    cluster
}

fn beginning(id: u64, sockets: Vec<TcpListener>, snapshots: reception::Settings) -> Beginning {
    let (gate, contacts) = (Arc::new(ReadGate::default()), Arc::default());
    let sockets = sockets.into_iter().map(|socket| (socket, false)).collect();
    let counts = metrics::Core::new();
    Beginning { own: own(id), sockets, counts, gate, contacts, known: Vec::new(), snapshots }
}

/// Runs `test` with two members that know each other, and one that does not answer.
fn run<F: Future<Output = ()>>(
    test: impl FnOnce(Rc<Switchboard>, Rc<Switchboard>, Url) -> F + Send + 'static,
) {
    run_with(
        |id| snapshots("run", id),
        |a, b, url, third| {
            drop(third);
            test(a, b, url)
        },
    );
}

/// Runs `test` with two members that know each other, the URL of the second one, and the socket of a third.
fn run_with<F: Future<Output = ()>>(
    settings: impl Fn(u64) -> reception::Settings + Send + 'static,
    test: impl FnOnce(Rc<Switchboard>, Rc<Switchboard>, Url, TcpListener) -> F + Send + 'static,
) {
    let listen = || socket::listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let sockets = [listen(), listen(), listen()];
    let url = |socket: &TcpListener| format!("http://{}", socket.local_addr().unwrap());
    let urls = [1, 2, 3].map(|id| (id, url(&sockets[id as usize - 1])));
    let main = move || async move {
        let [first, second, third] = sockets;
        let start = |id, socket| {
            let member = Switchboard::start(beginning(id, vec![socket], settings(id)));
            member.follow(&cluster(&urls));
            member
        };
        let (a, b) = (start(1, first), start(2, second));
        test(a, b, Url::parse(&urls[1].1).unwrap(), third).await;
    };
    executor::spawn("peers", None, 64, main).unwrap().join().unwrap();
}

/// Waits until `is_so`.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = clock::now() + WITHIN;
    while !is_so() {
        assert!(clock::now() < deadline, "{what}");
        task::sleep(Duration::from_millis(1)).await;
    }
}

fn message(msg_type: MessageType, from: u64, to: u64, index: u64) -> Message {
    let entries = vec![Entry { term: 4, index: index + 1, data: vec![7; 900].into(), ..Entry::default() }];
    let entries = if msg_type == MessageType::MsgAppend { entries } else { vec![] };
    Message {
        msg_type: msg_type.into(),
        from,
        to,
        term: 4,
        log_term: 4,
        index,
        entries,
        ..Message::default()
    }
}

fn taken(member: &Switchboard) -> Vec<Input> {
    let mut inputs = VecDeque::new();
    member.inbox().take(usize::MAX, &mut inputs);
    inputs.into()
}

fn has_streams(member: &Switchboard, to: u64) -> bool {
    member.link(to).is_some_and(|link| link.append.is_open() && link.message.is_open())
}

#[test]
fn messages_go_by_streams_in_their_order_and_without_streams_one_by_one() {
    run(|a, b, _| async move {
        // Nobody has dialled a stream yet, so the message is posted.
        a.send(2, Box::new(message(MessageType::MsgHeartbeat, 1, 2, 0)));
        until("a message is posted", || matches!(&taken(&b)[..], [Input::PeerMessage(_)])).await;
        until("streams", || has_streams(&a, 2) && has_streams(&b, 1)).await;
        let sent: Vec<Message> = (0..2000).map(|n| message(MessageType::MsgAppend, 1, 2, n)).collect();
        for message in &sent {
            a.send(2, Box::new(message.clone()));
        }
        b.send(1, Box::new(message(MessageType::MsgAppendResponse, 2, 1, 7)));
        let mut received = Vec::new();
        until("all messages", || {
            received.extend(taken(&b).into_iter().filter_map(|input| match input {
                Input::PeerMessage(message) => Some(*message),
                _ => None,
            }));
            received.len() == sent.len()
        })
        .await;
        assert!(received == sent);
        until("an answer", || {
            taken(&a).iter().any(|input| matches!(input, Input::PeerMessage(message) if message.index == 7))
        })
        .await;
    });
}

#[test]
fn a_member_that_does_not_answer_is_out_of_reach_and_one_that_is_unknown_is_nobody() {
    run(|a, _, _| async move {
        a.send(77, Box::new(message(MessageType::MsgHeartbeat, 1, 77, 0)));
        a.send(3, Box::new(message(MessageType::MsgHeartbeat, 1, 3, 0)));
        until("raft hears of it", || {
            taken(&a).iter().any(|input| matches!(input, Input::PeerUnreachable(3)))
        })
        .await;
        // More than wait to be posted: the rest is dropped at once.
        for _ in 0..100 {
            a.send(3, Box::new(message(MessageType::MsgHeartbeat, 1, 3, 0)));
        }
        let mut lost = 0;
        until("all are lost", || {
            lost += taken(&a).iter().filter(|input| matches!(input, Input::PeerUnreachable(3))).count();
            lost == 100
        })
        .await;
    });
}

/// Who asks, method, path, the member that is to answer, and what is sent; the status and the text that are expected.
type Refusal<'a> = (&'a Own, &'a str, &'a str, u64, &'a [u8], u16, &'a str);

/// Status and text of an answer.
async fn ask(own: &Own, url: &Url, method: &str, path: &str, to: u64, content: &[u8]) -> (u16, String) {
    let mut connection = Connection::dial(own, url).await.unwrap();
    let ask = Ask { method, path, to: Some(to), content: Some(("application/protobuf", content)) };
    let reply = connection.ask(own, &ask).await.unwrap();
    let text = connection.read_whole(reply.body).await.unwrap();
    (reply.status, String::from_utf8(text).unwrap())
}

#[test]
fn requests_are_answered_and_refused_as_etcd_does() {
    run(|_, b, url| async move {
        let heartbeat = |to| message(MessageType::MsgHeartbeat, 1, to, 0).encode_to_vec();
        let removed = message(MessageType::MsgHeartbeat, 9, 2, 0).encode_to_vec();
        let stranger = Own { cluster_id: 0xc2, ..own(1) };
        let refusals: [Refusal<'_>; 16] = [
            (&own(1), "GET", "/raft/stream/msgapp/4d", 2, b"", 404, "error sender not found\n"),
            (&own(1), "GET", "/raft/stream/message/9", 2, b"", 410, "removed member\n"),
            (&own(1), "GET", "/raft/stream/message/1", 3, b"", 412, "to field mismatch\n"),
            (&own(1), "GET", "/raft/stream/message/x", 2, b"", 404, "invalid from\n"),
            (&own(1), "GET", "/raft/stream/other/1", 2, b"", 404, "invalid path\n"),
            (&stranger, "GET", "/raft/stream/message/1", 2, b"", 412, "cluster ID mismatch\n"),
            (&own(1), "PUT", "/raft/stream/message/1", 2, b"", 405, "Method Not Allowed\n"),
            (&stranger, "POST", "/raft", 2, &heartbeat(2), 412, "cluster ID mismatch\n"),
            (&own(1), "POST", "/raft", 2, &heartbeat(2), 204, ""),
            (&own(1), "POST", "/raft", 2, b"\x08", 400, "error unmarshalling raft message\n"),
            (
                &own(1),
                "POST",
                "/raft",
                2,
                &heartbeat(5),
                403,
                "{\"message\":\"cannot process message to mismatch member\"}",
            ),
            (
                &own(1),
                "POST",
                "/raft",
                2,
                &removed,
                403,
                "{\"message\":\"cannot process message from removed member\"}",
            ),
            (&own(1), "GET", "/raft", 2, b"", 405, "Method Not Allowed\n"),
            (&own(1), "GET", "/nowhere", 2, b"", 404, "404 page not found\n"),
            (&own(1), "POST", "/leases", 2, b"\x08", 400, "error unmarshalling request\n"),
            (&own(1), "POST", "/leases", 2, b"\x08\x07", 400, "not a primary lessor\n"),
        ];
        for (own, method, path, to, content, status, text) in refusals {
            let answer = ask(own, &url, method, path, to, content).await;
            assert_eq!(answer, (status, text.to_owned()), "{method} {path}");
        }
        let delivered = taken(&b);
        assert!(matches!(&delivered[..], [Input::PeerMessage(message)] if message.to == 2));
        let (status, text) = ask(&own(1), &url, "GET", "/raft/probing", 2, b"").await;
        assert!(status == 200 && text.starts_with("{\"OK\":true,\"Now\":\"2"), "{text}");
        let (_, text) = ask(&own(1), &url, "GET", "/members", 2, b"").await;
        assert!(text.starts_with("[{\"id\":1,\"peerURLs\":[\"http://127.0.0.1:"), "{text}");
        let (_, text) = ask(&own(1), &url, "GET", "/version", 2, b"").await;
        assert!(text.contains("\"etcdcluster\":\"not_decided\""), "{text}");
    });
}

#[test]
fn a_question_about_a_lease_ends_in_an_error_where_nobody_leads() {
    run(|a, _, _| async move {
        a.forward(Ticket(7), LeaseCall::KeepAlive { id: 5 }, 3);
        let mut answers = Vec::new();
        until("an answer", || {
            answers.extend(a.take_answers());
            !answers.is_empty()
        })
        .await;
        assert_eq!(answers, [(Ticket(7), Err(Error::NoLeader))]);
        assert_eq!(LeaseKeepAliveRequest { id: 7 }.encode_to_vec(), b"\x08\x07");
    });
}

#[test]
fn a_member_that_has_gone_is_asked_no_more() {
    run(|a, b, _| async move {
        until("streams", || has_streams(&a, 2) && has_streams(&b, 1)).await;
        let link = a.link(2).unwrap();
        a.follow(&cluster(&[(1, "http://127.0.0.1:1".into())]));
        assert!(a.link(2).is_none() && link.is_gone());
        until("the other side notices", || !b.link(1).unwrap().append.is_open()).await;
    });
}
