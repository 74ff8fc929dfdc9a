//! Leases with many keys, and many leases.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::rc::Rc;

use prost::Message;

use super::client::Client;
use super::member::Member;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseLeasesResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest,
    RequestOp, TxnRequest,
};
use crate::replica::port::{LeaseCall, Ticket};
use crate::server::session::gathering::GATHERED_BYTES_MAX;

const PUTS: usize = 128;

async fn call(client: &Client, method: &str, request: &impl Message) -> Result<Vec<u8>, String> {
    let mut call = client.open(&format!("/etcdserverpb.{method}")).await;
    call.send(&request.encode_to_vec(), true);
    let mut answer = None;
    while let Some(message) = call.next().await {
        answer = Some(message.to_vec());
    }
    let ended = call.ended.expect("the call is over");
    if ended.code == "0" { Ok(answer.expect("an answer")) } else { Err(ended.text) }
}

/// Puts `count` keys of a lease whose names begin with `prefix`.
async fn attach(client: &Client, lease: i64, prefix: &str, count: usize) {
    for first in (0..count).step_by(PUTS) {
        let put = |n: usize| {
            let key = format!("{prefix}{n:06}").into();
            RequestOp { request: Some(Op::RequestPut(PutRequest { key, lease, ..PutRequest::default() })) }
        };
        let success = (first..count.min(first + PUTS)).map(put).collect();
        call(client, "KV/Txn", &TxnRequest { success, ..TxnRequest::default() }).await.expect("puts");
    }
}

async fn grant(client: &Client, id: i64, ttl: i64) {
    call(client, "Lease/LeaseGrant", &LeaseGrantRequest { id, ttl }).await.expect("a lease");
}

async fn keys_of(client: &Client, id: i64) -> Result<Vec<Vec<u8>>, String> {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    let answer = call(client, "Lease/LeaseTimeToLive", &request).await?;
    let answer = LeaseTimeToLiveResponse::decode(&answer[..]).expect("an answer");
    assert!(answer.id == id && answer.granted_ttl == 600);
    Ok(answer.keys.iter().map(|key| key.to_vec()).collect())
}

fn with_member(test: impl AsyncFnOnce(&Member, &Client)) {
    let builder = glommio::LocalExecutorBuilder::default().io_memory(64 << 10).ring_depth(128);
    builder.make().expect("an executor").run(async {
        let member = Member::start(None).await;
        let client = Client::new(member.connect()).await;
        test(&member, &client).await;
    });
}

#[test]
fn a_lease_shows_its_keys_and_no_others_however_many_they_are() {
    with_member(async |_, client| {
        for id in [6, 7, 8] {
            grant(client, id, 600).await;
        }
        attach(client, 6, "before", 3).await;
        attach(client, 8, "behind", 3).await;
        for count in [0, 1, 1024, 1025, 5000] {
            attach(client, 7, "key", count).await;
            let keys = keys_of(client, 7).await.expect("keys");
            let expected: Vec<Vec<u8>> = (0..count).map(|n| format!("key{n:06}").into_bytes()).collect();
            assert!(keys == expected, "{} keys, not {count}", keys.len());
        }
    });
}

#[test]
fn a_list_of_leases_begins_with_the_soonest_to_expire() {
    with_member(async |_, client| {
        let mut expected = Vec::new();
        for n in 0..1500_i64 {
            // TTLs in no order, each once.
            let ttl = 1000 + n * 7919 % 1500;
            grant(client, n + 1, ttl).await;
            expected.push((ttl, n + 1));
            if [1, 64, 65, 512, 513, 1500].contains(&expected.len()) {
                let answer = call(client, "Lease/LeaseLeases", &()).await.expect("a list");
                let listed = LeaseLeasesResponse::decode(&answer[..]).expect("an answer").leases;
                let ids: Vec<i64> = listed.iter().map(|lease| lease.id).collect();
                let mut sorted = expected.clone();
                sorted.sort_unstable();
                assert!(ids == sorted.iter().map(|(_, id)| *id).collect::<Vec<_>>(), "of {}", ids.len());
            }
        }
    });
}

/// Whoever wants keys while gathered answers fill the core's memory waits, and is answered when they are sent.
#[test]
fn keys_are_gathered_once_there_is_room_for_them() {
    with_member(async |member, client| {
        grant(client, 7, 600).await;
        attach(client, 7, "key", 5000).await;
        let gathering = Rc::clone(&member.session.gathering);
        let mut held = gathering.begin();
        held.set(GATHERED_BYTES_MAX).expect("room for one");
        let freed = async {
            while !gathering.is_held_up() {
                crate::server::io::task::yield_now().await;
            }
            drop(held);
        };
        let (keys, ()) = futures::future::join(keys_of(client, 7), freed).await;
        assert_eq!(keys.expect("keys").len(), 5000);
    });
}

/// Nothing but a read waits for such a permission; whoever gets one all the same is answered and nobody else.
#[test]
fn a_permission_to_read_for_what_is_no_read_ends_that_request_alone() {
    with_member(async |member, client| {
        let heard = Rc::new(RefCell::new(None));
        let hears = heard.clone();
        member.session.lease(LeaseCall::TimeToLive { id: 7 }, move |_, result| {
            *hears.borrow_mut() = Some(result.map_err(|status| status.message));
        });
        // Whatever its number is: a ticket of the first core in its first slot.
        (1..1000).for_each(|issue| member.session.on_read_ready(Ticket(issue)));
        let text = "etcdserver: request timed out";
        assert_eq!(heard.borrow_mut().take().expect("it is answered").expect_err("with an error"), text);
        grant(client, 7, 600).await;
    });
}
