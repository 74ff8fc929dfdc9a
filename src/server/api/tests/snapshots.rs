//! Snapshots: the whole file through a connection, and clients that go or take nothing.
#![forbid(unsafe_code)]

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use prost::Message;

use super::client::{Call, Client};
use super::member::Member;
use crate::bbolt::fuzz::{Buckets, read};
use crate::proto::etcdserverpb::{LeaseGrantRequest, PutRequest, SnapshotResponse};
use crate::server::io::{clock, task};
use crate::server::session::gathering::GATHERED_BYTES_MAX;
use crate::stdx::time::Duration;

async fn call(client: &Client, method: &str, request: &impl Message) {
    let mut call = client.open(&format!("/etcdserverpb.{method}")).await;
    call.send(&request.encode_to_vec(), true);
    while call.next().await.is_some() {}
    assert_eq!(call.ended.expect("the call is over").code, "0");
}

async fn put(client: &Client, key: String, value_len: usize) {
    let value = vec![b'v'; value_len].into();
    call(client, "KV/Put", &PutRequest { key: key.into(), value, ..PutRequest::default() }).await;
}

async fn begin(client: &Client) -> Call {
    let mut call = client.open("/etcdserverpb.Maintenance/Snapshot").await;
    call.send(&[], true);
    call
}

fn decoded(message: Bytes) -> SnapshotResponse {
    SnapshotResponse::decode(message).expect("an answer")
}

/// All messages but the last, and the checksum in the last.
async fn rest(call: &mut Call) -> (Vec<SnapshotResponse>, Bytes) {
    let mut messages = Vec::new();
    while let Some(message) = call.next().await {
        messages.push(decoded(message));
    }
    assert_eq!(call.ended.as_ref().expect("the call is over").code, "0");
    let last = messages.pop().expect("a checksum");
    (messages, last.blob)
}

fn keys_of(buckets: &Buckets) -> usize {
    buckets.iter().find(|(name, _)| name == b"key").expect("bucket key").1.len()
}

fn with_member(test: impl AsyncFnOnce(&Member, &Client)) {
    let builder = glommio::LocalExecutorBuilder::default().io_memory(64 << 10).ring_depth(128);
    builder.make().expect("an executor").run(async {
        let member = Member::start(None).await;
        let client = Client::new(member.connect()).await;
        test(&member, &client).await;
    });
}

async fn until(what: &str, is_true: impl Fn() -> bool) {
    let waits = async {
        while !is_true() {
            task::yield_now().await;
        }
    };
    task::until(clock::now() + Duration::from_secs(20), waits).await.unwrap_or_else(|| panic!("{what}"));
}

#[test]
fn a_snapshot_is_the_state_at_its_beginning_with_its_checksum() {
    with_member(async |member, client| {
        for id in 1..=3000 {
            call(client, "Lease/LeaseGrant", &LeaseGrantRequest { id, ttl: 600 }).await;
        }
        for n in 0..200 {
            put(client, format!("key/{n}"), [100, 5000][n % 2]).await;
        }
        put(client, "long".into(), 1 << 20).await;
        let mut snapshot = begin(client).await;
        let first = decoded(snapshot.next().await.expect("a part of the file"));
        // What is not taken of a snapshot fills the window of its connection.
        let other = Client::new(member.connect()).await;
        for n in 0..50 {
            put(&other, format!("later/{n}"), 100).await;
        }
        let (mut messages, checksum) = rest(&mut snapshot).await;
        messages.insert(0, first);
        let total = messages.iter().map(|message| message.blob.len() as u64).sum::<u64>();
        let mut left = total;
        for message in &messages {
            left -= message.blob.len() as u64;
            assert!(message.blob.len() == 32_768 || left == 0);
            assert_eq!((message.remaining_bytes, &message.version[..]), (left, "3.7.0"));
        }
        let file: Vec<u8> = messages.iter().flat_map(|message| message.blob.clone()).collect();
        assert_eq!(digest(&SHA256, &file).as_ref(), &checksum[..]);
        let buckets = read(&file).expect("a file of bbolt");
        assert_eq!(keys_of(&buckets), 201, "what came later is not in it");
        let names: Vec<_> = buckets.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
        let expected = "alarm auth authRoles authUsers cluster key lease members members_removed meta";
        assert_eq!(names.join(" "), expected);
        assert_eq!(buckets[6].1.len(), 3000);
        assert_eq!(member.session.metrics.store_readers.get(), 0, "nothing is held any more");
    });
}

#[test]
fn a_client_that_goes_gives_back_what_its_snapshot_holds() {
    with_member(async |member, client| {
        for n in 0..20 {
            put(client, format!("key/{n}"), 1 << 20).await;
        }
        let held = || member.session.metrics.store_readers.get();
        let stuck = Client::stuck(member.connect()).await;
        let snapshot = begin(&stuck).await;
        until("the snapshot begins", || held() == 1).await;
        drop((snapshot, stuck));
        until("the pin goes with the client", || held() == 0).await;
    });
}

#[test]
fn a_snapshot_waits_until_the_copies_of_others_leave_room() {
    with_member(async |member, client| {
        call(client, "Lease/LeaseGrant", &LeaseGrantRequest { id: 7, ttl: 600 }).await;
        let copies = member.session.copies.clone();
        let mut held = copies.begin();
        held.set(GATHERED_BYTES_MAX).expect("room for one");
        let mut snapshot = begin(client).await;
        until("the snapshot waits", || copies.is_held_up()).await;
        drop(held);
        let (messages, _) = rest(&mut snapshot).await;
        assert!(!messages.is_empty());
    });
}
