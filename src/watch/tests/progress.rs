//! Progress requests, however many there are.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::super::*;
use super::world::{World, decode, hub, publish, range, watching, work};
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::stdx::time::{Duration, Instant};

#[test]
fn progress_requests_do_not_pile_up() {
    let (mut world, mut hub) = (World::new(), hub(1 << 20));
    let stream = hub.open(Instant::default(), Duration::from_secs(600), 1 << 20);
    let request = WatchCreateRequest { key: "a".into(), ..Default::default() };
    hub.create(Instant::default(), stream, &request, &world);
    while hub.poll_output().is_some() {}
    world.apply(&[(b"b", Some(b"1"))]);
    (0..1000).for_each(|_| hub.progress(stream, &world));
    assert!(hub.poll_output().is_none(), "the batch has not come yet");
    let batch = world.lane.pop_front().unwrap();
    publish(&mut hub, batch, &world);
    assert_eq!(decode(&hub.poll_output().expect("one answer")).watch_id, -1);
    assert!(hub.poll_output().is_none());
}

#[test]
fn progress_waits_for_watchers_that_begin_later_and_for_no_others() {
    let (mut world, mut hub) = (World::new(), hub(0));
    let stream = watching(&mut hub, &world, range("a", ""));
    let later = WatchCreateRequest { start_revision: 4, ..range("b", "") };
    hub.create(Instant::default(), stream, &later, &world);
    assert!(decode(&hub.poll_output().unwrap()).created);
    for (revision, answered) in [(2, false), (3, false), (4, true)] {
        world.apply(&[(b"other", Some(b""))]);
        hub.progress(stream, &world);
        assert!(hub.poll_output().is_none(), "the batch has not come yet");
        let batch = world.lane.pop_front().unwrap();
        publish(&mut hub, batch, &world);
        let answer = hub.poll_output().map(|output| decode(&output));
        assert_eq!(answer.map(|answer| (answer.watch_id, answer.header.unwrap().revision)), {
            answered.then_some((-1, revision))
        });
        hub.check_invariants();
    }
    // A watcher that begins later and is cancelled is waited for no longer.
    hub.create(Instant::default(), stream, &WatchCreateRequest { start_revision: 9, ..later }, &world);
    let created = decode(&hub.poll_output().unwrap());
    hub.progress(stream, &world);
    assert!(hub.poll_output().is_none());
    hub.cancel(stream, created.watch_id);
    assert!(decode(&hub.poll_output().unwrap()).canceled);
    hub.progress(stream, &world);
    assert_eq!(hub.poll_output().map(|output| decode(&output).watch_id), Some(-1));
    hub.check_invariants();
}

#[test]
fn progress_requests_do_not_look_at_every_watcher() {
    let (world, mut hub) = (World::new(), hub(0));
    let stream = hub.open(Instant::default(), Duration::from_secs(600), usize::MAX);
    (0..20_000).for_each(|_| hub.create(Instant::default(), stream, &range("a", ""), &world));
    while hub.poll_output().is_some() {}
    let began = std::time::Instant::now();
    for _ in 0..20_000 {
        hub.progress(stream, &world);
        assert!(hub.poll_output().is_some());
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn streams_that_wait_for_the_same_revision_are_answered_some_at_a_time() {
    let (mut world, mut hub) = (World::new(), hub(0));
    let streams: Vec<StreamId> = (0..5000).map(|_| watching(&mut hub, &world, range("a", ""))).collect();
    world.apply(&[(b"other", Some(b""))]);
    streams.iter().for_each(|&stream| hub.progress(stream, &world));
    assert!(hub.poll_output().is_none(), "the batch has not come yet");
    hub.on_publish(Arc::new(world.lane.pop_front().unwrap()));
    let (mut answers, mut most) = (0, 0);
    while hub.needs_work() {
        let outputs = work(&mut hub, &world, 1 << 20);
        most = most.max(outputs.len());
        answers += outputs.len();
    }
    assert_eq!(answers, 5000);
    assert!(most <= 2048, "{most} answers in one slice");
}
