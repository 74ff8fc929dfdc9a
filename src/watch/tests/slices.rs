//! What one piece of work does, and what watchers take, however many there are.
#![forbid(unsafe_code)]

use std::sync::Arc;

use prost::Message;

use super::super::*;
use super::world::{World, config, decode, hub, publish, put_many, range, watching, work};
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use crate::stdx::time::{Duration, Instant};

#[test]
fn a_thousand_watchers_of_one_range_share_what_they_are_sent() {
    let (mut world, mut hub) = (World::new(), hub(1 << 20));
    let stream = hub.open(Instant::default(), Duration::from_secs(600), 1 << 30);
    let request = WatchCreateRequest { key: "a".into(), range_end: "b".into(), ..Default::default() };
    (0..1000).for_each(|_| hub.create(Instant::default(), stream, &request, &world));
    while hub.poll_output().is_some() {}
    world.apply(&[(b"a1", Some(b"value"))]);
    let batch = world.lane.pop_front().unwrap();
    publish(&mut hub, batch, &world);
    let outputs: Vec<Output> = std::iter::from_fn(|| hub.poll_output()).collect();
    assert_eq!(outputs.len(), 1000);
    assert!(outputs.iter().all(|o| o.body.as_ptr() == outputs[0].body.as_ptr()));
}

#[test]
fn what_is_matched_for_a_stream_with_little_room_is_what_it_takes() {
    let (mut world, mut hub) = (World::new(), hub(1 << 20));
    let now = Instant::default();
    let stream = hub.open(now, Duration::from_secs(600), 1 << 14);
    let request = WatchCreateRequest { key: "a".into(), range_end: "b".into(), ..Default::default() };
    for _ in 0..3000 {
        hub.create(now, stream, &request, &world);
        hub.on_window(stream, 1 << 14);
    }
    while hub.poll_output().is_some() {}
    let keys: Vec<String> = (0..100).map(|n| format!("a{n}")).collect();
    let changes: Vec<(&[u8], Option<&[u8]>)> =
        keys.iter().map(|key| (key.as_bytes(), Some(&b"value"[..]))).collect();
    world.apply(&changes);
    hub.on_publish(Arc::new(world.lane.pop_front().unwrap()));
    let mut delivered = 0;
    while hub.needs_work() {
        hub.resume();
        hub.work(&world, Budget::default());
        while let Some(output) = hub.poll_output() {
            delivered += u64::from(output.events);
        }
        hub.on_window(stream, 1 << 14);
        hub.check_invariants();
    }
    assert_eq!(delivered, 300_000);
    let matches = hub.stats().matches;
    assert!(matches < 20 * delivered, "{matches} matches for {delivered} events");
}

#[test]
fn who_takes_over_the_number_of_a_cancelled_rider_misses_nothing() {
    let (mut world, mut hub) = (World::new(), hub(0));
    put_many(&mut world, 20);
    world.apply(&[(b"b", Some(b"later"))]);
    while let Some(batch) = world.lane.pop_front() {
        publish(&mut hub, batch, &world);
    }
    let stream = watching(&mut hub, &world, WatchCreateRequest { start_revision: 2, ..range("a", "c") });
    assert!(work(&mut hub, &world, 300).is_empty(), "the slice ends inside the first revision");
    hub.cancel(stream, 0);
    assert!(decode(&hub.poll_output().unwrap()).canceled);
    // The new watcher has the number, boards the same scan, and wants the second revision.
    hub.create(
        Instant::default(),
        stream,
        &WatchCreateRequest { start_revision: 3, ..range("a", "c") },
        &world,
    );
    assert!(decode(&hub.poll_output().unwrap()).created);
    let mut events = 0;
    while hub.needs_work() {
        events += work(&mut hub, &world, 1 << 20).iter().map(|output| output.events).sum::<u32>();
    }
    assert_eq!(events, 1);
}

/// So many watchers of everything from the second revision on.
fn crowd(hub: &mut Hub, world: &World, count: usize) -> StreamId {
    let stream = hub.open(Instant::default(), Duration::from_secs(600), usize::MAX);
    let request = WatchCreateRequest { start_revision: 2, ..range("a", "b") };
    (0..count).for_each(|_| hub.create(Instant::default(), stream, &request, world));
    while hub.poll_output().is_some() {}
    stream
}

#[test]
fn a_slice_hands_out_little_however_many_watchers_ride() {
    let (mut world, mut hub) = (World::new(), hub(0));
    world.apply(&[(b"a", Some(b"value"))]);
    let batch = world.lane.pop_front().unwrap();
    publish(&mut hub, batch, &world);
    crowd(&mut hub, &world, 10_000);
    let (mut most, mut events) = (0, 0);
    while hub.needs_work() {
        let outputs = work(&mut hub, &world, 64 << 10);
        most = most.max(outputs.len());
        events += outputs.len();
    }
    assert_eq!((events, hub.stats().slow_watchers), (10_000, 0));
    assert!(most <= 1024, "{most} responses in one slice");
}

#[test]
fn a_compaction_ends_many_watchers_a_few_at_a_time() {
    let (mut world, mut hub) = (World::new(), hub(0));
    for _ in 0..3 {
        world.apply(&[(b"a", Some(b"value"))]);
        let batch = world.lane.pop_front().unwrap();
        publish(&mut hub, batch, &world);
    }
    crowd(&mut hub, &world, 10_000);
    world.compact(4);
    let (mut most, mut canceled) = (0, 0);
    while hub.needs_work() {
        let outputs = work(&mut hub, &world, 64 << 10);
        most = most.max(outputs.len());
        canceled += outputs.iter().filter(|output| decode(output).compact_revision == 4).count();
    }
    assert_eq!(canceled, 10_000);
    assert!(most <= 1024, "{most} watchers in one slice");
}

#[test]
fn watchers_take_a_bounded_amount_per_stream_and_altogether() {
    let world = World::new();
    let key = |n: u8| vec![n; 10_000];
    let watched = Watched { stream_bytes: 25_000, bytes: 45_000 };
    let mut hub = Hub::new(HubConfig { watched, ..config() }, 1);
    let now = Instant::default();
    let streams: Vec<StreamId> = (0..3).map(|_| hub.open(now, Duration::from_secs(600), 1 << 20)).collect();
    let create = |hub: &mut Hub, stream: usize, n: u8, world: &World| {
        let request = WatchCreateRequest { key: key(n).into(), ..WatchCreateRequest::default() };
        hub.create(now, streams[stream], &request, world);
        hub.check_invariants();
        let output = hub.poll_output().expect("an answer");
        let answer =
            WatchResponse::decode(&[&output.head[..], &output.body].concat()[..]).expect("a response");
        assert!(answer.created);
        (answer.canceled, answer.cancel_reason)
    };
    let (taken, refused) = ((false, String::new()), (true, "mvcc: too many watchers".to_owned()));
    for (stream, n) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
        assert_eq!(create(&mut hub, stream, n, &world), taken);
    }
    assert_eq!(create(&mut hub, 0, 3, &world), refused, "the stream has enough");
    assert_eq!(create(&mut hub, 2, 3, &world), refused, "all of them have enough");
    hub.cancel(streams[0], 0);
    assert!(hub.poll_output().is_some());
    assert_eq!(create(&mut hub, 2, 3, &world), taken);
    hub.close(streams[1]);
    hub.close(streams[2]);
    assert_eq!(create(&mut hub, 0, 4, &world), taken, "what is closed takes nothing any more");
}
