//! Reads: those that one snapshot answers, and those that take legs.
//!
//! A long answer goes as the server has it: a plan on the snapshot of its arrival, then a pinned revision, then legs
//! that see a new snapshot each. Between two legs a client may stall while others write, compact, sweep and checkpoint,
//! and some clients go away half-way. Whatever happens meanwhile, the answer is the one of the revision at its arrival,
//! to the byte.
#![forbid(unsafe_code)]

use bytes::BytesMut;
use prost::Message as _;

use super::judge::judge;
use super::model::Refusal;
use super::plant::Plant;
use super::workload::Ask;
use super::world::{Event, World};
use kevel::btree::Read;
use kevel::error::Error;
use kevel::mvcc::hash::HashKv;
use kevel::mvcc::range::{self, Emission, Plan, Progress, SLICE_SURPLUS};
use kevel::mvcc::txn_read::{TxnEmission, TxnProgress};
use kevel::mvcc::{RangeStream, ReadTxn, View};
use kevel::proto::etcdserverpb::*;
use kevel::response::Header;

/// A slice of fewer bytes than this is not asked for.
const SLICE_BYTES_MIN: usize = 64;

/// An answer of which a client has a part.
pub struct Reading {
    client: usize,
    /// The revision to be pinned.
    at: i64,
    /// It is pinned.
    pub pinned: bool,
    legs: Legs,
}

/// What is under way, and what has come so far.
enum Legs {
    List {
        request: RangeRequest,
        list: Stage<Plan, Emission>,
        got: BytesMut,
        expected: Box<RangeResponse>,
    },
    Look {
        look: Stage<ReadTxn, TxnEmission>,
        got: BytesMut,
        expected: Result<Box<TxnResponse>, Refusal>,
    },
    Stream {
        stream: Box<RangeStream>,
        message: BytesMut,
        got: Vec<RangeResponse>,
        chunks: Chunks,
        expected: Box<RangeResponse>,
    },
    Hash {
        digest: HashKv,
        expected: Option<u32>,
    },
}

/// An answer whose length is not known yet, or one that is being written.
enum Stage<P, E> {
    Planning(Option<Box<P>>),
    Writing(Box<E>),
}

impl Reading {
    /// The revision that it holds.
    pub fn pin(&self) -> Option<i64> {
        self.pinned.then_some(self.at)
    }
}

/// The sizes of one leg.
struct Leg {
    /// Index entries to look at.
    entries: usize,
    /// Bytes to write.
    bytes: usize,
    /// A planted bug loses the message of a stream, or repeats a pair in it.
    loses: bool,
    repeats: bool,
}

/// Whether a stream has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Not,
    /// A compaction has ended it.
    Early,
    Whole,
}

impl World {
    /// Reads from the newest snapshot, which must show everything up to `floor`.
    pub fn read(&mut self, number: usize, ask: &Ask, floor: u64) {
        self.tally.reads += 1;
        self.keep_snapshot();
        let core = self.clients[number].core;
        let max_request_bytes = self.params.max_request_bytes;
        let member = self.member.as_mut().expect("a member that runs");
        let core = &mut member.cores[core];
        let snapshot = core.reader.snapshot();
        let state = self.judge.on_snapshot(snapshot.applied(), floor);
        let view = View::new(&snapshot).counting_with(&core.counts);
        let model = &self.judge.model;
        let begun = match ask {
            Ask::Range(request) => {
                let shown = range::answer(&view, &Header::default(), request).map_err(Error::message);
                let expected = model.range(request, state.revision, state.compacted);
                let shown = shown.map(|bytes| RangeResponse::decode(bytes).expect("an encoded response"));
                judge!(shown == expected, "{request:?} is answered with {shown:?}, not {expected:?}");
                None
            }
            Ask::Look(request) => {
                let expected = model.look(request, state.revision, state.compacted).map(Box::new);
                let look = ReadTxn::new(&view, TxnRequest::clone(request), &core.plan_memory);
                let at = look.pin();
                let look = Stage::Planning(Some(Box::new(look)));
                Some((at, Legs::Look { look, got: BytesMut::new(), expected }))
            }
            Ask::List(request) => {
                let expected = model.range(request, state.revision, state.compacted);
                agreed(ask, Plan::new(&view, request), expected).map(|(mut plan, expected)| {
                    plan.remember_in(&core.plan_memory);
                    let (at, request) = (plan.pin(), RangeRequest::clone(request));
                    let (list, got) = (Stage::Planning(Some(Box::new(plan))), BytesMut::new());
                    (at, Legs::List { request, list, got, expected: expected.into() })
                })
            }
            Ask::Stream(request) => {
                let expected = model.range_stream(request, state.revision, state.compacted);
                let begun = RangeStream::new(&view, request, max_request_bytes);
                agreed(ask, begun, expected).map(|(stream, expected)| {
                    let (at, stream) = (stream.pin(), Box::new(stream));
                    let expected = Box::new(expected);
                    let chunks = Chunks::new(max_request_bytes, request, state.revision);
                    (at, Legs::Stream { stream, message: BytesMut::new(), got: vec![], chunks, expected })
                })
            }
            Ask::Hash(revision) => {
                let expected = model.hash_kv_at(*revision, state.revision, state.compacted);
                let begun = agreed(ask, HashKv::new(&view, *revision), expected);
                begun.map(|(digest, expected)| {
                    let at = match self.plant {
                        Some(Plant::HashUnpinned) => state.revision,
                        _ => digest.pin(),
                    };
                    (at, Legs::Hash { digest, expected })
                })
            }
            _ => unreachable!("only these read the store"),
        };
        drop(snapshot);
        if let Some((at, legs)) = begun {
            self.begin_reading(number, at, legs);
        }
        self.saw(number, state.revision);
    }

    /// Reads from a snapshot while the world goes on: on another core, a look at the store takes its time.
    pub fn read_beside(&mut self, number: usize, request: &RangeRequest) {
        self.tally.reads += 1;
        let readers = self.member().replica.readers();
        let mut reader = readers.register();
        let snapshot = reader.snapshot();
        let state = self.judge.on_snapshot(snapshot.applied(), 0);
        let expected = self.judge.model.range(request, state.revision, state.compacted);
        let events = self.prng.below(30);
        self.look_on(events);
        let shown = range::answer(&View::new(&snapshot), &Header::default(), request).map_err(Error::message);
        let shown = shown.map(|bytes| RangeResponse::decode(bytes).expect("an encoded response"));
        judge!(shown == expected, "{request:?} beside writes is answered with {shown:?}, not {expected:?}");
        self.saw(number, state.revision);
    }

    /// A compaction's hash that is remembered is the one that was taken; at the end, the newest ten are.
    pub fn check_remembered(&mut self, at_the_end: bool) {
        let member = self.member.as_ref().expect("a member that runs");
        let hashes = member.replica.compaction_hashes();
        for (number, (&revision, &hash)) in member.digested.iter().rev().enumerate() {
            let shown = hashes.get(revision, 0).map(|hash| hash.hash);
            let fits = shown == Some(hash) || shown.is_none() && !(at_the_end && number < 10);
            judge!(
                fits,
                "the hash of the compaction to {revision} is {hash:x}, and {shown:x?} is remembered"
            );
        }
        let unknown = member.digested.last_key_value().map_or(0, |(revision, _)| revision + 1);
        judge!(hashes.get(unknown, 0).is_none(), "there was no compaction to {unknown}");
        judge!(hashes.get(-2, 0).is_none(), "there was no compaction to -2");
    }

    fn begin_reading(&mut self, client: usize, at: i64, legs: Legs) {
        self.tally.readings += 1;
        let id = self.tally.readings;
        self.readings.insert(id, Reading { client, at, pinned: false, legs });
        let time = self.some(self.params.lane_time);
        self.schedule(time, Event::Leg(id));
    }

    /// How much the next leg does.
    fn leg(&mut self) -> Leg {
        let some = |world: &mut Self, most: usize| 1 + world.prng.below(most as u64) as usize;
        let (entries, bytes) = (some(self, self.params.plan_entries), some(self, self.params.slice_bytes));
        Leg { entries, bytes, loses: false, repeats: false }
    }

    /// A leg of a long answer.
    pub fn read_on(&mut self, id: u64) {
        let Some(mut reading) = self.readings.remove(&id) else { return };
        self.trace.step(self.now, &[25, id], format_args!("client {} reads on", reading.client));
        if reading.pinned && self.prng.chance(1, 60) {
            // The client has gone.
            return self.unpin(&reading);
        }
        if !reading.pinned && !self.pin(&mut reading) {
            return;
        }
        if self.next_leg(&mut reading) {
            return self.unpin(&reading);
        }
        self.readings.insert(id, reading);
        let stalls = self.requests_left > 0 && self.prng.chance(1, 6);
        let pause = if stalls { self.params.stall } else { self.params.lane_time };
        let pause = self.some(pause);
        self.schedule(pause, Event::Leg(id));
    }

    /// Pins what a long answer reads. False if it is compacted by now.
    fn pin(&mut self, reading: &mut Reading) -> bool {
        let core = self.clients[reading.client].core;
        let core = &mut self.member.as_mut().expect("a member that runs").cores[core];
        let snapshot = core.reader.snapshot();
        let compacted = snapshot.applied().compact_revision;
        if let (Some(Plant::ListReplanned), Legs::List { request, list, .. }) =
            (self.plant, &mut reading.legs)
            && let Ok(anew) = Plan::new(&View::new(&snapshot), request)
        {
            reading.at = anew.pin();
            *list = Stage::Planning(Some(Box::new(anew)));
        }
        drop(snapshot);
        reading.pinned = core.pins.pin(reading.at + spoilt_pin(self.plant), || compacted);
        judge!(
            !reading.pinned || compacted <= reading.at,
            "revision {} is pinned, and {compacted} is compacted",
            reading.at
        );
        judge!(
            reading.pinned || compacted > reading.at,
            "revision {} cannot be pinned, and {compacted} is compacted",
            reading.at
        );
        reading.pinned
    }

    fn unpin(&mut self, reading: &Reading) {
        if self.spoils(Plant::PinForgotten, 8) {
            return;
        }
        let (core, at) = (self.clients[reading.client].core, reading.at + spoilt_pin(self.plant));
        self.member().cores[core].pins.unpin(at);
    }

    /// True if it was the last.
    fn next_leg(&mut self, reading: &mut Reading) -> bool {
        let mut leg = self.leg();
        leg.loses = self.spoils(Plant::StreamChunkLost, 6);
        leg.repeats = self.spoils(Plant::StreamRepeats, 6);
        let core = self.clients[reading.client].core;
        let core = &mut self.member.as_mut().expect("a member that runs").cores[core];
        let snapshot = core.reader.snapshot();
        let view = View::new(&snapshot).counting_with(&core.counts);
        let at = reading.at;
        match &mut reading.legs {
            Legs::List { list, got, expected, .. } => list_leg(&view, at, &leg, list, got, expected),
            Legs::Look { look, got, expected } => look_leg(&view, at, &leg, look, got, expected),
            Legs::Stream { stream, message, got, chunks, expected } => {
                let ended = stream_leg(&view, at, &leg, stream, message, got, chunks);
                if ended == Ended::Whole {
                    judge_stream(at, got, expected);
                }
                ended != Ended::Not
            }
            Legs::Hash { digest, expected } => {
                let Some(hash) = digest.step(&view, leg.entries) else { return false };
                judge!(
                    expected.is_none_or(|expected| expected == hash.hash),
                    "the hash at {} is {:x}, not {expected:x?}",
                    hash.hash_revision,
                    hash.hash
                );
                true
            }
        }
    }

    /// No sweep has passed what somebody reads.
    pub fn check_pins(&self) {
        let Some(member) = &self.member else { return };
        let swept = member.replica.applied().swept_revision;
        for pin in self.readings.values().filter_map(Reading::pin) {
            judge!(swept <= pin, "everything up to {swept} is swept, and {pin} is pinned");
        }
    }
}

/// A leg of a list; true if it was the last.
fn list_leg<R: Read>(
    view: &View<'_, R>,
    at: i64,
    leg: &Leg,
    list: &mut Stage<Plan, Emission>,
    got: &mut BytesMut,
    expected: &RangeResponse,
) -> bool {
    let header = Header::default();
    if let Stage::Planning(plan) = list {
        let plan = plan.take().expect("a plan that is not finished");
        *list = match plan.step(view, leg.entries) {
            Ok(Progress::Pending(plan)) => Stage::Planning(Some(Box::new(plan))),
            Ok(Progress::Done(emission)) => Stage::Writing(Box::new(emission)),
            Err(error) => return judge_full(at, error),
        };
    }
    let Stage::Writing(emission) = list else { return false };
    let bytes = leg.bytes.max(emission.encoded_len(&header) / 100);
    let before = got.len();
    let complete = emission.emit(view, &header, got, bytes);
    let complete = complete.unwrap_or_else(|error| panic!("judge: a list at {at} ends with {error:?}"));
    judge_slice(got.len() - before, bytes);
    judge!(
        !complete || got[..] == expected.encode_to_vec()[..],
        "a long answer at {at} is {:?}, not {expected:?}",
        RangeResponse::decode(&got[..])
    );
    complete
}

/// A leg of a transaction that only reads; true if it was the last.
fn look_leg<R: Read>(
    view: &View<'_, R>,
    at: i64,
    leg: &Leg,
    look: &mut Stage<ReadTxn, TxnEmission>,
    got: &mut BytesMut,
    expected: &Result<Box<TxnResponse>, Refusal>,
) -> bool {
    let header = Header::default();
    if let Stage::Planning(plan) = look {
        let plan = plan.take().expect("a plan that is not finished");
        *look = match plan.step(view, leg.entries) {
            Ok(TxnProgress::Pending(plan)) => Stage::Planning(Some(Box::new(plan))),
            Ok(TxnProgress::Done(emission)) => Stage::Writing(Box::new(emission)),
            Err(error) if expected.as_ref().err() == Some(&error.message()) => return true,
            Err(error) => return judge_full(at, error),
        };
    }
    let Stage::Writing(emission) = look else { return false };
    let bytes = leg.bytes.max(emission.encoded_len(&header) / 100);
    let before = got.len();
    let complete = match emission.emit(view, &header, got, bytes) {
        Ok(complete) => complete,
        Err(error) => return judge_full(at, error),
    };
    judge_slice(got.len() - before, bytes);
    if complete {
        let shown = TxnResponse::decode(&got[..]).map(Box::new).map_err(|_| "no response at all");
        judge!(shown == *expected, "a transaction at {at} is answered with {shown:?}, not {expected:?}");
    }
    complete
}

/// A slice has about as many bytes as were asked for.
fn judge_slice(len: usize, bytes: usize) {
    let most = bytes.max(SLICE_BYTES_MIN) + 4 * SLICE_SURPLUS;
    judge!(len <= most, "a slice has {len} bytes, at most {most} were asked for");
}

/// The only reason for which a pinned read may end early.
fn judge_full(at: i64, error: Error) -> bool {
    judge!(error == Error::TooManyRequests, "a read at the pinned revision {at} ends with {error:?}");
    true
}

/// A leg of a stream.
fn stream_leg<R: Read>(
    view: &View<'_, R>,
    at: i64,
    leg: &Leg,
    stream: &mut RangeStream,
    message: &mut BytesMut,
    got: &mut Vec<RangeResponse>,
    chunks: &mut Chunks,
) -> Ended {
    let header = Header::default();
    match stream.plan(view, leg.entries) {
        Ok(true) => {}
        Ok(false) => return Ended::Not,
        // A new chunk is a read of its own, as etcd has it: a compaction ends the stream.
        Err(error) => {
            let compacted = view.compact_revision();
            let may_end = error == Error::Compacted && compacted > at;
            judge!(may_end, "a stream at {at} ends with {error:?}, {compacted} is compacted");
            return Ended::Early;
        }
    }
    let Some(len) = stream.message_len(&header) else { panic!("judge: a message that stands has no length") };
    match stream.emit(view, &header, message, leg.bytes.max(len / 100)) {
        Ok(true) => {}
        Ok(false) => return Ended::Not,
        Err(error) => panic!("judge: a stream at the pinned revision {at} ends with {error:?}"),
    }
    judge!(message.len() == len, "a message of {len} bytes has {}", message.len());
    let last = stream.is_finished();
    let response = RangeStreamResponse::decode(message.split()).expect("an encoded response");
    let mut chunk = response.range_response.unwrap_or_default();
    judge!(last == chunk.header.is_some(), "the last message of a stream has the header: {chunk:?}");
    judge!(last || !chunk.kvs.is_empty(), "a message of a stream has no pair");
    chunks.on_chunk(&chunk, last);
    if leg.repeats
        && let Some(kv) = got.last().and_then(|before| before.kvs.last())
    {
        chunk.kvs.insert(0, kv.clone());
    }
    if !leg.loses || last {
        got.push(chunk);
    }
    if last { Ended::Whole } else { Ended::Not }
}

/// How many pairs a message of a stream has, as etcd reckons: ten at first, then twice or half as many while the
/// message before was short or long.
struct Chunks {
    /// None where all pairs come at once.
    target: Option<usize>,
    /// The least and the most pairs of the next message that is not the last.
    next: (usize, usize),
    left: usize,
    revision: i64,
}

impl Chunks {
    /// What etcd measures is not known to the byte.
    const BLUR: usize = 24;

    fn new(target: usize, request: &RangeRequest, revision: i64) -> Self {
        let left = if request.limit == 0 { usize::MAX } else { request.limit.max(0) as usize };
        let target = (request.limit >= 0 && !request.count_only).then_some(target);
        Self { target, next: (10.min(left), 10.min(left)), left, revision }
    }

    fn on_chunk(&mut self, chunk: &RangeResponse, last: bool) {
        let Some(target) = self.target else { return };
        let (pairs, (least, most)) = (chunk.kvs.len(), self.next);
        judge!(
            pairs <= most && (last || pairs >= least),
            "a message of a stream has {pairs} pairs, and {least} to {most} are due"
        );
        self.left -= pairs;
        let header = Some(ResponseHeader { revision: self.revision, ..ResponseHeader::default() });
        let size = RangeResponse { header, kvs: chunk.kvs.clone(), more: true, count: 0 }.encoded_len();
        let sizes = [size.saturating_sub(Self::BLUR), size + Self::BLUR];
        let after = sizes.map(|size| match pairs {
            _ if size < target / 2 => pairs * 2,
            _ if size > target * 2 => (pairs / 2).max(1),
            _ => pairs,
        });
        self.next = (after[0].min(after[1]).min(self.left), after[0].max(after[1]).min(self.left));
    }
}

/// All messages put together are the answer.
fn judge_stream(at: i64, got: &[RangeResponse], expected: &RangeResponse) {
    let kvs: Vec<_> = got.iter().flat_map(|chunk| chunk.kvs.iter().cloned()).collect();
    let whole = RangeResponse { kvs, ..got[got.len() - 1].clone() };
    judge!(whole == *expected, "a stream at {at} is {whole:?}, not {expected:?}");
}

/// What a planted bug adds to a pin.
fn spoilt_pin(plant: Option<Plant>) -> i64 {
    i64::from(plant == Some(Plant::PinTooHigh))
}

/// Both begin, or both refuse for the same reason: then nothing is left to do.
fn agreed<T, E>(ask: &Ask, begun: Result<T, Error>, expected: Result<E, Refusal>) -> Option<(T, E)> {
    match (begun.map_err(Error::message), expected) {
        (Ok(begun), Ok(expected)) => Some((begun, expected)),
        (Err(shown), Err(expected)) if shown == expected => None,
        (begun, expected) => {
            panic!("judge: {ask} begins with {:?}, expected {:?}", begun.err(), expected.err())
        }
    }
}
