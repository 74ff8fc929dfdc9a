//! What a core holds for clients that take no answers, or have gone: bounded, and nobody else notices.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use futures::future::join_all;
use prost::Message;

use super::client::{Call, Client};
use super::member::Member;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{
    PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
};
use crate::replica::port::Input;
use crate::response::Response;
use crate::server::io::{clock, task};
use crate::server::mesh::Receiver;
use crate::stdx::time::Duration;

const MIB: usize = 1 << 20;
const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const TXN: &str = "/etcdserverpb.KV/Txn";

fn on_executor(test: impl Future<Output = ()>) {
    let builder = glommio::LocalExecutorBuilder::default().io_memory(64 << 10).ring_depth(128);
    builder.make().expect("an executor").run(test);
}

/// Waits for something that must come to pass.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = clock::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(clock::now() < deadline, "{what}");
        task::yield_now().await;
    }
}

/// Waits until nothing is held for anybody.
async fn until_free(member: &Member) {
    until("all is given back", || (member.memory().unsent(), member.memory().held()) == (0, 0)).await;
}

/// Lets everybody go on until nothing more is to be expected.
async fn settle() {
    for _ in 0..500 {
        task::yield_now().await;
    }
}

/// Waits until the replica has been told so much.
async fn until_told(lane: &Receiver<Input>, told: &mut VecDeque<Input>, count: usize) {
    until("the replica is told", || {
        lane.take(usize::MAX, told);
        told.len() >= count
    })
    .await;
}

/// Sends a call and keeps it open.
async fn send(client: &Client, path: &str, request: &impl Message) -> Call {
    let mut call = client.open(path).await;
    call.send(&request.encode_to_vec(), true);
    call
}

/// Twenty calls that are proposed first and answered then.
async fn answered(
    member: &Member,
    lane: &Receiver<Input>,
    client: &Client,
    path: &str,
    request: &impl Message,
    answer: impl Fn() -> Response,
) -> Vec<Call> {
    let (mut calls, mut told) = (Vec::new(), VecDeque::new());
    for n in 1..=20 {
        calls.push(send(client, path, request).await);
        until_told(lane, &mut told, n).await;
    }
    for input in told {
        let Input::Propose { ticket, .. } = input else { panic!("a proposal") };
        member.session.on_reply(clock::now(), ticket, Ok(answer()));
    }
    calls
}

async fn finish(mut call: Call) -> Result<Vec<u8>, String> {
    let answer = call.next().await;
    if answer.is_some() {
        assert_eq!(call.next().await, None);
    }
    let ended = call.ended.expect("the call is over");
    if ended.code == "0" { Ok(answer.expect("an answer").to_vec()) } else { Err(ended.text) }
}

async fn fill(client: &Client, keys: usize, bytes: usize) {
    for n in 0..keys {
        let (key, value) = (format!("large/{n:03}").into(), vec![b'v'; bytes].into());
        let put = PutRequest { key, value, ..PutRequest::default() };
        finish(send(client, PUT, &put).await).await.expect("a put");
    }
}

/// A put that changes nothing but the revision, and answers with the pair before it.
fn put_again() -> PutRequest {
    let key = "large/000".into();
    PutRequest { key, ignore_value: true, prev_kv: true, ..PutRequest::default() }
}

fn large(revision: i64) -> RangeRequest {
    let (key, range_end) = ("large/".into(), "large0".into());
    RangeRequest { key, range_end, revision, ..RangeRequest::default() }
}

fn txn(ops: impl IntoIterator<Item = Op>) -> TxnRequest {
    let success = ops.into_iter().map(|op| RequestOp { request: Some(op) }).collect();
    TxnRequest { success, ..TxnRequest::default() }
}

async fn is_served(client: &Client) {
    let get = RangeRequest { key: "large/000".into(), ..RangeRequest::default() };
    let answer = finish(send(client, RANGE, &get).await).await.expect("a get");
    assert_eq!(RangeResponse::decode(&answer[..]).expect("an answer").count, 1);
    let put = PutRequest { key: "small".into(), ..PutRequest::default() };
    finish(send(client, PUT, &put).await).await.expect("a put");
}

#[test]
fn answers_to_puts_that_nobody_takes_keep_further_puts_of_their_client_waiting() {
    on_executor(async {
        let member = Member::start(None).await;
        let client = Client::new(member.connect()).await;
        fill(&client, 1, MIB).await;
        let stuck = Client::stuck(member.connect()).await;
        let mut calls = Vec::new();
        for _ in 0..100 {
            calls.push(send(&stuck, PUT, &put_again()).await);
        }
        until("answers wait", || member.memory().unsent() > 4 * MIB).await;
        settle().await;
        assert!(member.memory().unsent() < 7 * MIB, "{} bytes wait", member.memory().unsent());
        is_served(&client).await;
        drop((calls, stuck));
        until_free(&member).await;
        // Who takes answers gets all of them, however many come at once.
        let mut calls = Vec::new();
        for _ in 0..100 {
            calls.push(send(&client, PUT, &put_again()).await);
        }
        for answer in join_all(calls.into_iter().map(finish)).await {
            let answer = PutResponse::decode(&answer.expect("a put")[..]).expect("an answer");
            assert_eq!(answer.prev_kv.expect("a pair").value.len(), MIB);
        }
    });
}

/// Nothing was there when these puts were let in, and each answers with a pair that others have put meanwhile.
#[test]
fn an_answer_longer_than_its_room_ends_its_call_where_nobody_takes_any() {
    on_executor(async {
        let (member, lane) = Member::unanswered();
        let stuck = Client::stuck(member.connect()).await;
        let put = PutRequest { key: "a".into(), prev_kv: true, ..PutRequest::default() };
        let answer = || Response::Put { revision: 2, prev_kv: Some(vec![0; MIB].into()) };
        let mut calls = answered(&member, &lane, &stuck, PUT, &put, answer).await;
        assert!(member.memory().unsent() < 7 * MIB, "{} bytes wait", member.memory().unsent());
        for call in &mut calls[10..] {
            assert_eq!(call.next().await, None);
            let ended = call.ended.take().expect("the call is over");
            assert!(ended.code == "8" && ended.text.contains("no room"), "{ended:?}");
        }
    });
}

/// Few calls wait, so what these put is not looked up until the answers that nobody takes crowd the core.
#[test]
fn answers_of_one_pair_are_sent_without_a_look_until_they_crowd_the_core() {
    on_executor(async {
        let (member, lane) = Member::unanswered();
        let put = PutRequest { key: "a".into(), prev_kv: true, ..PutRequest::default() };
        let answer = || Response::Txn { revision: 2, body: vec![0; MIB].into() };
        let request = txn([Op::RequestPut(put)]);
        let mut stuck = Vec::new();
        for _ in 0..10 {
            let client = Client::stuck(member.connect()).await;
            stuck.push((answered(&member, &lane, &client, TXN, &request, &answer).await, client));
        }
        // Four times twenty, and then what each connection may have on its own.
        let unsent = member.memory().unsent();
        assert!((80 * MIB..80 * MIB + 6 * 6 * MIB).contains(&unsent), "{unsent} bytes wait");
        for (calls, _) in &mut stuck[4..] {
            let refused = calls.last_mut().expect("twenty calls");
            assert_eq!(refused.next().await, None);
            let ended = refused.ended.take().expect("the call is over");
            assert!(ended.code == "8" && ended.text.contains("no room"), "{ended:?}");
        }
    });
}

#[test]
fn long_answers_to_writes_of_many_clients_wait_for_the_room_of_the_core() {
    on_executor(async {
        let member = Member::start(None).await;
        let client = Client::new(member.connect()).await;
        fill(&client, 40, MIB).await;
        let put = PutRequest { key: "small".into(), ..PutRequest::default() };
        let request = txn([Op::RequestRange(large(0)), Op::RequestPut(put)]);
        let mut stuck = Vec::new();
        for _ in 0..6 {
            let client = Client::stuck(member.connect()).await;
            stuck.push((send(&client, TXN, &request).await, client));
        }
        until("answers wait", || member.memory().unsent() > 100 * MIB).await;
        settle().await;
        assert!(member.memory().unsent() <= 128 * MIB, "{} bytes wait", member.memory().unsent());
        is_served(&client).await;
        let waiting = send(&client, TXN, &request).await;
        settle().await;
        drop(stuck);
        let answer = finish(waiting).await.expect("room, once the others have gone");
        assert_eq!(TxnResponse::decode(&answer[..]).expect("an answer").responses.len(), 2);
        until_free(&member).await;
        assert_eq!(member.session.waiting(), 0);
    });
}

#[test]
fn a_write_that_waits_for_room_is_counted_and_goes_with_its_client() {
    on_executor(async {
        let member = Member::start(None).await;
        let client = Client::new(member.connect()).await;
        fill(&client, 40, MIB).await;
        let put = |bytes: usize| {
            let put =
                PutRequest { key: "small".into(), value: vec![0; bytes].into(), ..PutRequest::default() };
            txn([Op::RequestRange(large(0)), Op::RequestPut(put)])
        };
        let mut stuck = Vec::new();
        for _ in 0..3 {
            let client = Client::stuck(member.connect()).await;
            stuck.push((send(&client, TXN, &put(1)).await, client));
        }
        until("the core is full", || member.memory().unsent() > 100 * MIB).await;
        let other = Client::new(member.connect()).await;
        let waiting = send(&other, TXN, &put(MIB)).await;
        settle().await;
        until("the request waits", || member.memory().held() > MIB).await;
        settle().await;
        assert!(member.memory().held() > MIB, "{} bytes wait", member.memory().held());
        drop((waiting, other));
        until("the request has gone with its client", || member.memory().held() == 0).await;
        assert!(member.memory().unsent() > 100 * MIB, "there was no room for it");
    });
}

/// Long answers hold a state each: so many of them are under way. What keeps no bounds until it is written may be.
#[test]
fn reads_that_keep_long_keys_and_that_nobody_takes_keep_further_ones_waiting() {
    let range = RangeRequest { range_end: vec![b'z'; 1_400_000].into(), ..large(0) };
    let read_only = txn([Op::RequestRange(range.clone())]);
    for (path, request) in [(RANGE_STREAM, range.encode_to_vec()), (TXN, read_only.encode_to_vec())] {
        on_executor(async {
            let member = Member::start(None).await;
            let client = Client::new(member.connect()).await;
            fill(&client, 60, 10_000).await;
            let (stuck, mut calls) = (Client::stuck(member.connect()).await, Vec::new());
            for _ in 0..12 {
                let mut call = stuck.open(path).await;
                call.send(&request, true);
                calls.push(call);
            }
            until("an answer is under way", || member.session.metrics.store_readers.get() > 0).await;
            settle().await;
            let under_way = member.session.metrics.store_readers.get();
            assert!(under_way <= 4, "{under_way} of {path} are under way");
            is_served(&client).await;
            let mut taken = client.open(path).await;
            taken.send(&request, true);
            while taken.next().await.is_some() {}
            assert_eq!(taken.ended.expect("the call is over").code, "0", "{path}");
            drop((calls, stuck));
            until_free(&member).await;
            until("no state is held", || member.session.metrics.store_readers.get() == 0).await;
        });
    }
}

#[test]
fn what_is_kept_of_a_head_is_counted_until_its_message_has_come() {
    on_executor(async {
        let member = Member::start(None).await;
        let client = Client::new(member.connect()).await;
        let version = "v".repeat(10_000);
        let token = "t".repeat(50_000);
        let mut calls = Vec::new();
        for _ in 0..10 {
            calls.push(client.open_with(RANGE, &[("client-api-version", &version), ("token", &token)]).await);
        }
        until("the heads have come", || member.memory().held() >= 100_000).await;
        settle().await;
        let held = member.memory().held();
        assert!((100_000..110_000).contains(&held), "{held}");
        calls.iter_mut().for_each(|call| call.send(&large(0).encode_to_vec(), true));
        for call in calls {
            finish(call).await.expect("an answer");
        }
        until_free(&member).await;
    });
}

#[test]
fn the_answers_of_clients_that_have_gone_are_not_waited_for() {
    on_executor(async {
        let (member, lane) = Member::unanswered();
        let (gone, stays) = (Client::new(member.connect()).await, Client::new(member.connect()).await);
        let put = PutRequest { key: "a".into(), prev_kv: true, ..PutRequest::default() };
        let (gone_call, _stays) = (send(&gone, PUT, &put).await, send(&stays, PUT, &put).await);
        let mut told = VecDeque::new();
        until_told(&lane, &mut told, 2).await;
        drop((gone_call, gone));
        until_told(&lane, &mut told, 3).await;
        let proposed: Vec<u64> = told
            .iter()
            .filter_map(|input| match input {
                Input::Propose { id, .. } => Some(*id),
                _ => None,
            })
            .collect();
        assert!(matches!(told[2], Input::Forget { id } if proposed.contains(&id)));
        assert_eq!(member.session.waiting(), 1, "the other client's");
    });
}

/// A transaction of some 200 KB, with 60 puts in each of 60 transactions, whose last key is `last`.
fn long_txn(last: &str) -> TxnRequest {
    let put = |key: String| Op::RequestPut(PutRequest { key: key.into(), ..PutRequest::default() });
    let key = |n: usize| if n == 3_599 { last.to_owned() } else { format!("{n:050}") };
    txn((0..60).map(|part| Op::RequestTxn(txn((part * 60..part * 60 + 60).map(|n| put(key(n)))))))
}

#[test]
fn long_transactions_are_read_one_after_the_other_beside_other_requests() {
    on_executor(async {
        let (member, lane) = Member::unanswered();
        let (client, gone) = (Client::new(member.connect()).await, Client::new(member.connect()).await);
        let (mut told, mut calls) = (VecDeque::new(), Vec::new());
        let first_in_line = member.session.long_txns.place();
        for last in ["a", "b"] {
            calls.push(send(&client, TXN, &long_txn(last)).await);
        }
        let gone_call = send(&gone, TXN, &long_txn("c")).await;
        let twice = send(&client, TXN, &long_txn(&"0".repeat(50))).await;
        let put = PutRequest { key: "small".into(), ..PutRequest::default() };
        let len = long_txn("a").encoded_len();
        until("all wait to be read", || member.memory().held() >= 4 * len).await;
        calls.push(send(&client, PUT, &put).await);
        until_told(&lane, &mut told, 1).await;
        drop((gone_call, gone, first_in_line));
        let refused = finish(twice).await;
        assert_eq!(refused, Err("etcdserver: duplicate key given in txn request".to_owned()));
        lane.take(usize::MAX, &mut told);
        let proposed: Vec<usize> = told
            .iter()
            .filter_map(|input| match input {
                Input::Propose { entry, .. } => Some(entry.len()),
                _ => None,
            })
            .collect();
        assert!(matches!(proposed[..], [small, a, b] if small < 100 && a > len && a == b), "{proposed:?}");
        until("nothing is unread", || member.memory().held() == 0).await;
    });
}
