//! Two members in one executor, on loopback.
#![forbid(unsafe_code)]

mod snapshots;

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prost::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};

use super::client::{Ask, Connection};
use super::guests::GUESTS_MAX;
use super::hash_kv::Other;
use super::reception::Patience;
use super::{Beginning, Own, Switchboard, hash_kv, reception};
use crate::btree::{Applied, Read as _, Store};
use crate::cluster::Cluster;
use crate::cluster::corruption::{NoHash, Told};
use crate::config::Url;
use crate::error::Error;
use crate::limits::SNAPSHOTS_SENT_MAX;
use crate::mvcc::compact_hash::CompactionHashes;
use crate::mvcc::hash::KvHash;
use crate::mvcc::pin::Pins;
use crate::mvcc::write::initialize;
use crate::page::Owner;
use crate::proto::etcdserverpb::LeaseKeepAliveRequest;
use crate::proto::membershippb::{Member, RaftAttributes};
use crate::replica::arrival::Recipient;
use crate::replica::port::{Input, LeaseCall, Ticket};
use crate::replica::read_gate::{ReadGate, Role};
use crate::server::io::{clock, executor, socket, task, threads};
use crate::server::metrics;
use crate::server::tls::Ports;
use crate::stdx::time::Duration;

const WITHIN: Duration = Duration::from_secs(20);
/// Bytes of one message of another member.
const MESSAGE_BYTES_MAX: u64 = 8 << 20;

fn own(member_id: u64) -> Own {
    let (peer_urls, timeout) = (format!("http://m{member_id}:1"), Duration::from_secs(1));
    Own {
        member_id,
        cluster_id: 0xc1,
        peer_urls,
        dial_timeout: timeout,
        request_timeout: timeout,
        message_bytes_max: MESSAGE_BYTES_MAX,
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
    let hashes = hash_kv::Settings { pins: Pins::new(1).slot(0), compactions: CompactionHashes::default() };
    Beginning { own: own(id), sockets, counts, gate, contacts, known: Vec::new(), snapshots, hashes }
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

#[test]
fn a_proposal_that_was_not_sent_comes_back() {
    run(|a, _, _| async move {
        // Nobody listens where the third member was.
        a.send(3, Box::new(message(MessageType::MsgPropose, 1, 3, 0)));
        a.send(3, Box::new(message(MessageType::MsgHeartbeat, 1, 3, 0)));
        let (mut back, mut lost) = (Vec::new(), 0);
        until("the proposal", || {
            for input in taken(&a) {
                match input {
                    Input::Undelivered(message) => back.push(message.msg_type()),
                    Input::PeerUnreachable(3) => lost += 1,
                    _ => {}
                }
            }
            lost == 2
        })
        .await;
        assert_eq!(back, [MessageType::MsgPropose]);
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

/// Asks for a hash as another member does, with this cluster's id in the head or with another one.
async fn ask_hash(url: &Url, cluster_id: u64, question: &[u8]) -> (u16, String) {
    let own = Own { cluster_id, ..own(1) };
    let mut connection = Connection::dial(&own, url).await.unwrap();
    let content = Some(("application/json", question));
    let ask = Ask { method: "GET", path: "/members/hashkv", to: None, content };
    let reply = connection.ask(&own, &ask).await.unwrap();
    if reply.status == 200 {
        assert_eq!(reply.cluster_id, "c1");
    }
    let body = connection.read_whole(reply.body).await.unwrap();
    (reply.status, String::from_utf8(body).unwrap())
}

#[test]
fn members_tell_one_another_the_hash_of_their_data() {
    run(|a, b, url| async move {
        let new = KvHash { hash: 1_084_519_789, compact_revision: -1, hash_revision: 1, revision: 1 };
        let text = r#"{"header":{"revision":1},"hash":1084519789,"compact_revision":-1,"hash_revision":1}"#;
        for question in ["{}", "null", r#"{"revision":1}"#] {
            assert_eq!(ask_hash(&url, 0xc1, question.as_bytes()).await, (200, text.to_owned()), "{question}");
        }
        let taken = KvHash { hash: 7, compact_revision: 3, hash_revision: 5, revision: 0 };
        b.hashes.compactions.add(taken);
        let (_, of_compaction) = ask_hash(&url, 0xc1, br#"{"revision":5}"#).await;
        let expected = r#"{"header":{"revision":1},"hash":7,"compact_revision":3,"hash_revision":5}"#;
        assert_eq!(of_compaction, expected);
        let long = [&br#"{"revision":1"#[..], &[b' '; 5000], b"}"].concat();
        for (cluster_id, question, status, said) in [
            (0xc2, &b"{}"[..], 412, "cluster ID mismatch\n"),
            (0xc1, b"", 400, "error unmarshalling request\n"),
            (0xc1, b"{", 400, "error unmarshalling request\n"),
            (0xc1, &long, 400, "error unmarshalling request\n"),
            (0xc1, br#"{"revision":2}"#, 400, "mvcc: required revision is a future revision\n"),
        ] {
            assert_eq!(ask_hash(&url, cluster_id, question).await, (status, said.to_owned()));
        }
        let refused = ask(&own(1), &url, "POST", "/members/hashkv", 2, b"{}").await;
        assert_eq!(refused, (405, "Method Not Allowed\n".to_owned()));

        let other = |id, url: &str| Other { id, urls: vec![url.to_owned()] };
        let nobody = other(3, "http://127.0.0.1:1");
        let twice = Other { id: 2, urls: vec![nobody.urls[0].clone(), url.to_string()] };
        let told = hash_kv::ask(a.own(), &[twice, nobody], 1).await;
        let silent = Told { id: 3, hash: Err(NoHash::Silent) };
        assert_eq!(told, [Told { id: 2, hash: Ok(new) }, silent], "all URLs of a member are tried");
        let there = [other(2, &url.to_string())];
        let ahead = hash_kv::ask(a.own(), &there, 2).await;
        assert_eq!(ahead[0].hash, Err(NoHash::Future));
        let stranger = Own { cluster_id: 0xc2, ..own(1) };
        assert_eq!(hash_kv::ask(&stranger, &there, 1).await[0].hash, Err(NoHash::OtherCluster));
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

/// Reads one request. False at the end of the connection.
fn read_request(stream: &mut TcpStream) -> bool {
    let (mut request, mut byte) = (Vec::new(), [0]);
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return false;
        }
        request.push(byte[0]);
    }
    let head = String::from_utf8(request).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    head.starts_with("post /raft ") && stream.read_exact(&mut body).is_ok()
}

/// A member that answers the first message of each connection. It ends the connection then, or when it has read the
/// second. Counts messages.
fn fickle(socket: TcpListener, ends_at_once: bool) -> Arc<AtomicUsize> {
    let posts = Arc::new(AtomicUsize::new(0));
    let count = posts.clone();
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            let (mut stream, count) = (stream.unwrap(), count.clone());
            std::thread::spawn(move || {
                if read_request(&mut stream) {
                    count.fetch_add(1, Ordering::Relaxed);
                    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
                    if !ends_at_once && read_request(&mut stream) {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    posts
}

#[test]
fn a_message_that_may_have_been_taken_is_not_sent_again() {
    for ends_at_once in [false, true] {
        run(move |a, _, _| async move {
            let socket = socket::listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
            socket.set_nonblocking(false).unwrap();
            let url = format!("http://{}", socket.local_addr().unwrap());
            let posts = fickle(socket, ends_at_once);
            a.follow(&cluster(&[(3, url)]));
            let link = a.link(3).unwrap();
            a.send(3, Box::new(message(MessageType::MsgPropose, 1, 3, 0)));
            until("the first message", || link.kept() == 1).await;
            task::sleep(Duration::from_millis(100)).await;
            taken(&a);
            a.send(3, Box::new(message(MessageType::MsgPropose, 1, 3, 0)));
            until("the second message", || posts.load(Ordering::Relaxed) == 2).await;
            if !ends_at_once {
                let is_lost = |input: &Input| matches!(input, Input::PeerUnreachable(3));
                until("raft hears that it may be lost", || taken(&a).iter().any(is_lost)).await;
            }
            task::sleep(Duration::from_millis(200)).await;
            assert_eq!((posts.load(Ordering::Relaxed), taken(&a).len()), (2, 0));
        });
    }
}

#[test]
fn a_message_that_was_taken_from_its_queue_and_not_written_is_reported() {
    run(|_, b, url| async move {
        let mut stream = TcpStream::connect((&*url.host, url.port().unwrap())).unwrap();
        let request = "GET /raft/stream/message/3 HTTP/1.1\r\nHost: b\r\nX-Server-From: 3\r\n\
                       X-Server-Version: 3.7.3\r\nX-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: c1\r\n\
                       X-Raft-To: 2\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let link = b.link(3).unwrap();
        until("the stream", || link.message.is_open()).await;
        while stream.peek(&mut [0]).unwrap() == 0 {}
        // What was not read has the kernel reset the connection.
        drop(stream);
        task::sleep(Duration::from_millis(100)).await;
        b.send(3, Box::new(message(MessageType::MsgHeartbeatResponse, 2, 3, 0)));
        let is_lost = |input: &Input| matches!(input, Input::PeerUnreachable(3));
        until("raft hears of it", || taken(&b).iter().any(is_lost)).await;
    });
}

/// A member that streams these bytes to whoever dials its stream of other messages, and then waits for the end of the
/// connection. Tells when it has come.
fn streamer(socket: TcpListener, bytes: Vec<u8>) -> Arc<AtomicUsize> {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = ended.clone();
    socket.set_nonblocking(false).unwrap();
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            let (mut stream, count, bytes) = (stream.unwrap(), count.clone(), bytes.clone());
            std::thread::spawn(move || {
                let (mut request, mut byte) = (Vec::new(), [0]);
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) > 0 {
                    request.push(byte[0]);
                }
                if !request.starts_with(b"GET /raft/stream/message/") {
                    return;
                }
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                let chunk = format!("{head}{:x}\r\n", bytes.len());
                stream.write_all(&[chunk.as_bytes(), &bytes, b"\r\n"].concat()).unwrap();
                while stream.read(&mut byte).unwrap_or(0) > 0 {}
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    ended
}

#[test]
fn a_stream_ends_when_a_message_is_to_be_longer_than_messages_may_be() {
    run_with(
        |id| snapshots("long", id),
        |a, b, _, third| async move {
            // So much is said to follow, and some of it does.
            let begin = [&(MESSAGE_BYTES_MAX + 1).to_be_bytes()[..], &[0; 1000]].concat();
            let ended = streamer(third, begin);
            until("both members to end their streams", || ended.load(Ordering::Relaxed) >= 2).await;
            until("other streams to go on", || has_streams(&a, 2) && has_streams(&b, 1)).await;
        },
    );
}

/// Connects and asks, or not.
fn guest(url: &Url, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect((&*url.host, url.port().unwrap())).unwrap();
    stream.write_all(request).unwrap();
    stream
}

#[test]
fn strangers_however_many_keep_no_member_out() {
    run(|a, b, url| async move {
        until("streams", || has_streams(&a, 2) && has_streams(&b, 1)).await;
        let heartbeat = message(MessageType::MsgHeartbeat, 1, 2, 0).encode_to_vec();
        let (slow, busy) =
            (&b"GET /version HTTP/1.1\r\n"[..], &b"GET /version HTTP/1.1\r\nHost: b\r\n\r\n"[..]);
        let mut guests: Vec<TcpStream> = Vec::new();
        for number in 0..2 * GUESTS_MAX {
            guests.push(guest(&url, [&b""[..], slow, busy][number % 3]));
            if number % 16 == 0 {
                task::sleep(Duration::from_millis(1)).await;
            }
        }
        let sender = own(1);
        let posted = ask(&sender, &url, "POST", "/raft", 2, &heartbeat);
        let answer = task::until(clock::now() + Duration::from_secs(1), posted).await;
        assert_eq!(answer, Some((204, String::new())), "a member comes in at once");
        assert!(has_streams(&a, 2) && has_streams(&b, 1), "and those that are there stay");
        // A stranger is answered too, as long as there is room for it.
        let answer = ask(&Own { member_id: 0, ..own(1) }, &url, "GET", "/version", 2, b"").await;
        assert_eq!(answer.0, 200);
        let is_sent_away = |stream: &TcpStream| {
            stream.set_nonblocking(true).unwrap();
            let mut first = [0];
            match stream.peek(&mut first) {
                Ok(read) => read == 0,
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            }
        };
        let away = guests.iter().filter(|stream| is_sent_away(stream)).count();
        assert!(away >= GUESTS_MAX / 2, "{away} of them had to go");
    });
}

#[test]
fn a_message_that_is_posted_waits_until_the_replica_has_room() {
    run(|_, b, url| async move {
        let entries = vec![Entry { data: vec![7; 4 << 20].into(), ..Entry::default() }];
        let content = Message { entries, ..message(MessageType::MsgPropose, 1, 2, 0) }.encode_to_vec();
        let sender = own(1);
        let post = || ask(&sender, &url, "POST", "/raft", 2, &content);
        let mut posted = 0;
        while let Some((204, _)) = task::until(clock::now() + Duration::from_secs(2), post()).await {
            posted += 1;
            assert!(posted <= 8, "more than 32 MB wait");
        }
        assert_eq!(posted, 8);
        assert_eq!(taken(&b).len(), 8);
        until("the one that waited", || taken(&b).len() == 1).await;
    });
}

#[test]
fn a_question_for_the_leader_goes_to_the_replica_where_this_member_leads_by_then() {
    run(|a, _, _| async move {
        a.gate.set_vote(Role::Leader, 1);
        a.forward(Ticket(7), LeaseCall::KeepAlive { id: 5 }, 3);
        a.forward_promotion(Ticket(8), 4);
        let mut inputs = Vec::new();
        until("both", || {
            inputs.extend(taken(&a));
            inputs.len() == 2
        })
        .await;
        assert!(matches!(
            inputs[0],
            Input::Lease { ticket: Ticket(7), call: LeaseCall::KeepAlive { id: 5 } }
        ));
        assert!(matches!(inputs[1], Input::Promote { ticket: Ticket(8), id: 4 }));
        assert_eq!(a.take_answers(), []);
    });
}

#[test]
fn questions_for_the_leader_have_so_many_connections_and_no_more() {
    run(|a, _, _| async move {
        let socket = socket::listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
        socket.set_nonblocking(false).unwrap();
        a.follow(&cluster(&[(3, format!("http://{}", socket.local_addr().unwrap()))]));
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        // A leader that answers nothing.
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for stream in socket.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
                open.push(stream);
            }
        });
        a.gate.set(1, 3, 0, 0);
        for ticket in 0..100 {
            a.forward(Ticket(ticket), LeaseCall::KeepAlive { id: 5 }, 3);
        }
        until("connections", || connections.load(Ordering::Relaxed) >= 32).await;
        task::sleep(Duration::from_millis(200)).await;
        // Two more are for the streams, and one finds out how long the member takes to answer.
        assert!(connections.load(Ordering::Relaxed) <= 32 + 3);
        let mut answers = Vec::new();
        until("all to be given up", || {
            answers.extend(a.take_answers());
            answers.len() == 100
        })
        .await;
        assert!(answers.iter().all(|(_, result)| *result == Err(Error::Timeout)));
    });
}
