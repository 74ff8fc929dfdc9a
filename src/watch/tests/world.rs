//! Every event there was, a store that forgets what is compacted, and hubs that read it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use prost::Message;

use super::super::encode::Identity;
use super::super::*;
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use crate::proto::mvccpb::KeyValue;
use crate::stdx::time::{Duration, Instant};

/// One change in the list of all events.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) revision: i64,
    pub(super) sub: i64,
    /// None for a deletion.
    pub(super) kv: Option<KeyValue>,
    pub(super) key: Vec<u8>,
    pub(super) encoded: Vec<u8>,
}

/// Every event there was, and a store that forgets what is compacted.
pub(super) struct World {
    pub(super) all: Vec<Change>,
    pub(super) stored: BTreeMap<(i64, i64), Change>,
    pub(super) revision: i64,
    pub(super) compacted: i64,
    /// Applied and not yet published.
    pub(super) lane: VecDeque<EventBatch>,
}

impl World {
    pub(super) fn new() -> Self {
        Self { all: vec![], stored: BTreeMap::new(), revision: 1, compacted: -1, lane: VecDeque::new() }
    }

    pub(super) fn latest(&self, key: &[u8], revision: i64) -> Option<&Change> {
        self.all.iter().rev().find(|c| c.key == key && c.revision <= revision).filter(|c| c.kv.is_some())
    }

    /// One write transaction; a value of `None` deletes. Changes of keys that don't exist are left out.
    pub(super) fn apply(&mut self, changes: &[(&[u8], Option<&[u8]>)]) {
        let revision = self.revision + 1;
        let mut events = Vec::new();
        for &(key, value) in changes {
            let old = self.latest(key, self.revision).cloned();
            if value.is_none() && old.is_none() {
                continue;
            }
            let before = old.as_ref().and_then(|c| c.kv.as_ref());
            let kv = value.map(|value| KeyValue {
                key: key.to_vec().into(),
                create_revision: before.map_or(revision, |kv| kv.create_revision),
                mod_revision: revision,
                version: before.map_or(1, |kv| kv.version + 1),
                value: value.to_vec().into(),
                lease: 0,
            });
            let tombstone =
                KeyValue { key: key.to_vec().into(), mod_revision: revision, ..Default::default() };
            let encoded = kv.as_ref().unwrap_or(&tombstone).encode_to_vec();
            let sub = events.len() as i64;
            let change = Change { revision, sub, kv, key: key.to_vec(), encoded };
            events.push(Event {
                sub,
                delete: value.is_none(),
                create: before.is_none(),
                key: key.to_vec().into(),
                kv: change.encoded.clone().into(),
                prev: old.map(|c| (c.revision, c.sub)),
            });
            self.stored.insert((revision, sub), change.clone());
            self.all.push(change);
        }
        if !events.is_empty() {
            self.revision = revision;
            self.lane.push_back(EventBatch { revision, compact_revision: self.compacted, events });
        }
    }

    pub(super) fn compact(&mut self, revision: i64) {
        self.compacted = revision;
        let mut newest: BTreeMap<&[u8], (i64, i64)> = BTreeMap::new();
        for change in self.all.iter().filter(|c| c.revision <= revision) {
            newest.insert(&change.key, (change.revision, change.sub));
        }
        self.stored.retain(|&place, change| {
            place.0 > revision
                || (newest[change.key.as_slice()] == place && (change.kv.is_some() || place.0 == revision))
        });
    }
}

impl History for World {
    fn revision(&self) -> i64 {
        self.revision
    }

    fn compact_revision(&self) -> i64 {
        self.compacted
    }

    fn events(&self, from: (i64, i64), to: i64, each: &mut dyn FnMut(PastEvent<'_>) -> ControlFlow<()>) {
        assert!(from.0 >= self.compacted);
        for (&(revision, sub), change) in self.stored.range(from..(to + 1, 0)) {
            let delete = change.kv.is_none();
            let create = change.kv.as_ref().is_some_and(|kv| kv.create_revision == revision);
            let kv = if delete { &[][..] } else { &change.encoded };
            if each(PastEvent { revision, sub, delete, create, key: &change.key, kv }).is_break() {
                return;
            }
        }
    }

    fn value_at(&self, key: &[u8], revision: i64) -> Option<&[u8]> {
        if revision < self.compacted {
            return None;
        }
        let found = self.stored.range(..(revision + 1, 0)).rev().find(|(_, c)| c.key == key)?.1;
        found.kv.is_some().then_some(&found.encoded)
    }

    fn value_of(&self, main: i64, sub: i64) -> Option<&[u8]> {
        self.stored.get(&(main, sub)).map(|c| c.encoded.as_slice())
    }
}

pub(super) fn hub(max_request_bytes: usize) -> Hub {
    hub_with(max_request_bytes, Limits::default())
}

pub(super) fn hub_with(max_request_bytes: usize, limits: Limits) -> Hub {
    Hub::new(HubConfig { max_request_bytes, limits, ..config() }, 1)
}

pub(super) fn hub_up_to(max_request_bytes: usize, response_bytes_max: usize) -> Hub {
    Hub::new(HubConfig { max_request_bytes, response_bytes_max, ..config() }, 1)
}

pub(super) fn config() -> HubConfig {
    let identity = Identity { cluster_id: 1, member_id: 2, raft_term: 3 };
    HubConfig { identity, seed: 9, ..HubConfig::default() }
}

/// Publishes a batch and hands it out to its end.
pub(super) fn publish(hub: &mut Hub, batch: EventBatch, world: &World) {
    hub.on_publish(Arc::new(batch));
    while hub.is_publishing() {
        hub.resume();
        hub.publish_slice(world, Budget { bytes: usize::MAX, looks: usize::MAX, ..Budget::default() });
    }
}

pub(super) fn decode(output: &Output) -> WatchResponse {
    let bytes = [&*output.head, &output.body].concat();
    assert_eq!(bytes.len(), output.len());
    let response = WatchResponse::decode(bytes.as_slice()).expect("what the hub encodes is a response");
    assert_eq!(response.encode_to_vec(), bytes, "fields come in the order etcd writes them");
    assert_eq!(response.events.len(), output.events as usize);
    response
}

/// A stream with a watcher of `[key, end)`.
pub(super) fn watching(hub: &mut Hub, world: &World, request: WatchCreateRequest) -> StreamId {
    let stream = hub.open(Instant::default(), Duration::from_secs(600), 1 << 20);
    hub.create(Instant::default(), stream, &request, world);
    assert!(decode(&hub.poll_output().expect("an answer")).created);
    stream
}

pub(super) fn range(key: &str, end: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..WatchCreateRequest::default()
    }
}

/// Everything that one call has handed out.
pub(super) fn work(hub: &mut Hub, world: &World, bytes: usize) -> Vec<Output> {
    hub.resume();
    hub.work(world, Budget { bytes, looks: bytes / 16, ..Budget::default() });
    hub.check_invariants();
    std::iter::from_fn(|| hub.poll_output()).collect()
}

/// One revision of so many keys that begin with `a`.
pub(super) fn put_many(world: &mut World, count: usize) {
    let keys: Vec<String> = (0..count).map(|n| format!("a{n:03}")).collect();
    let changes: Vec<(&[u8], Option<&[u8]>)> =
        keys.iter().map(|key| (key.as_bytes(), Some(&b"value"[..]))).collect();
    world.apply(&changes);
}
