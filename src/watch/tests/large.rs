//! Revisions that are too large: for memory, for a response, for a fragment.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use prost::Message;

use super::super::hub::FRAGMENT_SLACK_BYTES;
use super::super::*;
use super::world::{
    World, config, decode, hub, hub_up_to, hub_with, publish, put_many, range, watching, work,
};
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use crate::proto::mvccpb::KeyValue;
use crate::stdx::time::{Duration, Instant};

/// A store with one revision: some events of the same large value.
struct OneHuge {
    value: Vec<u8>,
    events: i64,
}

impl History for OneHuge {
    fn revision(&self) -> i64 {
        2
    }

    fn compact_revision(&self) -> i64 {
        -1
    }

    fn events(&self, from: (i64, i64), to: i64, each: &mut dyn FnMut(PastEvent<'_>) -> ControlFlow<()>) {
        if to < 2 {
            return;
        }
        let first = if from.0 < 2 { 0 } else { from.1 };
        for sub in first..self.events {
            let event =
                PastEvent { revision: 2, sub, delete: false, create: true, key: b"k", kv: &self.value };
            if each(event).is_break() {
                return;
            }
        }
    }

    fn value_at(&self, _: &[u8], _: i64) -> Option<&[u8]> {
        None
    }

    fn value_of(&self, _: i64, _: i64) -> Option<&[u8]> {
        None
    }
}

fn huge(value_bytes: usize, events: i64, fragment: bool) -> (OneHuge, Hub, StreamId) {
    let pair = KeyValue {
        key: "k".into(),
        mod_revision: 2,
        value: vec![0; value_bytes].into(),
        ..Default::default()
    };
    let history = OneHuge { value: pair.encode_to_vec(), events };
    let limits = Limits { bytes: 1 << 20, ..Limits::default() };
    let mut hub = Hub::new(HubConfig { max_request_bytes: 1 << 20, limits, ..config() }, 2);
    let stream = hub.open(Instant::default(), Duration::from_secs(600), 1 << 18);
    let (key, start_revision) = ("k".into(), 1);
    let request = WatchCreateRequest {
        key,
        start_revision,
        fragment,
        progress_notify: true,
        ..WatchCreateRequest::default()
    };
    hub.create(Instant::default(), stream, &request, &history);
    assert!(decode(&hub.poll_output().expect("an answer")).created);
    (history, hub, stream)
}

#[test]
fn after_a_huge_revision_a_whole_interval_passes_before_a_notification() {
    let (history, mut hub, stream) = huge(1 << 16, 100, false);
    let interval = Duration::from_secs(600);
    let mut now = Instant::default();
    let (mut events, mut ticked) = (0, false);
    while hub.needs_work() {
        hub.work(&history, Budget::default());
        while let Some(output) = hub.poll_output() {
            events += output.events;
        }
        if events > 10 && !ticked {
            ticked = true;
            now = now + interval;
            hub.tick(now);
            hub.notify_all();
        }
        hub.on_window(stream, 1 << 18);
    }
    assert!(ticked && events == 100, "the interval ended in the middle of the revision");
    let told = [(); 2].map(|()| {
        now = now + interval;
        hub.tick(now);
        hub.notify_all();
        std::iter::from_fn(|| hub.poll_output()).count()
    });
    assert_eq!(told, [0, 1]);
}

#[test]
fn a_revision_of_any_size_is_sent_with_little_memory() {
    let (history, mut hub, stream) = huge(1 << 16, 1000, false);
    let (mut announced, mut sent, mut events, mut held) = (0, 0, 0, 0);
    while hub.needs_work() || sent == 0 {
        hub.work(&history, Budget::default());
        held = held.max(hub.outputs_len());
        while let Some(output) = hub.poll_output() {
            if let Part::First { total } = output.part {
                announced = total;
            }
            sent += output.len();
            events += output.events;
        }
        hub.on_window(stream, 1 << 18);
        hub.check_invariants();
    }
    assert_eq!((sent, events), (announced, 1000));
    assert!(sent > 64_000_000 && held < 1 << 20, "{held} bytes waited at once");
}

#[test]
fn a_response_that_grpc_cannot_carry_ends_its_stream_each_time() {
    let (history, mut hub, mut stream) = huge(64 << 20, 40, false);
    for _ in 0..2 {
        while hub.needs_work() {
            hub.work(&history, Budget::default());
        }
        let output = hub.poll_output().expect("the end");
        assert!(matches!(output.part, Part::End(Fault::TooLarge { bytes }) if bytes > 40 * (64 << 20)));
        assert_eq!((output.stream, hub.stats().watchers), (stream, 0));
        // The client comes back with the same revision.
        stream = hub.open(Instant::default(), Duration::from_secs(600), 1 << 18);
        let request = WatchCreateRequest { key: "k".into(), start_revision: 1, ..Default::default() };
        hub.create(Instant::default(), stream, &request, &history);
        hub.poll_output().expect("created");
    }
}

#[test]
fn fragments_of_a_huge_revision_are_small() {
    let (history, mut hub, stream) = huge(1 << 16, 1000, true);
    let (mut events, mut fragments, mut begun) = (0, 0, (vec![], 0));
    while hub.needs_work() {
        hub.work(&history, Budget::default());
        while let Some(output) = hub.poll_output() {
            assert!(output.len() <= 1 << 16, "a piece is small");
            match output.part {
                Part::First { total } => begun = (output.head.to_vec(), total),
                Part::Rest => begun.0.extend_from_slice(&output.body),
                part => panic!("{part:?}"),
            }
            if begun.0.len() == begun.1 {
                let response = WatchResponse::decode(&*begun.0).expect("a response");
                events += response.events.len();
                assert!(begun.1 < hub_fragment_bytes(), "a fragment stays below the limit");
                assert_eq!(response.fragment, events < 1000, "the last fragment is unmarked");
                fragments += 1;
            }
        }
        hub.on_window(stream, 1 << 18);
    }
    assert_eq!((events, fragments), (1000, 1000usize.div_ceil(23)));
}

/// The length from which on a response is split in the hub of `huge`.
fn hub_fragment_bytes() -> usize {
    (1 << 20) + FRAGMENT_SLACK_BYTES
}

/// The streams that ended for a response that is too large, and its length.
fn too_large(hub: &mut Hub) -> impl Iterator<Item = (StreamId, u64)> {
    std::iter::from_fn(|| hub.poll_output()).map(|output| match output.part {
        Part::End(Fault::TooLarge { bytes }) => (output.stream, bytes),
        part => panic!("{part:?} is no end"),
    })
}

#[test]
fn a_response_that_cannot_be_sent_ends_its_stream_and_no_other() {
    let (mut world, mut hub) = (World::new(), hub_up_to(0, 10_000));
    let small = watching(&mut hub, &world, range("a", ""));
    let large = watching(&mut hub, &world, range("a", "z"));
    let fragments = WatchCreateRequest { fragment: true, ..range("a", "z") };
    let split = watching(&mut hub, &world, fragments);
    let value = [0; 2000];
    let keys: Vec<String> = (0..6).map(|n| format!("{}", (b'a' + n) as char)).collect();
    let changes: Vec<(&[u8], Option<&[u8]>)> =
        keys.iter().map(|key| (key.as_bytes(), Some(&value[..]))).collect();
    world.apply(&changes);
    let batch = world.lane.pop_front().unwrap();
    publish(&mut hub, batch, &world);
    hub.check_invariants();
    let output = hub.poll_output().expect("the first event fits");
    assert_eq!((output.stream, output.events), (small, 1));
    let mut ended: Vec<StreamId> = too_large(&mut hub).map(|(stream, _)| stream).collect();
    ended.sort_unstable();
    assert_eq!(ended, [large, split]);
    assert_eq!((hub.stats().streams, hub.stats().watchers), (1, 1));

    // Reading the revision from the store ends the stream as well, however often the client comes back.
    for _ in 0..2 {
        let again = watching(&mut hub, &world, WatchCreateRequest { start_revision: 2, ..range("a", "z") });
        while hub.needs_work() {
            hub.work(&world, Budget::default());
        }
        assert!(too_large(&mut hub).map(|(stream, _)| stream).eq([again]));
        assert!(hub.poll_output().is_none());
        hub.check_invariants();
    }

    // Later revisions are delivered as before.
    world.apply(&[(b"a", Some(b"later"))]);
    let batch = world.lane.pop_front().unwrap();
    publish(&mut hub, batch, &world);
    assert_eq!(hub.poll_output().map(|output| output.stream), Some(small));
}

#[test]
fn the_head_counts_in_the_length_of_a_response() {
    for (spare, fits) in [(0, true), (-1, false)] {
        let (mut world, mut hub) = (World::new(), hub(0));
        watching(&mut hub, &world, range("a", ""));
        world.apply(&[(b"a", Some(&[0; 500]))]);
        let batch = world.lane.pop_front().unwrap();
        publish(&mut hub, batch.clone(), &world);
        let len = hub.poll_output().expect("an event").len();

        let mut hub = hub_up_to(0, len.saturating_add_signed(spare));
        let stream = watching(&mut hub, &World::new(), range("a", ""));
        publish(&mut hub, batch.clone(), &world);
        if fits {
            assert_eq!(hub.poll_output().map(|output| (output.part, output.len())), Some((Part::Whole, len)));
        } else {
            assert!(too_large(&mut hub).eq([(stream, len as u64)]));
        }
    }
}

#[test]
fn a_revision_that_is_too_much_for_several_streams_comes_to_each() {
    let limits = Limits { matches: 1, bytes: 60, piece_bytes: 50 };
    let (mut world, mut hub) = (World::new(), hub_with(0, limits));
    let streams: Vec<StreamId> = (0..9).map(|_| watching(&mut hub, &world, range("a", "b"))).collect();
    put_many(&mut world, 30);
    hub.on_publish(Arc::new(world.lane.pop_front().unwrap()));
    let mut events: BTreeMap<StreamId, u32> = BTreeMap::new();
    for _ in 0..5000 {
        if !hub.needs_work() {
            break;
        }
        for output in work(&mut hub, &world, 256 << 10) {
            *events.entry(output.stream).or_default() += output.events;
        }
        streams.iter().for_each(|&stream| hub.on_window(stream, 1 << 20));
    }
    assert!(!hub.needs_work(), "the hub does not end");
    assert_eq!(events, streams.iter().map(|&stream| (stream, 30)).collect());
    assert_eq!(hub.stats().slow_watchers, 0);
}

#[test]
fn nothing_comes_between_the_parts_of_a_response_nor_between_its_fragments() {
    for fragment in [false, true] {
        let limits = Limits { matches: 1, bytes: 60, piece_bytes: 200 };
        let (mut world, mut hub) = (World::new(), hub_with(0, limits));
        hub.config.fragment_slack_bytes = 400;
        let stream = watching(&mut hub, &world, WatchCreateRequest { fragment, ..range("a", "b") });
        put_many(&mut world, 30);
        hub.on_publish(Arc::new(world.lane.pop_front().unwrap()));
        let (mut events, mut answers) = (0, 0);
        for _ in 0..300 {
            hub.cancel(stream, 77);
            hub.create(Instant::default(), stream, &range("x", ""), &world);
            hub.progress(stream, &world);
            for output in work(&mut hub, &world, 1000) {
                let is_answer = output.part == Part::Whole;
                assert!(!is_answer || events == 0 || events == 30, "an answer after {events} events");
                answers += u32::from(is_answer);
                events += output.events;
            }
        }
        assert_eq!(events, 30);
        assert!(answers >= 300, "what was held back comes later: {answers}");
        hub.check_invariants();
    }
}

#[test]
fn a_stream_that_ends_at_the_answer_to_a_create_leaves_the_others_as_they_are() {
    for start_revision in [0, 1] {
        let limits = Limits { matches: 1, bytes: 60, piece_bytes: 200 };
        let (mut world, mut hub) = (World::new(), hub_with(0, limits));
        hub.config.fragment_slack_bytes = 400;
        let other = watching(&mut hub, &world, range("x", ""));
        let stream = watching(&mut hub, &world, range("a", "b"));
        put_many(&mut world, 30);
        hub.on_publish(Arc::new(world.lane.pop_front().unwrap()));
        let begun =
            |outputs: Vec<Output>| outputs.iter().any(|output| matches!(output.part, Part::First { .. }));
        while !begun(work(&mut hub, &world, 1)) {}
        // In the middle of a response nothing else is sent, so the answers wait until they are too many.
        let ends = |hub: &mut Hub| {
            hub.create(
                Instant::default(),
                stream,
                &WatchCreateRequest { start_revision, ..range("x", "") },
                &world,
            );
            std::iter::from_fn(|| hub.poll_output()).any(|output| matches!(output.part, Part::End(_)))
        };
        assert!((0..100_000).any(|_| ends(&mut hub)), "the stream may ask for ever");
        hub.check_invariants();
        world.apply(&[(b"x", Some(b"value"))]);
        hub.on_publish(Arc::new(world.lane.pop_front().unwrap()));
        let mut outputs = vec![];
        while hub.needs_work() {
            outputs.extend(work(&mut hub, &world, 64 << 10));
        }
        let events = outputs.iter().filter(|output| output.stream == other).map(|output| output.events);
        assert_eq!(events.sum::<u32>(), 1);
    }
}
