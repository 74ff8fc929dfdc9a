//! Random requests, snapshots, pins and sweeps against the store and the model at once.
#![forbid(unsafe_code)]

use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};
use prost::Message;

use super::answer_room::AnswerRoom;
use super::hash::HashKv;
use super::leaf_counts::LeafCounts;
use super::model::{Model, Refusal};
use super::planned::{Planned, Progress, Slices};
use super::range::{Emission, Plan};
use super::remembered::PlanMemory;
use super::revision::Revision;
use super::schema::{split_garbage_key, split_index_key, split_kv_value, unescape_index_prefix};
use super::txn_read::TxnEmission;
use super::txn_write::TxnWrite;
use super::write::{Deletion, Writer, initialize};
use super::{EventBatch, RangeStream, ReadTxn, View, check, compact, range, txn};
use crate::btree::{Read, Store, Tree, WriteTxn};
use crate::error::Error;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RangeStreamResponse, RequestOp,
    TxnRequest,
};
use crate::response::{Header, Response, encode};
use crate::stdx::prng::Prng;

/// Nothing damages the store here.
const WHOLE: &str = "a store that nothing has damaged";

const KEYS: [&[u8]; 14] = [
    b"\0",
    b"\0\0",
    b"\0\x01",
    b"a",
    b"a\0",
    b"a\0\0",
    b"a\0\xff",
    b"a\x01",
    b"aa",
    b"ab",
    b"b",
    b"b\0c",
    b"\xff",
    b"\xff\xff",
];

/// One run; every choice follows from the seed.
pub fn run(seed: u64) {
    let mut prng = Prng::new(seed);
    let steps = 50 + prng.below(250);
    let mut world = World::new(prng);
    for _ in 0..steps {
        world.step();
    }
    world.finish();
}

/// A long answer under way.
struct Reading {
    stage: Option<Stage>,
    expected: Vec<u8>,
    out: BytesMut,
}

enum Stage {
    Range(Plan),
    RangeEmission(Emission),
    Txn(ReadTxn),
    TxnEmission(TxnEmission),
}

/// A stream under way.
struct Streaming {
    stream: RangeStream,
    expected: RangeResponse,
    got: RangeResponse,
    out: BytesMut,
}

struct Hashing {
    hash: HashKv,
    expected: (u32, i64, i64),
}

struct World {
    prng: Prng,
    store: Store,
    model: Model,
    readings: Vec<Reading>,
    streams: Vec<Streaming>,
    hashings: Vec<Hashing>,
    counts: LeafCounts,
}

impl World {
    fn new(prng: Prng) -> Self {
        let mut store = Store::in_memory();
        let mut txn = store.write();
        initialize(&mut txn);
        txn.commit();
        Self {
            prng,
            store,
            model: Model::default(),
            readings: Vec::new(),
            streams: Vec::new(),
            hashings: Vec::new(),
            counts: LeafCounts::default(),
        }
    }

    fn step(&mut self) {
        match self.prng.below(12) {
            0..=3 => self.write_turn(),
            4 => self.sweep_turn(),
            5..=6 => self.read_snapshot(),
            7 => self.start_long(),
            8..=9 => self.continue_long(),
            10 => self.catch_up(),
            _ => self.audit(),
        }
    }

    fn finish(&mut self) {
        while !self.readings.is_empty() || !self.streams.is_empty() || !self.hashings.is_empty() {
            self.continue_long();
        }
        let mut txn = self.store.write();
        while !compact::sweep(&mut txn, None, 7).expect(WHOLE).done {}
        txn.commit();
        self.audit();
    }

    fn pinned(&self) -> Option<i64> {
        let readings = self.readings.iter().filter_map(|reading| reading.stage.as_ref().map(Stage::pin));
        let streams = self.streams.iter().map(|streaming| streaming.stream.pin());
        let hashings = self.hashings.iter().map(|hashing| hashing.hash.pin());
        readings.chain(streams).chain(hashings).min()
    }

    fn write_turn(&mut self) {
        let mut store = core::mem::take(&mut self.store);
        let mut txn = store.write();
        for _ in 0..1 + self.prng.below(4) {
            self.write(&mut txn);
            if self.prng.chance(1, 4) {
                self.read(&View::new(&txn));
            }
            if self.prng.chance(1, 4) {
                let draft = txn.applied();
                txn.suspend();
                assert!(store.readers().register().snapshot().applied().revision <= draft.revision);
                txn = store.resume();
                assert_eq!(txn.applied(), draft);
            }
        }
        txn.commit();
        self.store = store;
    }

    fn write(&mut self, txn: &mut WriteTxn<'_>) {
        let before = self.model.revision;
        let events = match self.prng.below(16) {
            0..=5 => self.put(txn),
            6..=8 => self.delete_range(txn),
            9..=12 => self.txn(txn),
            13 => {
                let revision = self.some_revision();
                let previous = self.model.compacted;
                let (ours, theirs) = (compact::mark(txn, revision), self.model.compact(revision));
                assert_eq!(ours.map_err(Error::message), theirs, "compaction at {revision}");
                if theirs.is_ok() && self.hashings.len() < 8 {
                    let hash = HashKv::of_compaction(revision, previous);
                    let expected = (self.model.compaction_hash(revision, previous), previous, revision);
                    self.hashings.push(Hashing { hash, expected });
                }
                None
            }
            14 => {
                let lease = 1 + self.prng.below(6) as i64;
                if !self.model.leases.contains(&lease) {
                    self.model.leases.push(lease);
                }
                None
            }
            _ => {
                let lease = 1 + self.prng.below(6) as i64;
                if self.model.revoke(lease).is_ok() {
                    let mut writer = Writer::begin(txn);
                    while !writer.delete_attached(lease, &mut self.budget()).expect(WHOLE) {}
                    writer.finish()
                } else {
                    None
                }
            }
        };
        assert_eq!(txn.applied().revision, self.model.revision);
        assert_eq!(events.is_some(), self.model.revision > before);
        if let Some(batch) = events {
            self.judge_events(&View::new(&*txn), &batch);
        }
    }

    fn put(&mut self, txn: &mut WriteTxn<'_>) -> Option<EventBatch> {
        let request = self.put_request();
        if check::put(&request).is_err() {
            return None;
        }
        let mut writer = Writer::begin(txn);
        let leases = self.model.leases.clone();
        let checked = txn::check_put(&writer.view(), &request, &|id| leases.contains(&id));
        let ours = checked.map(|()| {
            let prev_kv = writer.put(&request).expect(WHOLE);
            Response::Put { revision: writer.revision(), prev_kv }
        });
        let events = writer.finish();
        judge(ours.map(|r| encode(&r, &Header::default())), self.model.put(&request), &request);
        events
    }

    fn delete_range(&mut self, txn: &mut WriteTxn<'_>) -> Option<EventBatch> {
        let (key, range_end) = self.interval();
        let request = DeleteRangeRequest { key, range_end, prev_kv: self.prng.chance(1, 2) };
        let mut writer = Writer::begin(txn);
        let (mut prev_kvs, mut room) = (BytesMut::new(), AnswerRoom::default());
        let deleted = if request.range_end.is_empty() {
            i64::from(writer.delete_one(&request, &mut prev_kvs, &mut room).expect(WHOLE))
        } else {
            let mut deletion = Deletion::new(&request);
            let (under_way, room) = (&mut deletion, &mut room);
            while !writer
                .delete_some(&request, under_way, &mut prev_kvs, room, &mut self.budget())
                .expect(WHOLE)
            {}
            deletion.keys()
        };
        let ours =
            Response::DeleteRange { revision: writer.revision(), deleted, prev_kvs: prev_kvs.freeze() };
        let events = writer.finish();
        judge(Ok(encode(&ours, &Header::default())), Ok(self.model.delete_range(&request)), &request);
        events
    }

    fn txn(&mut self, txn: &mut WriteTxn<'_>) -> Option<EventBatch> {
        let request = self.txn_request(0);
        if check::txn(&request, 128).is_err() {
            return None;
        }
        let leases = self.model.leases.clone();
        let (ours, events) = if txn::is_read_only(&request) {
            (self.read_txn(&View::new(&*txn), &request), None)
        } else {
            let mut write = TxnWrite::new(true, usize::MAX);
            let done = loop {
                if let Some(done) = write.step(txn, &request, &|id| leases.contains(&id), &mut self.budget())
                {
                    break done;
                }
            };
            match done {
                Ok((outcome, events)) => {
                    (outcome.response.map(|response| encode(&response, &Header::default())), events)
                }
                Err(error) => (Err(error), None),
            }
        };
        judge(ours, self.model.txn(&request), &request);
        events
    }

    /// What a slice of a write may look at: often less than one operation takes.
    fn budget(&mut self) -> usize {
        [1, 1 + self.prng.below(40) as usize, usize::MAX][self.prng.below(3) as usize]
    }

    fn read_txn<R: Read>(&mut self, view: &View<'_, R>, request: &TxnRequest) -> Result<Bytes, Error> {
        let mut stage = Stage::Txn(ReadTxn::new(view, request.clone(), &PlanMemory::new(0)));
        let mut out = BytesMut::new();
        loop {
            match stage.proceed(view, &mut out, &mut self.prng)? {
                Some(next) => stage = next,
                None => return Ok(out.freeze()),
            }
        }
    }

    fn judge_events<R: Read>(&self, view: &View<'_, R>, batch: &EventBatch) {
        let changes: Vec<_> = self.model.changes.iter().filter(|c| c.main == batch.revision).collect();
        assert_eq!(batch.events.len(), changes.len());
        for (event, change) in batch.events.iter().zip(changes) {
            assert_eq!((event.sub, event.delete, &event.key), (change.sub, change.delete, &change.kv.key));
            let mut kv = change.kv.clone();
            kv.mod_revision = change.main;
            assert_eq!(event.kv, kv.encode_to_vec());
            let before = self.model.live(&change.kv.key, &[], change.main - 1);
            let prev = before.first().map(|c| (c.main, c.sub));
            assert_eq!(event.create, !change.delete && change.kv.create_revision == change.main);
            // A key that this very write deleted and created again is new: its former value is not a previous one.
            if !event.create {
                assert_eq!(event.prev, prev);
                let value =
                    prev.and_then(|(main, sub)| view.value_of(Revision::new(main, sub)).expect(WHOLE));
                assert_eq!(value.map(<[u8]>::to_vec), before.first().map(|c| c.kv.encode_to_vec()));
            }
        }
    }

    fn sweep_turn(&mut self) {
        let pinned = self.pinned();
        let budget = 1 + self.prng.below(20) as usize;
        let mut txn = self.store.write();
        let swept = compact::sweep(&mut txn, pinned, budget).expect(WHOLE);
        assert!(swept.removed <= budget);
        assert_eq!(swept.done, !compact::is_sweep_due(txn.applied(), pinned));
        txn.commit();
    }

    fn read_snapshot(&mut self) {
        let mut reader = self.store.readers().register();
        let snapshot = reader.snapshot();
        let counts = core::mem::take(&mut self.counts);
        self.read(&View::new(&snapshot).counting_with(&counts));
        self.counts = counts;
    }

    fn read<R: Read>(&mut self, view: &View<'_, R>) {
        let request = self.range_request();
        let header = Header::default();
        let theirs = self.model.range(&request, self.model.revision);
        judge(range::answer(view, &header, &request), theirs.clone(), &request);
        // The general way has to agree with the short cut for one key.
        match (Plan::new(view, &request), theirs) {
            (Ok(plan), Ok(theirs)) => {
                let mut out = BytesMut::new();
                let mut stage = Stage::Range(plan);
                while let Some(next) = stage.proceed(view, &mut out, &mut self.prng).expect("it is kept") {
                    stage = next;
                }
                assert_eq!(out, theirs.encode_to_vec(), "{request:?}");
            }
            (ours, theirs) => assert_eq!(ours.err().map(Error::message), theirs.err()),
        }
    }

    fn start_long(&mut self) {
        let mut reader = self.store.readers().register();
        let snapshot = reader.snapshot();
        let view = View::new(&snapshot);
        match self.prng.below(4) {
            0 => {
                let request = self.range_request();
                let theirs = self.model.range(&request, self.model.revision);
                if let (Ok(plan), Ok(theirs)) = (Plan::new(&view, &request), theirs) {
                    self.start_reading(Stage::Range(plan), theirs.encode_to_vec());
                }
            }
            1 => {
                let request = self.txn_request(0);
                if check::txn(&request, 128).is_ok()
                    && txn::is_read_only(&request)
                    && let Ok(theirs) = self.model.txn(&request)
                {
                    let txn = ReadTxn::new(&view, request, &PlanMemory::new(0));
                    self.start_reading(Stage::Txn(txn), theirs.encode_to_vec());
                }
            }
            2 => {
                let mut request = self.range_request();
                // etcd pins a stream to its first revision only if none was asked for: with a negative one every
                // chunk reads the newest state, which the model, asked once, does not know.
                request.revision = request.revision.max(0);
                request.sort_order = 0;
                request.sort_target = 0;
                request.max_mod_revision = 0;
                request.min_mod_revision = 0;
                request.max_create_revision = 0;
                request.min_create_revision = 0;
                assert_eq!(check::range_stream(&request), Ok(()));
                let mut theirs = self.model.range(&request, self.model.revision);
                if let Ok(theirs) = &mut theirs
                    && request.limit == 0
                {
                    theirs.more = false;
                }
                let target = self.prng.below(200) as usize;
                match (RangeStream::new(&view, &request, target), theirs) {
                    (Ok(stream), Ok(expected)) => {
                        let (got, out) = (RangeResponse::default(), BytesMut::new());
                        self.streams.push(Streaming { stream, expected, got, out });
                    }
                    (ours, theirs) => assert_eq!(ours.err().map(Error::message), theirs.err()),
                }
            }
            _ => {
                let revision = self.some_revision();
                match (HashKv::new(&view, revision), self.model.hash_kv(revision)) {
                    (Ok(hash), Ok(expected)) => self.hashings.push(Hashing { hash, expected }),
                    (ours, theirs) => assert_eq!(ours.err().map(Error::message), theirs.err()),
                }
            }
        }
    }

    fn start_reading(&mut self, stage: Stage, expected: Vec<u8>) {
        self.readings.push(Reading { stage: Some(stage), expected, out: BytesMut::new() });
    }

    fn continue_long(&mut self) {
        let mut reader = self.store.readers().register();
        let snapshot = reader.snapshot();
        let view = View::new(&snapshot).counting_with(&self.counts);
        let prng = &mut self.prng;
        self.readings.retain_mut(|reading| {
            let Some(stage) = reading.stage.take() else { return false };
            reading.stage = stage.proceed(&view, &mut reading.out, prng).expect("it is pinned");
            if let Some(len) = reading.stage.as_ref().and_then(Stage::encoded_len) {
                assert_eq!(len, reading.expected.len());
            }
            assert!(reading.stage.is_some() || reading.out == reading.expected);
            reading.stage.is_some()
        });
        self.streams.retain_mut(|streaming| !streaming.proceed(&view, prng));
        self.hashings.retain_mut(|hashing| {
            let got = hashing.hash.step(&view, 1 + prng.below(20) as usize).expect(WHOLE);
            let Some(got) = got else { return true };
            assert_eq!((got.hash, got.compact_revision, got.hash_revision), hashing.expected);
            false
        });
    }

    fn catch_up(&mut self) {
        let mut reader = self.store.readers().register();
        let snapshot = reader.snapshot();
        let view = View::new(&snapshot);
        // A compaction's own revision may have lost changes that it superseded itself.
        let from = (view.compact_revision() + 1).max(self.some_revision());
        let to = self.some_revision();
        let theirs = self.model.changes.iter().filter(|c| (from..=to).contains(&c.main));
        let theirs: Vec<_> = theirs.map(|c| (c.main, c.sub, c.delete, c.kv.encode_to_vec())).collect();
        let mut ours = Vec::new();
        let told = view.events(from, to, &mut |event| {
            assert_eq!(Some(event.key), crate::wire::key_of(event.kv));
            ours.push((event.revision.main, event.revision.sub, event.delete, event.kv.to_vec()));
            ControlFlow::Continue(())
        });
        assert_eq!((told, ours), (Ok(()), theirs));
        for change in &self.model.changes {
            let theirs = self.model.live(&change.kv.key, &[], change.main - 1);
            let theirs = theirs.first().filter(|_| change.main > self.model.compacted);
            let ours = view.value_at(&change.kv.key, change.main - 1).expect(WHOLE);
            assert_eq!(ours.map(<[u8]>::to_vec), theirs.map(|c| c.kv.encode_to_vec()));
        }
    }

    /// Every tree says the same, and the same as the model.
    fn audit(&mut self) {
        let mut reader = self.store.readers().register();
        let snapshot = reader.snapshot();
        let applied = snapshot.applied();
        let entries = |tree| {
            let mut cursor = snapshot.cursor(tree);
            cursor.seek(&[]);
            let mut entries = Vec::new();
            while cursor.valid() {
                entries.push((cursor.key().to_vec(), cursor.value().to_vec()));
                cursor.next();
            }
            entries
        };
        let stored: Vec<_> = entries(Tree::Kv)
            .iter()
            .map(|(key, value)| {
                let (delete, kv) = split_kv_value(value).expect(WHOLE);
                (Revision::from_bytes(key).expect(WHOLE), delete, kv.to_vec())
            })
            .collect();
        let mut indexed: Vec<_> = entries(Tree::Index)
            .iter()
            .map(|(key, _)| {
                let (prefix, revision) = split_index_key(key).expect(WHOLE);
                (revision, unescape_index_prefix(prefix).into_owned())
            })
            .collect();
        indexed.sort();
        let by_revision =
            stored.iter().map(|(at, _, kv)| (*at, crate::wire::key_of(kv).expect(WHOLE).to_vec()));
        assert!(by_revision.eq(indexed.iter().cloned()), "Kv and Index hold the same changes");
        let garbage: Result<Vec<_>, _> =
            entries(Tree::Garbage).iter().map(|(key, _)| split_garbage_key(key)).collect();
        let garbage = garbage.expect(WHOLE);
        for (due, dead) in &garbage {
            assert!(*due > applied.swept_revision && stored.iter().any(|(at, ..)| at == dead));
        }
        let attached: Vec<_> = entries(Tree::LeaseKey).into_iter().map(|(key, _)| key).collect();
        let mut expected: Vec<Vec<u8>> = Vec::new();
        for change in self.model.live(&[0], &[0], i64::MAX) {
            if change.kv.lease != 0 {
                expected.push([&change.kv.lease.to_be_bytes()[..], &change.kv.key].concat());
            }
        }
        expected.sort();
        assert_eq!(attached, expected);
        if compact::is_sweep_due(applied, None) {
            return;
        }
        let theirs = self.model.stored(applied.compact_revision);
        let theirs = theirs.iter().map(|c| (Revision::new(c.main, c.sub), c.delete, c.kv.encode_to_vec()));
        assert!(stored.iter().cloned().eq(theirs), "the store holds what the model says a sweep leaves");
        let dead = stored.len() - self.model.live(&[0], &[0], i64::MAX).len();
        assert_eq!(garbage.len(), dead, "everything dead is listed once");
    }

    fn some_key(&mut self) -> Bytes {
        if self.prng.chance(1, 30) {
            return vec![b'k'; 100 + self.prng.below(300) as usize].into();
        }
        Bytes::from_static(KEYS[self.prng.below(KEYS.len() as u64) as usize])
    }

    fn interval(&mut self) -> (Bytes, Bytes) {
        let key = self.some_key();
        let end = match self.prng.below(5) {
            0..=1 => Bytes::new(),
            2 => Bytes::from_static(b"\0"),
            _ => self.some_key(),
        };
        (key, end)
    }

    fn some_revision(&mut self) -> i64 {
        match self.prng.below(8) {
            0 => -(self.prng.below(3) as i64),
            1 => self.model.revision + self.prng.below(3) as i64,
            2 => self.model.compacted + self.prng.below(3) as i64 - 1,
            _ => self.prng.below(self.model.revision as u64 + 1) as i64,
        }
    }

    fn put_request(&mut self) -> PutRequest {
        let ignore_value = self.prng.chance(1, 8);
        let ignore_lease = self.prng.chance(1, 8);
        let lease = if self.prng.chance(1, 2) { 0 } else { 1 + self.prng.below(6) as i64 };
        let len = [0, 1, 5, 130, 400][self.prng.below(5) as usize];
        let value = vec![self.prng.below(256) as u8; len];
        PutRequest {
            key: self.some_key(),
            value: if ignore_value { Bytes::new() } else { value.into() },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv: self.prng.chance(1, 2),
            ignore_value,
            ignore_lease,
        }
    }

    fn range_request(&mut self) -> RangeRequest {
        let (key, range_end) = self.interval();
        let mut bound = |numerator| {
            if self.prng.chance(numerator, 10) {
                self.prng.below(self.model.revision as u64 + 2) as i64
            } else {
                0
            }
        };
        let filters = [bound(1), bound(1), bound(1), bound(1)];
        RangeRequest {
            key,
            range_end,
            limit: if self.prng.chance(1, 2) { 0 } else { self.prng.below(8) as i64 - 1 },
            revision: if self.prng.chance(1, 2) { 0 } else { self.some_revision() },
            sort_order: if self.prng.chance(1, 2) { 0 } else { self.prng.below(3) as i32 },
            sort_target: if self.prng.chance(1, 2) { 0 } else { self.prng.below(5) as i32 },
            serializable: false,
            keys_only: self.prng.chance(1, 4),
            count_only: self.prng.chance(1, 8),
            min_mod_revision: filters[0],
            max_mod_revision: filters[1],
            min_create_revision: filters[2],
            max_create_revision: filters[3],
        }
    }

    fn txn_request(&mut self, depth: u64) -> TxnRequest {
        let compare = (0..self.prng.below(3)).map(|_| self.compare()).collect();
        let mut ops = || (0..self.prng.below(5)).map(|_| self.op(depth)).collect::<Vec<_>>();
        let (success, failure) = (ops(), ops());
        TxnRequest { compare, success, failure }
    }

    fn op(&mut self, depth: u64) -> RequestOp {
        let request = match self.prng.below(8) {
            0..=1 => Op::RequestRange(self.range_request()),
            2..=4 => Op::RequestPut(self.put_request()),
            5..=6 => {
                let (key, range_end) = self.interval();
                let prev_kv = self.prng.chance(1, 2);
                Op::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv })
            }
            _ if depth == 3 => Op::RequestRange(self.range_request()),
            _ => Op::RequestTxn(self.txn_request(depth + 1)),
        };
        RequestOp { request: Some(request) }
    }

    fn compare(&mut self) -> Compare {
        let (key, range_end) = self.interval();
        let number = self.prng.below(4) as i64 * self.prng.below(10) as i64;
        let target_union = match self.prng.below(6) {
            0 => None,
            1 => Some(TargetUnion::Version(number)),
            2 => Some(TargetUnion::CreateRevision(number)),
            3 => Some(TargetUnion::ModRevision(number)),
            4 => Some(TargetUnion::Value(vec![number as u8; self.prng.below(3) as usize].into())),
            _ => Some(TargetUnion::Lease(number % 7)),
        };
        let result = self.prng.below(5) as i32;
        Compare { result, target: self.prng.below(6) as i32, key, range_end, target_union }
    }
}

impl Stage {
    fn pin(&self) -> i64 {
        match self {
            Stage::Range(plan) => plan.pin(),
            Stage::RangeEmission(emission) => emission.pin(),
            Stage::Txn(txn) => txn.pin(),
            Stage::TxnEmission(emission) => emission.pin(),
        }
    }

    /// The length of the answer, once it is known.
    fn encoded_len(&self) -> Option<usize> {
        match self {
            Stage::Range(_) | Stage::Txn(_) => None,
            Stage::RangeEmission(emission) => Some(emission.encoded_len(&Header::default())),
            Stage::TxnEmission(emission) => Some(emission.encoded_len(&Header::default())),
        }
    }

    /// One leg; nothing once the answer is complete.
    fn proceed<R: Read>(
        self,
        view: &View<'_, R>,
        out: &mut BytesMut,
        prng: &mut Prng,
    ) -> Result<Option<Self>, Error> {
        let header = Header::default();
        let (budget, bytes) = (1 + prng.below(10) as usize, prng.below(100) as usize);
        Ok(match self {
            Stage::Range(plan) => Some(match plan.step(view, budget)? {
                Progress::Pending(plan) => Stage::Range(plan),
                Progress::Done(emission) => Stage::RangeEmission(emission),
            }),
            Stage::Txn(txn) => Some(match txn.step(view, budget)? {
                Progress::Pending(txn) => Stage::Txn(txn),
                Progress::Done(emission) => Stage::TxnEmission(emission),
            }),
            Stage::RangeEmission(mut emission) => {
                let complete = emission.emit(view, &header, out, bytes)?;
                (!complete).then_some(Stage::RangeEmission(emission))
            }
            Stage::TxnEmission(mut emission) => {
                let complete = emission.emit(view, &header, out, bytes)?;
                (!complete).then_some(Stage::TxnEmission(emission))
            }
        })
    }
}

impl Streaming {
    /// One leg; true when the stream has ended.
    fn proceed<R: Read>(&mut self, view: &View<'_, R>, prng: &mut Prng) -> bool {
        let header = Header::default();
        match self.stream.plan(view, 1 + prng.below(10) as usize) {
            Err(error) => {
                assert_eq!(error, Error::Compacted);
                return true;
            }
            Ok(false) => return false,
            Ok(true) => {}
        }
        let len = self.out.is_empty().then(|| self.stream.message_len(&header).expect("a message stands"));
        if !self.stream.emit(view, &header, &mut self.out, prng.below(100) as usize).expect("it is pinned") {
            return false;
        }
        let message = RangeStreamResponse::decode(&self.out.split()[..]).expect("a whole message");
        let message = message.range_response.expect("every message has one");
        if let Some(len) = len {
            let inner = message.encoded_len();
            assert_eq!(len, crate::wire::bytes_field_len(inner));
        }
        self.got.kvs.extend(message.kvs);
        self.got.header = message.header;
        self.got.more = message.more;
        self.got.count = message.count;
        if self.stream.is_finished() {
            assert_eq!(self.got, self.expected);
        }
        self.stream.is_finished()
    }
}

fn judge<M: Message + Default + PartialEq + core::fmt::Debug>(
    ours: Result<Bytes, Error>,
    theirs: Result<M, Refusal>,
    request: &impl core::fmt::Debug,
) {
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            let decoded = M::decode(ours.clone()).expect("an answer decodes");
            assert_eq!(decoded, theirs, "{request:?}");
            assert_eq!(ours, theirs.encode_to_vec(), "{request:?}");
        }
        (ours, theirs) => {
            assert_eq!(ours.err().map(Error::message), theirs.err(), "{request:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_store_and_the_model_agree() {
        for seed in 0..300 {
            super::run(seed);
        }
    }
}
