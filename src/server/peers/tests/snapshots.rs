//! Snapshots between two members: what is refused, who comes first, and when there is room for the next one.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use raft::eraftpb::{ConfState, Snapshot, SnapshotMetadata};

use super::*;
use crate::config::Gates;
use crate::mvcc::View;
use crate::replica::apply::State;
use crate::replica::install::Replaced;
use crate::server::io::threads::Work;
use crate::snapshot::{Gathering, SnapshotFile};

/// What a body is that has a snapshot.
const KIND: &str = "application/octet-stream";

/// A message about a snapshot to a member.
fn about(to: u64, index: u64, data: Vec<u8>) -> Message {
    let conf_state = Some(ConfState { voters: vec![1, 2], ..ConfState::default() });
    let metadata = Some(SnapshotMetadata { conf_state, index, term: 3 });
    let snapshot = Some(Snapshot { metadata, data: data.into() });
    let msg_type = MessageType::MsgSnapshot.into();
    Message { msg_type, from: 1, to, term: 3, snapshot, ..Message::default() }
}

/// The body of a request with a snapshot: a message, and the file.
fn body(message: &Message, file: &[u8]) -> Vec<u8> {
    let message = message.encode_to_vec();
    [&(message.len() as u64).to_be_bytes()[..], &message, file].concat()
}

/// The file of the state that members of these tests have.
fn file() -> Vec<u8> {
    let store = store();
    let mut reader = store.readers().register();
    let state = reader.snapshot();
    let mut gathering = Gathering::new(&state).unwrap();
    while !gathering.step(1000).unwrap() {}
    let mut file = SnapshotFile::new(gathering.finish());
    while file.count(&View::new(&state), 1000).unwrap().is_none() {}
    file.write(&View::new(&state), usize::MAX, usize::MAX).unwrap().0.to_vec()
}

/// A message that raft wants to go with a snapshot.
fn bare(to: u64) -> Box<Message> {
    let msg_type = MessageType::MsgSnapshot.into();
    Box::new(Message { msg_type, from: 1, to, term: 3, ..Message::default() })
}

/// Posts a snapshot, and keeps status and text of the answer.
fn post(url: &Url, body: Vec<u8>) -> Rc<RefCell<Option<(u16, String)>>> {
    let answer: Rc<RefCell<Option<(u16, String)>>> = Rc::default();
    let (url, kept) = (url.clone(), Rc::clone(&answer));
    task::spawn(async move {
        let answered = ask_patiently(&own(1), &url, &body).await;
        *kept.borrow_mut() = Some(answered);
    });
    answer
}

async fn ask_patiently(own: &Own, url: &Url, body: &[u8]) -> (u16, String) {
    ask_with(own, url, body, false).await
}

async fn ask_with(own: &Own, url: &Url, body: &[u8], has_digest: bool) -> (u16, String) {
    let mut connection = Connection::dial(own, url).await.unwrap();
    let ask = Ask { method: "POST", path: "/raft/snapshot", to: Some(2), content: None };
    connection.begin(own, &ask, KIND, body.len() as u64, has_digest).await.unwrap();
    connection.write(body).await.unwrap();
    let reply = connection.reply().await.unwrap();
    let text = connection.read_whole(reply.body).await.unwrap();
    (reply.status, String::from_utf8(text).unwrap())
}

/// What comes next for the replica of a member, other than messages.
async fn next_input(member: &Switchboard) -> Input {
    let mut inputs = VecDeque::new();
    until("an input", || {
        member.inbox().take(1, &mut inputs);
        inputs.retain(|input| !matches!(input, Input::PeerMessage(_) | Input::PeerUnreachable(_)));
        !inputs.is_empty()
    })
    .await;
    inputs.pop_front().unwrap()
}

#[test]
fn nothing_else_is_taken_for_a_snapshot() {
    let at = folder("refused", 2);
    run_with(
        |id| snapshots("refused", id),
        move |_, b, url, _| async move {
            let file = file();
            let stranger = Own { cluster_id: 0xc2, ..own(1) };
            let whole = body(&about(2, 7, vec![]), &file);
            let mut damaged = file.clone();
            damaged[2 * 4096] ^= 0xff;
            let other = Message { msg_type: MessageType::MsgHeartbeat.into(), ..about(2, 7, vec![]) };
            let unsaved = "failed to save KV snapshot (";
            let refusals: [(&Own, &[u8], u16, &str); 10] = [
                (&stranger, &whole, 412, "cluster ID mismatch\n"),
                (&own(1), b"", 400, "failed to decode raft message (EOF)\n"),
                (&own(1), &whole[..15], 400, "failed to decode raft message (unexpected EOF)\n"),
                (
                    &own(1),
                    &[0xff; 9],
                    400,
                    "failed to decode raft message (rafthttp: error limit exceeded)\n",
                ),
                (&own(1), &body(&other, &file), 400, "wrong raft message type\n"),
                (&own(1), &body(&about(5, 7, vec![]), &file), 403, "{\"message\":\"cannot process"),
                (&own(1), &body(&about(2, 7, vec![]), b"garbage"), 500, unsaved),
                (&own(1), &whole[..whole.len() - 1], 500, unsaved),
                (&own(1), &body(&about(2, 7, vec![]), &damaged), 500, unsaved),
                (&own(1), &body(&about(2, 8, vec![]), &file), 500, unsaved),
            ];
            for (number, (own, body, status, text)) in refusals.into_iter().enumerate() {
                let answer = ask(own, &url, "POST", "/raft/snapshot", 2, body).await;
                assert!(answer.0 == status && answer.1.starts_with(text), "{number}: {answer:?}");
            }
            assert!(b.inbox().is_empty());
            let left: Vec<_> = fs::read_dir(&at).unwrap().map(|file| file.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
            fs::remove_dir_all(&at).unwrap();
        },
    );
}

/// The series of the families of snapshots, as a member shows them.
fn series(member: &Switchboard) -> Vec<String> {
    let gates = Gates::default();
    let sources = metrics::Sources {
        cores: &[],
        rpc: &[],
        member_id: 0,
        cluster_version: None,
        gates: &gates,
        contacts: &member.contacts,
    };
    let text = metrics::scrape(&sources);
    let of_snapshots = |line: &&str| {
        let is_timed = line.contains("_seconds_bucket") || line.contains("_seconds_sum");
        line.starts_with("etcd_network_snapshot_") && !is_timed
    };
    let lines = text.lines().filter(of_snapshots);
    lines.map(|line| line.trim_start_matches("etcd_network_snapshot_").to_owned()).collect()
}

#[test]
fn a_file_that_was_altered_on_the_way_is_refused_and_all_is_counted() {
    let at = folder("altered", 2);
    run_with(
        |id| snapshots("altered", id),
        move |a, b, url, _| async move {
            until("streams", || has_streams(&a, 2) && has_streams(&b, 1)).await;
            assert!(series(&a).is_empty() && series(&b).is_empty());
            let whole = body(&about(2, 7, vec![]), &file());
            let (status, text) = ask_with(&own(1), &url, &[&whole[..], &[7; 32]].concat(), true).await;
            assert!(status == 500 && text.contains("their digest is another one"), "{status} {text}");
            let (status, text) = ask_with(&own(1), &url, &whole[..9], true).await;
            assert_eq!(status, 400, "{text}");
            let (status, _) = ask(&own(1), &url, "GET", "/raft/snapshot", 2, b"").await;
            assert_eq!(status, 405);
            assert!(b.inbox().is_empty());
            // The other member is Kevel too, so there is a digest behind what it sends.
            a.send_snapshot(2, bare(2));
            let Input::Snapshot(arrival) = next_input(&b).await else { panic!("something else") };
            assert_eq!(series(&a), ["send_inflights_total{To=\"2\"} 1"]);
            b.refuse_snapshot(arrival);
            assert!(matches!(next_input(&a).await, Input::SnapshotSent { to: 2, is_taken: true }));
            task::sleep(Duration::from_millis(20)).await;
            assert_eq!(
                series(&a),
                [
                    "send_inflights_total{To=\"2\"} 0",
                    "send_success{To=\"2\"} 1",
                    "send_total_duration_seconds_count{To=\"2\"} 1",
                ]
            );
            assert_eq!(
                series(&b),
                [
                    "receive_failures{From=\"UNKNOWN_SNAPSHOT_SENDER\"} 1",
                    "receive_failures{From=\"0\"} 1",
                    "receive_failures{From=\"1\"} 1",
                    "receive_inflights_total{From=\"1\"} 0",
                    "receive_success{From=\"1\"} 1",
                    "receive_total_duration_seconds_count{From=\"1\"} 1",
                ]
            );
            fs::remove_dir_all(&at).unwrap();
        },
    );
}

#[test]
fn a_file_for_which_the_disk_has_no_room_is_refused_before_it_comes() {
    let at = folder("room", 2);
    run_with(
        |id| snapshots("room", id),
        move |_, _, url, _| async move {
            let mut connection = Connection::dial(&own(1), &url).await.unwrap();
            let ask = Ask { method: "POST", path: "/raft/snapshot", to: Some(2), content: None };
            connection.begin(&own(1), &ask, KIND, 1 << 60, false).await.unwrap();
            connection.write(&body(&about(2, 7, vec![]), b"the first of many bytes")).await.unwrap();
            let mut answer = Box::pin(connection.reply());
            // Bytes may come or not: the member has to know by the length alone.
            let reply = task::until(clock::now() + WITHIN, &mut answer).await.unwrap().unwrap();
            assert_eq!(reply.status, 500);
            drop(answer);
            let text = String::from_utf8(connection.read_whole(reply.body).await.unwrap()).unwrap();
            assert!(text.contains("cannot reserve"), "{text}");
            fs::remove_dir_all(&at).unwrap();
        },
    );
}

#[test]
fn a_snapshot_goes_from_member_to_member_and_is_gone_when_its_refusal_is_answered() {
    let at = folder("sent", 2);
    run_with(
        |id| snapshots("sent", id),
        move |a, b, _, _| async move {
            for round in 0..20 {
                a.send_snapshot(2, bare(2));
                if round == 0 {
                    a.send_snapshot(2, bare(2));
                    let heard = next_input(&a).await;
                    let is_refused = matches!(heard, Input::SnapshotSent { to: 2, is_taken: false });
                    assert!(is_refused, "one at a time to each member");
                }
                let Input::Snapshot(arrival) = next_input(&b).await else { panic!("something else") };
                assert_eq!(arrival.index(), 7);
                b.refuse_snapshot(arrival);
                let heard = next_input(&a).await;
                assert!(matches!(heard, Input::SnapshotSent { to: 2, is_taken: true }));
                let left: Vec<_> = fs::read_dir(&at).unwrap().map(|file| file.unwrap().path()).collect();
                assert!(left.is_empty(), "{left:?} in round {round}");
                // The place is free a moment later.
                task::sleep(Duration::from_millis(5)).await;
            }
            fs::remove_dir_all(&at).unwrap();
        },
    );
}

#[test]
fn no_other_snapshot_is_taken_in_until_the_one_before_is_published() {
    let at = folder("placed", 2);
    run_with(
        |id| snapshots("placed", id),
        move |_, b, url, _| async move {
            let whole = body(&about(2, 7, vec![]), &file());
            let first = post(&url, whole.clone());
            let Input::Snapshot(_arrival) = next_input(&b).await else { panic!("something else") };
            assert!(at.join("store.next").exists() && first.borrow().is_none());
            b.place_snapshot();
            assert!(matches!(next_input(&b).await, Input::SnapshotPlaced));
            assert!(at.join("store").exists() && !at.join("store.next").exists());
            until("an answer", || first.borrow().is_some()).await;
            assert_eq!(*first.borrow(), Some((204, String::new())));
            let (status, text) = ask_patiently(&own(1), &url, &whole).await;
            assert!(status == 500 && text.contains("another snapshot is being received"), "{status} {text}");
            assert!(!at.join("store.next").exists());

            let state = State::restore(&store().readers().register().snapshot(), 2, 1);
            let replaced = Replaced { store: Store::in_memory(), state: state.ok().unwrap() };
            b.on_installed(store().readers(), 1, Box::new(replaced));
            // The message before this one is long enough to be decoded by a thread.
            let long = body(&about(2, 7, vec![7; 100_000]), &file());
            let next = post(&url, long);
            let Input::Snapshot(arrival) = next_input(&b).await else { panic!("something else") };
            b.refuse_snapshot(arrival);
            until("an answer", || next.borrow().is_some()).await;
            assert_eq!(*next.borrow(), Some((204, String::new())));
            assert!(at.join("store").exists() && !at.join("store.next").exists());
            fs::remove_dir_all(&at).unwrap();
        },
    );
}

/// Starts no thread when it is called for the first or for the third time.
fn scarce(name: &'static str, work: Work) -> io::Result<()> {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    match CALLS.fetch_add(1, Ordering::SeqCst) {
        0 | 2 => Err(io::ErrorKind::WouldBlock.into()),
        _ => threads::start(name, work),
    }
}

#[test]
fn without_a_thread_a_snapshot_is_not_sent_or_not_taken_and_the_next_one_is() {
    let at = folder("threads", 2);
    run_with(
        |id| reception::Settings { start: scarce, ..snapshots("threads", id) },
        move |a, b, _, _| async move {
            for _ in ["no thread that makes one", "no thread that takes it in"] {
                a.send_snapshot(2, bare(2));
                assert!(matches!(next_input(&a).await, Input::SnapshotSent { to: 2, is_taken: false }));
                task::sleep(Duration::from_millis(20)).await;
            }
            a.send_snapshot(2, bare(2));
            let Input::Snapshot(arrival) = next_input(&b).await else { panic!("something else") };
            b.refuse_snapshot(arrival);
            assert!(matches!(next_input(&a).await, Input::SnapshotSent { to: 2, is_taken: true }));
            fs::remove_dir_all(&at).unwrap();
        },
    );
}

#[test]
fn nothing_is_made_for_a_member_that_cannot_be_reached() {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    fn counted(name: &'static str, work: Work) -> io::Result<()> {
        STARTED.fetch_add(1, Ordering::SeqCst);
        threads::start(name, work)
    }
    run_with(
        |id| reception::Settings { start: counted, ..snapshots("unreached", id) },
        move |a, _, _, third| async move {
            drop(third);
            a.send_snapshot(3, bare(3));
            assert!(matches!(next_input(&a).await, Input::SnapshotSent { to: 3, is_taken: false }));
            assert_eq!(STARTED.load(Ordering::SeqCst), 0);
        },
    );
}

#[test]
fn a_member_that_does_not_say_what_became_of_a_snapshot_is_not_waited_for_without_end() {
    let at = folder("silent", 2);
    let hasty = Patience { base: Duration::from_millis(500), pause: Duration::ZERO, ..Patience::default() };
    run_with(
        move |id| reception::Settings { patience: hasty, ..snapshots("silent", id) },
        move |a, b, _, _| async move {
            until("streams", || has_streams(&a, 2) && has_streams(&b, 1)).await;
            a.send_snapshot(2, bare(2));
            let Input::Snapshot(_arrival) = next_input(&b).await else { panic!("something else") };
            // Its streams stay open, so the member lives.
            assert!(matches!(next_input(&a).await, Input::SnapshotSent { to: 2, is_taken: false }));
            assert!(has_streams(&a, 2));
            fs::remove_dir_all(&at).unwrap();
        },
    );
}

#[test]
fn a_member_that_takes_its_time_does_not_keep_another_one_waiting() {
    let at = folder("two", 2);
    run_with(
        |id| snapshots("two", id),
        move |a, b, _, third| async move {
            a.send_snapshot(2, bare(2));
            let Input::Snapshot(arrival) = next_input(&b).await else { panic!("something else") };
            a.send_snapshot(3, bare(3));
            let taking = std::thread::spawn(move || take_at(&third));
            assert!(matches!(next_input(&a).await, Input::SnapshotSent { to: 3, is_taken: true }));
            taking.join().unwrap();
            b.refuse_snapshot(arrival);
            assert!(matches!(next_input(&a).await, Input::SnapshotSent { to: 2, is_taken: true }));
            fs::remove_dir_all(&at).unwrap();
        },
    );
}

/// Takes the first snapshot that comes, and leaves everything else without an answer.
fn take_at(socket: &TcpListener) {
    socket.set_nonblocking(false).unwrap();
    let mut others = Vec::new();
    loop {
        let mut connection = socket.accept().unwrap().0;
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && connection.read_exact(&mut byte).is_ok() {
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        if !head.starts_with("POST /raft/snapshot ") {
            others.push(connection);
            continue;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        io::copy(&mut (&mut connection).take(length.parse().unwrap()), &mut io::sink()).unwrap();
        connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        return;
    }
}

#[test]
fn whoever_sends_a_snapshot_can_be_answered_though_it_is_not_known_yet() {
    let at = folder("met", 2);
    run_with(
        |id| snapshots("met", id),
        move |_, b, url, third| async move {
            let stranger =
                Own { member_id: 77, peer_urls: format!("http://{}", third.local_addr().unwrap()), ..own(1) };
            let answer = ask(&stranger, &url, "POST", "/raft/snapshot", 2, b"").await;
            assert_eq!(answer.0, 400);
            third.set_nonblocking(true).unwrap();
            let (is_met, tries) = (Cell::new(false), Cell::new(0));
            b.send(77, Box::new(message(MessageType::MsgAppendResponse, 2, 77, 7)));
            until("the answer to the stranger", || {
                tries.set(tries.get() + 1);
                if let Ok((mut connection, _)) = third.accept() {
                    let mut begin = [0; 11];
                    connection.set_nonblocking(false).unwrap();
                    connection.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                    is_met.set(connection.read_exact(&mut begin).is_ok() && begin == *b"POST /raft ");
                }
                is_met.get()
            })
            .await;
            let _ = fs::remove_dir_all(&at);
        },
    );
}
