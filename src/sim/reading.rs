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
use super::legs::{Broken, Chunks, Ended, Leg, Stage, judge_early_end, judge_stream, stream_leg};
use super::model::Refusal;
use super::plant::Plant;
use super::spoil::spoil_counts;
use super::workload::Ask;
use super::world::{Event, World};
use kevel::btree::Read as _;
use kevel::error::Error;
use kevel::mvcc::hash::HashKv;
use kevel::mvcc::range::{self, Plan};
use kevel::mvcc::{Planned as _, RangeStream, ReadTxn, View};
use kevel::proto::etcdserverpb::*;
use kevel::response::Header;

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
        list: Stage<Plan>,
        got: BytesMut,
        expected: Box<RangeResponse>,
    },
    Look {
        look: Stage<ReadTxn>,
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

impl Reading {
    /// Whether it is for this client.
    pub fn is_of(&self, client: usize) -> bool {
        self.client == client
    }

    /// The revision that it holds.
    pub fn pin(&self) -> Option<i64> {
        self.pinned.then_some(self.at)
    }
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
        spoil_counts(self.plant, &core.counts);
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
                let look = Stage::planning(look);
                Some((at, Legs::Look { look, got: BytesMut::new(), expected }))
            }
            Ask::List(request) => {
                let expected = model.range(request, state.revision, state.compacted);
                agreed(ask, Plan::new(&view, request), expected).map(|(mut plan, expected)| {
                    plan.remember_in(&core.plan_memory);
                    let (at, request) = (plan.pin(), RangeRequest::clone(request));
                    let (list, got) = (Stage::planning(plan), BytesMut::new());
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
        let most = [10, 30, 300][self.prng.below(3) as usize];
        let events = self.prng.below(most);
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
            *list = Stage::planning(anew);
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

    /// Lets go of the revision that a long answer has read.
    pub fn unpin(&mut self, reading: &Reading) {
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
        spoil_counts(self.plant, &core.counts);
        let view = View::new(&snapshot).counting_with(&core.counts);
        let at = reading.at;
        match &mut reading.legs {
            Legs::List { list, got, expected, .. } => {
                let complete = match list.leg(&view, &leg, got) {
                    Ok(complete) => complete,
                    Err(Broken::Planning(error)) => return judge_early_end(at, error),
                    Err(Broken::Writing(error)) => panic!("judge: a list at {at} ends with {error:?}"),
                };
                judge!(
                    !complete || got[..] == expected.encode_to_vec()[..],
                    "a long answer at {at} is {:?}, not {expected:?}",
                    RangeResponse::decode(&got[..])
                );
                complete
            }
            Legs::Look { look, got, expected } => {
                let shown = match look.leg(&view, &leg, got) {
                    Ok(false) => return false,
                    Ok(true) => TxnResponse::decode(&got[..]).map(Box::new).map_err(|_| "no response at all"),
                    Err(Broken::Planning(error)) if expected.as_ref().err() == Some(&error.message()) => {
                        return true;
                    }
                    Err(Broken::Planning(error) | Broken::Writing(error)) => {
                        return judge_early_end(at, error);
                    }
                };
                judge!(
                    shown == *expected,
                    "a transaction at {at} is answered with {shown:?}, not {expected:?}"
                );
                true
            }
            Legs::Stream { stream, message, got, chunks, expected } => {
                let ended = stream_leg(&view, at, &leg, stream, message, got, chunks);
                if ended == Ended::Whole {
                    judge_stream(at, got, expected);
                }
                ended != Ended::Not
            }
            Legs::Hash { digest, expected } => {
                let hash = digest.step(&view, leg.entries).expect("a store whose records can be read");
                let Some(hash) = hash else { return false };
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
