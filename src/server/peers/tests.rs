//! Two members in one executor, on loopback.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use prost::Message as _;
use raft::eraftpb::{ConfState, Entry, Message, MessageType, Snapshot, SnapshotMetadata};

use super::client::{Ask, Connection};
use super::{Beginning, Own, Switchboard, reception};
use crate::btree::{Applied, Read as _, Store};
use crate::cluster::Cluster;
use crate::config::Url;
use crate::error::Error;
use crate::mvcc::View;
use crate::mvcc::pin::Pins;
use crate::mvcc::write::initialize;
use crate::page::Owner;
use crate::proto::etcdserverpb::LeaseKeepAliveRequest;
use crate::proto::membershippb::{Member, RaftAttributes};
use crate::replica::arrival::Recipient;
use crate::replica::port::{Input, LeaseCall, Ticket};
use crate::replica::read_gate::ReadGate;
use crate::server::io::{clock, executor, socket, task};
use crate::server::metrics;
use crate::server::tls::Ports;
use crate::snapshot::{Gathering, SnapshotFile};
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

/// Where a member of these tests keeps snapshots.
fn folder(member_id: u64) -> PathBuf {
    std::env::temp_dir().join(format!("kevel-peers-{}-{member_id}", std::process::id()))
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
fn snapshots(member_id: u64) -> reception::Settings {
    let owner = Owner { member_id, cluster_id: 0xc1 };
    reception::Settings {
        readers: store().readers(),
        pins: Pins::new(1).slot(0),
        recipient: Recipient { owner, lease_ttl_min: 2, secret: 1 },
        store: folder(member_id).join("store"),
        folder: folder(member_id),
        is_durable: false,
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

fn beginning(id: u64, sockets: Vec<TcpListener>) -> Beginning {
    let (gate, contacts) = (Arc::new(ReadGate::default()), Arc::default());
    let sockets = sockets.into_iter().map(|socket| (socket, false)).collect();
    let counts = metrics::Core::new();
    Beginning { own: own(id), sockets, counts, gate, contacts, known: Vec::new(), snapshots: snapshots(id) }
}

/// Runs `test` with two members that know each other, and one that does not answer.
fn run<F: Future<Output = ()>>(
    test: impl FnOnce(Rc<Switchboard>, Rc<Switchboard>, Url) -> F + Send + 'static,
) {
    let listen = || socket::listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let sockets = [listen(), listen(), listen()];
    let url = |socket: &TcpListener| format!("http://{}", socket.local_addr().unwrap());
    let urls = [1, 2, 3].map(|id| (id, url(&sockets[id as usize - 1])));
    let main = move || async move {
        let [first, second, third] = sockets;
        drop(third);
        let start = |id, socket| {
            let member = Switchboard::start(beginning(id, vec![socket]));
            member.follow(&cluster(&urls));
            member
        };
        let (a, b) = (start(1, first), start(2, second));
        test(a, b, Url::parse(&urls[1].1).unwrap()).await;
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

/// The body of a request with a snapshot: a message of this kind to that member, and the file.
fn snapshot_body(kind: MessageType, to: u64, index: u64, file: &[u8]) -> Vec<u8> {
    let conf_state = Some(ConfState { voters: vec![1, 2], ..ConfState::default() });
    let metadata = Some(SnapshotMetadata { conf_state, index, term: 3 });
    let snapshot = Some(Snapshot { metadata, ..Snapshot::default() });
    let message = Message { msg_type: kind.into(), from: 1, to, term: 3, snapshot, ..Message::default() };
    let message = message.encode_to_vec();
    [&(message.len() as u64).to_be_bytes()[..], &message, file].concat()
}

/// The file of the state that members of these tests have.
fn snapshot_file() -> Vec<u8> {
    let store = store();
    let mut reader = store.readers().register();
    let state = reader.snapshot();
    let mut gathering = Gathering::new(&state).unwrap();
    while !gathering.step(1000).unwrap() {}
    let mut file = SnapshotFile::new(gathering.finish());
    while file.count(&View::new(&state), 1000).unwrap().is_none() {}
    file.write(&View::new(&state), usize::MAX, usize::MAX).unwrap().0.to_vec()
}

/// One after the other, as both use the folder.
#[test]
fn a_snapshot_goes_from_member_to_member_and_nothing_else_is_taken_for_one() {
    refuse_what_is_no_snapshot();
    send_a_snapshot();
}

fn refuse_what_is_no_snapshot() {
    run(|_, b, url| async move {
        use MessageType::{MsgHeartbeat, MsgSnapshot};
        let file = snapshot_file();
        let stranger = Own { cluster_id: 0xc2, ..own(1) };
        let whole = snapshot_body(MsgSnapshot, 2, 7, &file);
        let mut damaged = file.clone();
        damaged[2 * 4096] ^= 0xff;
        let unsaved = "failed to save KV snapshot (";
        let refusals: [(&Own, &[u8], u16, &str); 10] = [
            (&stranger, &whole, 412, "cluster ID mismatch\n"),
            (&own(1), b"", 400, "failed to decode raft message (EOF)\n"),
            (&own(1), &whole[..15], 400, "failed to decode raft message (unexpected EOF)\n"),
            (&own(1), &[0xff; 9], 400, "failed to decode raft message (rafthttp: error limit exceeded)\n"),
            (&own(1), &snapshot_body(MsgHeartbeat, 2, 7, &file), 400, "wrong raft message type\n"),
            (&own(1), &snapshot_body(MsgSnapshot, 5, 7, &file), 403, "{\"message\":\"cannot process"),
            (&own(1), &snapshot_body(MsgSnapshot, 2, 7, b"garbage"), 500, unsaved),
            (&own(1), &whole[..whole.len() - 1], 500, unsaved),
            (&own(1), &snapshot_body(MsgSnapshot, 2, 7, &damaged), 500, unsaved),
            (&own(1), &snapshot_body(MsgSnapshot, 2, 8, &file), 500, unsaved),
        ];
        for (number, (own, body, status, text)) in refusals.into_iter().enumerate() {
            let answer = ask(own, &url, "POST", "/raft/snapshot", 2, body).await;
            assert!(answer.0 == status && answer.1.starts_with(text), "{number}: {answer:?}");
        }
        assert!(b.inbox().is_empty());
        let left: Vec<_> = std::fs::read_dir(folder(2)).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
        std::fs::remove_dir_all(folder(2)).unwrap();
    });
}

fn send_a_snapshot() {
    run(|a, b, _| async move {
        let message = Message {
            msg_type: MessageType::MsgSnapshot.into(),
            from: 1,
            to: 2,
            term: 3,
            ..Message::default()
        };
        a.send_snapshot(2, Box::new(message.clone()));
        a.send_snapshot(2, Box::new(message));
        let mut heard = VecDeque::new();
        a.inbox().take(9, &mut heard);
        let refused = matches!(heard.make_contiguous(), [Input::SnapshotSent { to: 2, is_taken: false }]);
        assert!(refused, "one at a time");
        let mut arrived = VecDeque::new();
        until("the snapshot", || {
            b.inbox().take(9, &mut arrived);
            !arrived.is_empty()
        })
        .await;
        let Some(Input::Snapshot(arrival)) = arrived.pop_front() else { panic!("something else has come") };
        assert_eq!(arrival.index(), 7);
        b.refuse_snapshot(arrival);
        until("the end", || {
            a.inbox().take(9, &mut heard);
            heard.len() == 2
        })
        .await;
        assert!(matches!(heard[1], Input::SnapshotSent { to: 2, is_taken: true }));
        until("the file to be removed", || std::fs::read_dir(folder(2)).unwrap().next().is_none()).await;
        std::fs::remove_dir_all(folder(2)).unwrap();
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
