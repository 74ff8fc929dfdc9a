//! Transcripts of `testdata`, and a random world in which every stream is compared with the list of all events.
//!
//! `UPDATE=1 cargo test --lib watch::` writes the transcripts' answers anew.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::sync::Arc;

use prost::Message;

use super::encode::Identity;
use super::hub::FRAGMENT_SLACK_BYTES;
use super::*;
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use crate::proto::mvccpb::{self, KeyValue};
use crate::stdx::prng::Prng;
use crate::stdx::time::{Duration, Instant};
use crate::stdx::transcript::play;

/// One change in the list of all events.
#[derive(Clone, Debug)]
struct Change {
    revision: i64,
    sub: i64,
    /// None for a deletion.
    kv: Option<KeyValue>,
    key: Vec<u8>,
    encoded: Vec<u8>,
}

/// Every event there was, and a store that forgets what is compacted.
struct World {
    all: Vec<Change>,
    stored: BTreeMap<(i64, i64), Change>,
    revision: i64,
    compacted: i64,
    /// Applied and not yet published.
    lane: VecDeque<EventBatch>,
}

impl World {
    fn new() -> Self {
        Self { all: vec![], stored: BTreeMap::new(), revision: 1, compacted: -1, lane: VecDeque::new() }
    }

    fn latest(&self, key: &[u8], revision: i64) -> Option<&Change> {
        self.all.iter().rev().find(|c| c.key == key && c.revision <= revision).filter(|c| c.kv.is_some())
    }

    /// One write transaction; a value of `None` deletes. Changes of keys that don't exist are left out.
    fn apply(&mut self, changes: &[(&[u8], Option<&[u8]>)]) {
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

    fn compact(&mut self, revision: i64) {
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

fn hub(max_request_bytes: usize) -> Hub {
    hub_with(max_request_bytes, Limits::default())
}

fn hub_with(max_request_bytes: usize, limits: Limits) -> Hub {
    Hub::new(HubConfig { max_request_bytes, limits, ..config() }, 1)
}

fn hub_up_to(max_request_bytes: usize, response_bytes_max: usize) -> Hub {
    Hub::new(HubConfig { max_request_bytes, response_bytes_max, ..config() }, 1)
}

fn config() -> HubConfig {
    let identity = Identity { cluster_id: 1, member_id: 2, raft_term: 3 };
    HubConfig { identity, seed: 9, ..HubConfig::default() }
}

/// Publishes a batch and hands it out to its end.
fn publish(hub: &mut Hub, batch: EventBatch, world: &World) {
    hub.on_publish(Arc::new(batch));
    while hub.is_publishing() {
        hub.resume();
        hub.publish_slice(world, usize::MAX);
    }
}

fn decode(output: &Output) -> WatchResponse {
    let bytes = [&*output.head, &output.body].concat();
    assert_eq!(bytes.len(), output.len());
    let response = WatchResponse::decode(bytes.as_slice()).expect("what the hub encodes is a response");
    assert_eq!(response.encode_to_vec(), bytes, "fields come in the order etcd writes them");
    assert_eq!(response.events.len(), output.events as usize);
    response
}

// ---- transcripts

struct Script {
    world: World,
    hub: Hub,
    streams: BTreeMap<String, StreamId>,
    now: Instant,
    paused: bool,
}

impl Script {
    fn run(&mut self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let command = words.next().expect("a command");
        let words: Vec<&str> = words.collect();
        let option = |name: &str| words.iter().find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
        let number = |name: &str| option(name).map_or(0, |v| v.parse::<i64>().expect("a number"));
        let flag = |name: &str| words.contains(&name);
        match command {
            "open" => {
                let room = option("room").map_or(1 << 30, |v| v.parse().unwrap());
                let interval =
                    Duration::from_millis(option("interval").map_or(600_000, |v| v.parse().unwrap()));
                self.streams.insert(words[0].into(), self.hub.open(self.now, interval, room));
            }
            "close" => self.hub.close(self.streams.remove(words[0]).unwrap()),
            "create" => {
                let bytes = |name: &str| option(name).unwrap_or("").replace("\\0", "\0").into_bytes().into();
                let mut filters = vec![];
                filters.extend(flag("noput").then_some(0));
                filters.extend(flag("nodelete").then_some(1));
                let request = WatchCreateRequest {
                    key: bytes("key"),
                    range_end: bytes("end"),
                    start_revision: number("start"),
                    progress_notify: flag("progress"),
                    filters,
                    prev_kv: flag("prev"),
                    watch_id: number("id"),
                    fragment: flag("fragment"),
                };
                self.hub.create(self.now, self.streams[words[0]], &request, &self.world);
            }
            "refuse" => self.hub.refuse(self.streams[words[0]], "no"),
            "cancel" => self.hub.cancel(self.streams[words[0]], words[1].parse().unwrap()),
            "progress" => self.hub.progress(self.streams[words[0]], &self.world),
            "window" => self.hub.on_window(self.streams[words[0]], words[1].parse().unwrap()),
            "tick" => {
                self.now = self.now + Duration::from_millis(words[0].parse().unwrap());
                self.hub.tick(self.now);
                self.hub.notify_all();
            }
            "txn" => {
                let changes: Vec<(&[u8], Option<&[u8]>)> = words
                    .iter()
                    .map(|word| match word.split_once('=') {
                        Some((key, value)) => (key.as_bytes(), Some(value.as_bytes())),
                        None => (word.as_bytes(), None),
                    })
                    .collect();
                self.world.apply(&changes);
            }
            "fill" => {
                for i in 0..words[1].parse::<usize>().unwrap() {
                    self.world.apply(&[(words[0].as_bytes(), Some(i.to_string().as_bytes()))]);
                }
            }
            "large" => {
                let value = vec![b'x'; words[1].parse().unwrap()];
                let keys: Vec<String> =
                    (0..words[2].parse().unwrap()).map(|i| format!("{}{i}", words[0])).collect();
                let changes: Vec<_> = keys.iter().map(|k| (k.as_bytes(), Some(value.as_slice()))).collect();
                self.world.apply(&changes);
            }
            "compact" => self.world.compact(words[0].parse().unwrap()),
            "pause" => self.paused = true,
            "resume" => self.paused = false,
            "lose" => drop(self.world.lane.pop_front()),
            "slice" => {
                let budget = Budget { revisions: words[0].parse().unwrap(), ..Budget::default() };
                self.hub.work(&self.world, budget);
            }
            "catch_up" => {
                while self.hub.needs_work() {
                    self.hub.work(&self.world, Budget::default());
                }
            }
            other => panic!("no command {other}"),
        }
        while !self.paused
            && let Some(batch) = self.world.lane.pop_front()
        {
            publish(&mut self.hub, batch, &self.world);
        }
        self.hub.check_invariants();
        self.outputs()
    }

    fn outputs(&mut self) -> String {
        let mut text = String::new();
        while let Some(output) = self.hub.poll_output() {
            let name =
                self.streams.iter().find(|(_, id)| **id == output.stream).map_or("?", |(name, _)| name);
            let r = decode(&output);
            let header = r.header.as_ref().unwrap();
            write!(text, "  {name} watch {} at {}", r.watch_id, header.revision).unwrap();
            for (word, on) in [(" created", r.created), (" canceled", r.canceled), (" fragment", r.fragment)]
            {
                text.push_str(if on { word } else { "" });
            }
            if r.compact_revision != 0 {
                write!(text, " compacted {}", r.compact_revision).unwrap();
            }
            if !r.cancel_reason.is_empty() {
                write!(text, " \"{}\"", r.cancel_reason).unwrap();
            }
            if r.events.len() > 20 {
                let revision = |e: &mvccpb::Event| e.kv.as_ref().unwrap().mod_revision;
                let (first, last) = (revision(&r.events[0]), revision(r.events.last().unwrap()));
                writeln!(text, " | {} events {first}..{last}", r.events.len()).unwrap();
                continue;
            }
            for event in &r.events {
                let kv = event.kv.as_ref().unwrap();
                let show = |kv: &KeyValue| match kv.value.len() {
                    0..20 => String::from_utf8_lossy(&kv.value).into_owned(),
                    long => format!("{long} bytes"),
                };
                let key = String::from_utf8_lossy(&kv.key);
                match event.r#type {
                    0 => write!(text, " | {key}={} @{} v{}", show(kv), kv.mod_revision, kv.version),
                    _ => write!(text, " | del {key} @{}", kv.mod_revision),
                }
                .unwrap();
                if let Some(prev) = &event.prev_kv {
                    write!(text, " was {} @{}", show(prev), prev.mod_revision).unwrap();
                }
            }
            text.push('\n');
        }
        text
    }
}

#[test]
fn transcripts() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/watch/testdata");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let mut script = Script {
            world: World::new(),
            hub: hub(0),
            streams: BTreeMap::new(),
            now: Instant::default(),
            paused: false,
        };
        play(&file, |line| script.run(line));
    }
}

// ---- the random world

/// What a client knows about one of its watchers.
struct Client {
    request: WatchCreateRequest,
    /// Events below this are delivered, or not asked for.
    next: i64,
    /// Events of fragments whose last part is to come.
    partial: Vec<mvccpb::Event>,
    compacted: bool,
}

impl Client {
    fn wants(&self, change: &Change) -> bool {
        let key: &[u8] = if self.request.key.is_empty() { &[0] } else { &self.request.key };
        let within = match &*self.request.range_end {
            [] => change.key == key,
            [0] => *change.key >= *key,
            end => *change.key >= *key && *change.key < *end,
        };
        within && !self.request.filters.contains(&i32::from(change.kv.is_none()))
    }

    fn expected<'w>(&self, world: &'w World, through: i64) -> Vec<&'w Change> {
        let next = self.next;
        world.all.iter().filter(|c| (next..=through).contains(&c.revision) && self.wants(c)).collect()
    }

    fn on_response(&mut self, world: &World, response: WatchResponse) {
        let header = response.header.unwrap().revision;
        if response.canceled {
            if response.compact_revision != 0 {
                assert_eq!(response.compact_revision, world.compacted);
                assert!(self.next < world.compacted, "compacted away, though it had all that is compacted");
                self.compacted = true;
            }
            return;
        }
        if response.created {
            return;
        }
        if response.events.is_empty() {
            let missing = self.expected(world, header);
            assert!(missing.is_empty(), "progress at {header} before {missing:?}");
            return;
        }
        assert!(!self.compacted, "events after the end");
        self.partial.extend(response.events);
        if response.fragment {
            assert!(self.request.fragment);
            return;
        }
        let events = std::mem::take(&mut self.partial);
        let last = events.last().unwrap().kv.as_ref().unwrap().mod_revision;
        assert!(header >= last);
        let expected = self.expected(world, last);
        assert_eq!(events.len(), expected.len(), "{:?} from {}", self.request, self.next);
        for (event, change) in events.iter().zip(expected) {
            let kv = event.kv.as_ref().unwrap();
            assert_eq!(kv.encode_to_vec(), change.encoded);
            assert_eq!(event.r#type, i32::from(change.kv.is_none()));
            let before = world.latest(&change.key, change.revision - 1).and_then(|c| c.kv.as_ref());
            let before = before.filter(|_| self.request.prev_kv);
            match &event.prev_kv {
                Some(prev) => assert_eq!(Some(prev), before),
                None => assert!(before.is_none() || change.revision - 1 < world.compacted),
            }
        }
        self.next = last + 1;
    }
}

struct Random {
    prng: Prng,
    world: World,
    hub: Hub,
    streams: Vec<(StreamId, BTreeMap<i64, Client>)>,
    now: Instant,
    delivered: usize,
    /// Responses of which parts have come, and their length.
    begun: BTreeMap<StreamId, (Vec<u8>, usize)>,
    /// Streams that the hub has ended.
    ended: Vec<StreamId>,
    /// Responses that came in parts.
    larges: usize,
}

impl Random {
    fn key(&mut self) -> Vec<u8> {
        let len = 1 + self.prng.below(2);
        (0..len).map(|_| b'a' + self.prng.below(4) as u8).collect()
    }

    fn create(&mut self, which: usize) {
        let key = if self.prng.chance(1, 10) { vec![] } else { self.key() };
        let range_end = match self.prng.below(4) {
            0 => vec![],
            1 => vec![0],
            _ => self.key(),
        };
        let mut filters = vec![];
        filters.extend(self.prng.chance(1, 5).then_some(0));
        filters.extend(self.prng.chance(1, 5).then_some(1));
        let start_revision = match self.prng.below(4) {
            0 => 0,
            1 => self.world.revision + self.prng.below(4) as i64 - 1,
            _ => self.prng.below(self.world.revision as u64 + 1) as i64,
        };
        let request = WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision,
            progress_notify: self.prng.chance(1, 2),
            filters,
            prev_kv: self.prng.chance(1, 2),
            watch_id: if self.prng.chance(1, 3) { 1 + self.prng.below(9) as i64 } else { 0 },
            fragment: self.prng.chance(1, 4),
        };
        let id = self.streams[which].0;
        self.hub.create(self.now, id, &request, &self.world);
        let created = decode(&self.hub.poll_output().expect("every create request is answered at once"));
        assert!(created.created);
        assert_eq!(created.header.unwrap().revision, self.world.revision);
        let clients = &mut self.streams[which].1;
        if created.canceled {
            assert_eq!(created.watch_id, -1);
            let (key, end) = (&*request.key, &*request.range_end);
            let empty = end.len() > 1 && key >= end || end.len() == 1 && end != [0] && key >= end;
            assert!(empty || clients.contains_key(&request.watch_id), "{created:?} {request:?}");
            return;
        }
        let next = if start_revision == 0 { self.world.revision + 1 } else { start_revision };
        let client = Client { request, next, partial: vec![], compacted: false };
        assert!(clients.insert(created.watch_id, client).is_none());
    }

    fn act(&mut self) {
        let which = self.prng.below(self.streams.len() as u64) as usize;
        if !self.hub.takes_requests(self.streams[which].0) && self.prng.chance(1, 2) {
            self.hub.work(&self.world, Budget { revisions: 1, bytes: 300 });
            self.drain();
            self.reopen();
        }
        let id = self.streams[which].0;
        let asks = self.hub.takes_requests(id);
        match self.prng.below(20) {
            0..=5 => {
                let changes: Vec<(Vec<u8>, Option<Vec<u8>>)> = (0..1 + self.prng.below(3))
                    .map(|_| (self.key(), self.prng.chance(2, 3).then(|| self.value())))
                    .collect();
                let mut keys: Vec<_> = changes.iter().map(|(k, v)| (k.as_slice(), v.as_deref())).collect();
                keys.sort_by_key(|c| c.0);
                keys.dedup_by_key(|c| c.0);
                self.world.apply(&keys);
            }
            6..=9 => {
                for _ in 0..self.prng.below(4) {
                    if let Some(batch) = self.world.lane.pop_front()
                        && !self.prng.chance(1, 100)
                    {
                        self.hub.on_publish(Arc::new(batch));
                    }
                }
            }
            10 | 11 if asks => self.create(which),
            12 if asks => {
                let watch_id = self.prng.below(10) as i64;
                self.hub.cancel(id, watch_id);
                // Its last events come before the answer.
                self.drain();
                self.streams[which].1.remove(&watch_id);
            }
            13 | 14 => {
                let room = self.prng.below(600) as usize;
                self.hub.on_window(id, room);
            }
            15 => self.hub.progress(id, &self.world),
            16 => {
                self.now = self.now + Duration::from_millis(self.prng.below(300));
                self.hub.tick(self.now);
            }
            17 if self.prng.chance(1, 4) => {
                let low = self.world.compacted.max(0);
                let revision = low + self.prng.below((self.world.revision - low) as u64 + 1) as i64;
                if revision > self.world.compacted {
                    self.world.compact(revision);
                }
            }
            18 if self.prng.chance(1, 8) => {
                self.hub.close(id);
                self.drain();
                self.streams[which] =
                    (self.hub.open(self.now, Duration::from_millis(200), 300), BTreeMap::new());
            }
            _ => {
                let budget = Budget {
                    revisions: 1 + self.prng.below(4) as usize,
                    bytes: self.prng.below(2000) as usize,
                };
                // A slice reads the store as it is, which is not older than what was published.
                self.hub.work(&self.world, budget);
                if self.hub.waits_for_room() {
                    self.hub.resume();
                }
            }
        }
        self.drain();
        self.reopen();
        self.hub.check_invariants();
    }

    /// The clients of streams that the hub has ended come back.
    fn reopen(&mut self) {
        for ended in std::mem::take(&mut self.ended) {
            if let Some(at) = self.streams.iter().position(|(id, _)| *id == ended) {
                self.streams[at] =
                    (self.hub.open(self.now, Duration::from_millis(200), 300), BTreeMap::new());
            }
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let len = if self.prng.chance(1, 12) { 300_000 } else { self.prng.below(40) };
        vec![b'v'; len as usize]
    }

    /// A response, or none while parts of it are to come.
    fn whole(&mut self, output: &Output) -> Option<WatchResponse> {
        let bytes = [&*output.head, &output.body].concat();
        let begun = self.begun.entry(output.stream).or_default();
        match output.part {
            Part::Whole => {
                assert!(begun.0.is_empty(), "nothing comes between the parts of a response");
                return Some(decode(output));
            }
            Part::First { total } => {
                assert!(begun.0.is_empty());
                *begun = (bytes, total);
            }
            Part::Rest => begun.0.extend(bytes),
            Part::End(fault) => {
                assert_eq!(fault, Fault::Interrupted);
                self.begun.remove(&output.stream);
                self.ended.push(output.stream);
                return None;
            }
        }
        assert!(begun.0.len() <= begun.1, "no more comes than was announced");
        if begun.0.len() < begun.1 {
            return None;
        }
        self.larges += 1;
        let (bytes, _) = self.begun.remove(&output.stream)?;
        Some(WatchResponse::decode(bytes.as_slice()).expect("the parts are a response"))
    }

    fn drain(&mut self) {
        while let Some(output) = self.hub.poll_output() {
            let Some(response) = self.whole(&output) else { continue };
            self.delivered += response.events.len();
            let Some((_, clients)) = self.streams.iter_mut().find(|(id, _)| *id == output.stream) else {
                continue;
            };
            if response.watch_id == -1 {
                for client in clients.values_mut() {
                    assert!(!client.compacted, "no promise while a compacted watcher is registered");
                    client.on_response(&self.world, response.clone());
                }
            } else {
                let client =
                    clients.get_mut(&response.watch_id).expect("a response to a watcher of the stream");
                client.on_response(&self.world, response);
            }
        }
    }

    fn finish(&mut self) {
        while let Some(batch) = self.world.lane.pop_front() {
            self.hub.on_publish(Arc::new(batch));
            self.drain();
        }
        // A last change, so that a gap in the lane shows.
        self.world.apply(&[(b"zz", Some(b"end"))]);
        let batch = self.world.lane.pop_front().unwrap();
        self.hub.on_publish(Arc::new(batch));
        let streams: Vec<StreamId> = self.streams.iter().map(|s| s.0).collect();
        loop {
            streams.iter().for_each(|&id| self.hub.on_window(id, 1 << 20));
            if !self.hub.needs_work() {
                break;
            }
            self.hub.resume();
            self.hub.work(&self.world, Budget::default());
            self.drain();
        }
        self.drain();
        self.reopen();
        self.hub.check_invariants();
        let mut slow = 0;
        for (_, clients) in &self.streams {
            for client in clients.values() {
                slow += usize::from(client.compacted);
                let missing = client.expected(&self.world, self.world.revision);
                assert!(client.compacted || missing.is_empty(), "never delivered: {missing:?}");
            }
        }
        assert_eq!(self.hub.stats().slow_watchers, slow);
        for &(id, _) in &self.streams {
            self.hub.close(id);
        }
        assert_eq!(self.hub.stats().watchers, 0);
        self.hub.check_invariants();
    }
}

fn random_worlds(limits: Limits) -> (usize, usize) {
    let (mut delivered, mut larges) = (0, 0);
    for seed in 0..200 {
        let mut hub = hub_with(100_000, limits);
        let now = Instant::default();
        let streams =
            (0..3).map(|_| (hub.open(now, Duration::from_millis(150), 400), BTreeMap::new())).collect();
        let mut random = Random {
            prng: Prng::new(seed),
            world: World::new(),
            hub,
            streams,
            now,
            delivered: 0,
            begun: BTreeMap::new(),
            ended: vec![],
            larges: 0,
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..250).for_each(|_| random.act());
            random.finish();
        }));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
        delivered += random.delivered;
        larges += random.larges;
    }
    (delivered, larges)
}

#[test]
fn every_stream_is_a_slice_of_history() {
    let (delivered, _) = random_worlds(Limits::default());
    assert!(delivered > 10_000, "the world is too quiet to show anything: {delivered}");
}

#[test]
fn every_stream_is_a_slice_of_history_when_little_fits_in_memory() {
    let (delivered, larges) = random_worlds(Limits { matches: 2, bytes: 60, piece_bytes: 50 });
    assert!(delivered > 5_000, "the world is too quiet to show anything: {delivered}");
    assert!(larges > 50, "few responses came in parts: {larges}");
}

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

/// A stream with a watcher of `[key, end)`.
fn watching(hub: &mut Hub, world: &World, request: WatchCreateRequest) -> StreamId {
    let stream = hub.open(Instant::default(), Duration::from_secs(600), 1 << 20);
    hub.create(Instant::default(), stream, &request, world);
    assert!(decode(&hub.poll_output().expect("an answer")).created);
    stream
}

/// The streams that ended for a response that is too large, and its length.
fn too_large(hub: &mut Hub) -> impl Iterator<Item = (StreamId, u64)> {
    std::iter::from_fn(|| hub.poll_output()).map(|output| match output.part {
        Part::End(Fault::TooLarge { bytes }) => (output.stream, bytes),
        part => panic!("{part:?} is no end"),
    })
}

fn range(key: &str, end: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..WatchCreateRequest::default()
    }
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

/// Everything that one call has handed out.
fn work(hub: &mut Hub, world: &World, bytes: usize) -> Vec<Output> {
    hub.resume();
    hub.work(world, Budget { bytes, ..Budget::default() });
    hub.check_invariants();
    std::iter::from_fn(|| hub.poll_output()).collect()
}

/// One revision of so many keys that begin with `a`.
fn put_many(world: &mut World, count: usize) {
    let keys: Vec<String> = (0..count).map(|n| format!("a{n:03}")).collect();
    let changes: Vec<(&[u8], Option<&[u8]>)> =
        keys.iter().map(|key| (key.as_bytes(), Some(&b"value"[..]))).collect();
    world.apply(&changes);
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
        let outputs: Vec<Output> = (0..10).flat_map(|_| work(&mut hub, &world, 1000)).collect();
        let events = outputs.iter().filter(|output| output.stream == other).map(|output| output.events);
        assert_eq!(events.sum::<u32>(), 1);
    }
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
