//! What one piece of work does, and what watchers take, however many there are.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;

use super::super::watcher::State;
use super::super::*;
use super::world::{World, config, decode, hub, hub_with, publish, put_many, range, watching, work};
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

/// The watchers that one piece of work may look at, with the budget of these tests.
const LOOKS_MAX: u64 = (64 << 10) / 16;

/// Works until all is done. Returns how many events were handed out, and the most matches and parked watchers that one
/// piece of work has brought.
fn measure(hub: &mut Hub, world: &World, streams: &[StreamId]) -> (u32, u64, usize) {
    let parked = |hub: &Hub| hub.watchers.iter().filter(|(_, w)| w.state == State::Parked).count();
    let (mut events, mut matches_max, mut parked_max) = (0, 0, 0);
    while hub.needs_work() {
        let before = (hub.stats().matches, parked(hub));
        events += work(hub, world, 64 << 10).iter().map(|output| output.events).sum::<u32>();
        matches_max = matches_max.max(hub.stats().matches - before.0);
        parked_max = parked_max.max(parked(hub).saturating_sub(before.1));
        streams.iter().for_each(|&stream| hub.on_window(stream, 1 << 30));
    }
    (events, matches_max, parked_max)
}

#[test]
fn an_event_is_matched_with_some_of_its_watchers_at_a_time() {
    const WATCHERS: usize = 20_000;
    for (riding, matches) in [(false, 1 << 16), (false, 5000), (true, 1 << 16), (true, 5000)] {
        let (mut world, mut hub) = (World::new(), hub_with(0, Limits { matches, ..Limits::default() }));
        let stream = if riding {
            world.apply(&[(b"a", Some(b"value"))]);
            let batch = world.lane.pop_front().unwrap();
            publish(&mut hub, batch, &world);
            crowd(&mut hub, &world, WATCHERS)
        } else {
            let stream = crowd(&mut hub, &world, WATCHERS);
            world.apply(&[(b"a", Some(b"value"))]);
            hub.on_publish(Arc::new(world.lane.pop_front().unwrap()));
            stream
        };
        let (events, matches_max, parked_max) = measure(&mut hub, &world, &[stream]);
        let case = (riding, matches);
        assert_eq!((events, hub.stats().slow_watchers), (WATCHERS as u32, 0), "{case:?}");
        assert!(matches_max <= 2 * LOOKS_MAX, "{case:?}: {matches_max} matches in one slice");
        assert!(parked_max <= 2048, "{case:?}: {parked_max} watchers were parked in one slice");
    }
}

#[test]
fn the_watchers_of_one_key_are_met_in_bounded_steps() {
    const WATCHERS: u32 = 100_000;
    let (mut world, mut hub) = (World::new(), hub(0));
    let now = Instant::default();
    let streams: Vec<StreamId> =
        (0..50).map(|_| hub.open(now, Duration::from_secs(600), usize::MAX)).collect();
    for n in 0..WATCHERS as usize {
        hub.create(now, streams[n % streams.len()], &range("a", ""), &world);
    }
    while hub.poll_output().is_some() {}
    world.apply(&[(b"a", Some(b"value"))]);
    hub.on_publish(Arc::new(world.lane.pop_front().unwrap()));
    let budget = Budget::default();
    let (mut steps, mut matches_max, mut events) = (0, 0, BTreeMap::new());
    while hub.needs_work() {
        let before = hub.stats().matches;
        hub.work(&world, budget);
        while let Some(output) = hub.poll_output() {
            let watch_id = decode(&output).watch_id;
            *events.entry((output.stream, watch_id)).or_insert(0) += output.events;
        }
        matches_max = matches_max.max(hub.stats().matches - before);
        steps += 1;
    }
    hub.check_invariants();
    assert_eq!((events.len(), hub.stats().slow_watchers), (WATCHERS as usize, 0));
    assert!(events.values().all(|&events| events == 1), "each gets the event once");
    // What was published looks at so many, and a scan at as many again.
    assert!(matches_max <= 2 * budget.looks as u64, "{matches_max} matches in one step");
    let matches = hub.stats().matches;
    assert!(matches <= 4 * u64::from(WATCHERS) && steps <= 1000, "{matches} matches in {steps} steps");
}

#[test]
fn a_compaction_amid_an_event_lets_nobody_be_passed_over() {
    let (mut world, mut hub) = (World::new(), hub(0));
    for _ in 2..=6 {
        world.apply(&[(b"a", Some(b"value"))]);
        let batch = world.lane.pop_front().unwrap();
        publish(&mut hub, batch, &world);
    }
    let stream = hub.open(Instant::default(), Duration::from_secs(600), 1 << 20);
    for start_revision in [2, 2, 5] {
        let request = WatchCreateRequest { start_revision, ..range("a", "b") };
        hub.create(Instant::default(), stream, &request, &world);
    }
    while hub.poll_output().is_some() {}
    // All ride one scan. The youngest, who wants only later revisions, has been met when it stops.
    assert!(work(&mut hub, &world, 16).is_empty() && hub.is_amid_an_event());
    world.compact(5);
    let mut got = BTreeMap::new();
    while hub.needs_work() {
        for output in work(&mut hub, &world, 16) {
            let (events, ends) = got.entry(decode(&output).watch_id).or_insert((0, 0));
            *events += output.events;
            *ends += u32::from(decode(&output).compact_revision == 5);
        }
    }
    assert_eq!(got, BTreeMap::from([(0, (0, 1)), (1, (0, 1)), (2, (2, 0))]));
}

#[test]
fn watchers_that_begin_later_cost_looks_too() {
    let (mut world, mut hub) = (World::new(), hub(0));
    let stream = hub.open(Instant::default(), Duration::from_secs(600), 1 << 30);
    for n in 0..3000 {
        let request = WatchCreateRequest { start_revision: 9, ..range("a", &format!("b{n:04}")) };
        hub.create(Instant::default(), stream, &request, &world);
    }
    while hub.poll_output().is_some() {}
    world.apply(&[(b"a", Some(b"value"))]);
    hub.on_publish(Arc::new(world.lane.pop_front().unwrap()));
    let mut slices = 0;
    while hub.needs_work() {
        assert!(work(&mut hub, &world, 16 * 100).is_empty());
        slices += 1;
    }
    assert!((60..100).contains(&slices), "{slices} slices");
}

#[test]
fn who_joins_or_leaves_amid_an_event_gets_it_once_or_not_at_all() {
    let (mut world, mut hub) = (World::new(), hub(0));
    let now = Instant::default();
    let stream = hub.open(now, Duration::from_secs(600), 1 << 30);
    for n in 0..9 {
        let request = WatchCreateRequest { prev_kv: n % 2 == 0, fragment: n % 3 == 0, ..range("a", "b") };
        hub.create(now, stream, &request, &world);
    }
    while hub.poll_output().is_some() {}
    world.apply(&[(b"a", Some(b"value"))]);
    hub.on_publish(Arc::new(world.lane.pop_front().unwrap()));
    // The list begins with the youngest: three have been met, the walk goes on with the fourth.
    assert!(work(&mut hub, &world, 16 * 3).is_empty() && hub.is_amid_an_event());
    [5, 8, 0].iter().for_each(|&watch_id| hub.cancel(stream, watch_id));
    hub.create(now, stream, &WatchCreateRequest { watch_id: 20, ..range("a", "b") }, &world);
    hub.create(
        now,
        stream,
        &WatchCreateRequest { watch_id: 21, start_revision: 2, ..range("a", "b") },
        &world,
    );
    hub.progress(stream, &world);
    while hub.poll_output().is_some() {}
    let mut got = vec![];
    while hub.needs_work() {
        got.extend(work(&mut hub, &world, 16).iter().map(|output| (decode(output).watch_id, output.events)));
    }
    let is_promise = |&(watch_id, events): &(i64, u32)| watch_id == -1 && events == 0;
    assert!(got.iter().position(is_promise).is_none_or(|at| at >= 6), "{got:?}");
    got.retain(|answer| !is_promise(answer));
    got.sort_unstable();
    assert_eq!(got, [1, 2, 3, 4, 6, 7, 21].map(|watch_id| (watch_id, 1)));
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
