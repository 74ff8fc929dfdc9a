//! Publishing: one event to the hub of a session core, out of it, and into the pieces that h2 is handed.

use super::load::{HEADER, Replicated, entry, key, namespace};
use super::meter::Meter;
use kevel::btree::Reader;
use kevel::mvcc::View;
use kevel::proto::etcdserverpb::WatchCreateRequest;
use kevel::server::grpc::Messages;
use kevel::server::http2::account::STREAM_UNSENT_MAX;
use kevel::server::session::watches::PIECE_BYTES;
use kevel::stdx::time::{Duration, Instant};
use kevel::watch::encode::Identity;
use kevel::watch::{Budget, EventBatch, Hub, HubConfig, StreamId};
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;

const STREAMS: u64 = 10;
const WATCHERS: u64 = 1_000;
/// Keys in the store; ten for each watcher of a namespace.
const KEYS: u64 = 10 * WATCHERS;

pub fn run(meter: &mut Meter) {
    // A thousand responses to write.
    let one_key = || World::new(|_| (key(0), Vec::new()), 200, |_| 0);
    meter.measure("publish to 1 000 watchers of the key", "event", one_key, |world| world.publish(WATCHERS));

    // Finding the one, and one response.
    let namespaces = || World::new(|watcher| namespace(10 * watcher), 5_000, |event| event * 7919 % KEYS);
    meter.measure("publish to 1 of 1 000 watchers", "event", namespaces, |world| world.publish(1));
}

struct World {
    hub: Hub,
    reader: Reader,
    streams: HashMap<StreamId, Messages>,
    /// Applied and not published.
    batches: Vec<Arc<EventBatch>>,
}

impl World {
    /// Watchers of the intervals that `watched` gives, and so many events of the keys that `changed` gives.
    fn new(watched: impl Fn(u64) -> (Vec<u8>, Vec<u8>), events: u64, changed: impl Fn(u64) -> u64) -> Self {
        let mut replicated = Replicated::empty();
        replicated.put(&(0..KEYS).collect::<Vec<_>>());
        let mut reader = replicated.store.readers().register();
        let (cluster_id, member_id) = (HEADER.cluster_id, HEADER.member_id);
        let identity = Identity { cluster_id, member_id, raft_term: HEADER.raft_term };
        let config = HubConfig { identity, max_request_bytes: 3 << 19, seed: 4, ..HubConfig::default() };
        let mut hub = Hub::new(config, replicated.store.applied().revision);
        let snapshot = reader.snapshot();
        let view = View::new(&snapshot);
        let now = Instant::default();
        let open = |_| hub.open(now, Duration::from_secs(600), STREAM_UNSENT_MAX);
        let ids: Vec<StreamId> = (0..STREAMS).map(open).collect();
        for watcher in 0..WATCHERS {
            let (key, end) = watched(watcher);
            let request = WatchCreateRequest { key: key.into(), range_end: end.into(), ..Default::default() };
            hub.create(now, ids[(watcher % STREAMS) as usize], &request, &view);
        }
        while hub.poll_output().is_some() {}
        drop(snapshot);
        let mut batches = Vec::new();
        let entries = (0..events).map(|event| entry(2, changed(event))).collect();
        replicated.apply_to(entries, |_, batch| batches.push(batch));
        let streams = ids.into_iter().map(|id| (id, Messages::default())).collect();
        Self { hub, reader, streams, batches }
    }

    /// Publishes each batch by itself. Sockets take everything at once.
    fn publish(&mut self, expected: u64) -> u64 {
        let Self { hub, reader, streams, batches } = self;
        let mut touched = Vec::with_capacity(STREAMS as usize);
        let mut responses = 0;
        for batch in batches.iter() {
            hub.on_publish(black_box(batch).clone());
            while hub.needs_work() {
                hub.work(&View::new(&reader.snapshot()), Budget::default());
                while let Some(output) = hub.poll_output() {
                    let collected = streams.get_mut(&output.stream).expect("a stream of ours");
                    if collected.is_empty() && !touched.contains(&output.stream) {
                        touched.push(output.stream);
                    }
                    let rest = collected.push(&output.head, output.body);
                    assert!(rest.is_none(), "values are small");
                    if collected.len() >= PIECE_BYTES {
                        responses += black_box(collected.take()).expect("short messages").1;
                    }
                }
            }
            for stream in touched.drain(..) {
                let collected = streams.get_mut(&stream).expect("a stream of ours");
                responses += black_box(collected.take()).expect("short messages").1;
                hub.on_window(stream, STREAM_UNSENT_MAX);
            }
        }
        let events = batches.len() as u64;
        assert_eq!(responses, events * expected, "every watcher hears of what it watches");
        events
    }
}
