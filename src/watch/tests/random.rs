//! A random world in which every stream is compared with the list of all events.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;

use super::super::*;
use super::world::{Change, World, decode, hub_with};
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use crate::proto::mvccpb;
use crate::stdx::prng::Prng;
use crate::stdx::time::{Duration, Instant};

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
    /// Steps after which an event was matched with some of its watchers.
    interrupted: usize,
}

/// What happened in some worlds.
struct Seen {
    delivered: usize,
    larges: usize,
    interrupted: usize,
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
            self.hub.work(&self.world, Budget { revisions: 1, bytes: 300, looks: 20 });
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
                let looks = if self.prng.chance(1, 2) { 4 } else { 100 };
                let budget = Budget {
                    revisions: 1 + self.prng.below(4) as usize,
                    bytes: self.prng.below(2000) as usize,
                    looks: self.prng.below(looks) as usize,
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
        self.interrupted += usize::from(self.hub.is_amid_an_event());
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

fn random_worlds(limits: Limits) -> Seen {
    let mut seen = Seen { delivered: 0, larges: 0, interrupted: 0 };
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
            interrupted: 0,
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..250).for_each(|_| random.act());
            random.finish();
        }));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
        seen.delivered += random.delivered;
        seen.larges += random.larges;
        seen.interrupted += random.interrupted;
    }
    assert!(seen.interrupted > 1_000, "few events were matched in pieces: {}", seen.interrupted);
    seen
}

#[test]
fn every_stream_is_a_slice_of_history() {
    let Seen { delivered, .. } = random_worlds(Limits::default());
    assert!(delivered > 10_000, "the world is too quiet to show anything: {delivered}");
}

#[test]
fn every_stream_is_a_slice_of_history_when_little_fits_in_memory() {
    let Seen { delivered, larges, .. } = random_worlds(Limits { matches: 2, bytes: 60, piece_bytes: 50 });
    assert!(delivered > 5_000, "the world is too quiet to show anything: {delivered}");
    assert!(larges > 50, "few responses came in parts: {larges}");
}
