//! Transcripts of `testdata`, and random lives with crashes in which every acknowledged put must come back.
//!
//! `UPDATE=1 cargo test --lib replica::` writes the transcripts' answers anew. In a transcript a `log` line shows a
//! write on its way; nothing after it in raft's order may have left before it is `synced`.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use super::bootstrap::Foundation;
use super::port::{Input, LeaseCall, Output, Outputs, Ticket};
use super::{Opening, Replica, Settings};
use crate::btree::{Read, Store};
use crate::limits::APPLY_BUDGET;
use crate::mvcc::compact_hash::CompactionDigest;
use crate::mvcc::pin::Pins;
use crate::mvcc::view::View;
use crate::mvcc::write::CHANGE_COST;
use crate::page::{CheckpointJob, MemoryFile};
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, LeaseCheckpoint, LeaseCheckpointRequest,
    LeaseGrantRequest, PutRequest, RequestOp, TxnRequest,
};
use crate::request::{Entry, Request};
use crate::response::Response;
use crate::stdx::prng::Prng;
use crate::stdx::time::{Duration, Instant};
use crate::wal::fuzz::Files;
use crate::wal::record::{Frame, Kind, SnapshotMark, decode_entry, decode_state, read_frame};
use crate::wal::{Metadata, Write};

const TICK: Duration = Duration::from_millis(100);

/// A member, its disk, and what it has asked the world to do.
struct World {
    replica: Option<Replica>,
    files: Files,
    store: Arc<MemoryFile>,
    now: Instant,
    writes: VecDeque<(u64, Write)>,
    checkpoint: Option<CheckpointJob>,
    digest: Option<Box<CompactionDigest>>,
    next_id: u64,
    segment_bytes: u64,
    quota_bytes: Option<u64>,
    seed: u64,
}

/// A world's disk after a crash may have part of the last write.
#[derive(Clone, Copy, PartialEq)]
enum Crash {
    /// Nothing that was not synced is there.
    Clean,
    /// Some sectors of the write that was on its way are there.
    Torn(u64),
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            replica: None,
            files: Files::default(),
            store: Arc::default(),
            now: Instant::default(),
            writes: VecDeque::new(),
            checkpoint: None,
            digest: None,
            next_id: 0,
            segment_bytes: crate::wal::SEGMENT_BYTES,
            quota_bytes: None,
            seed,
        }
    }

    fn settings(&self, member_id: u64) -> Settings {
        Settings {
            member_id,
            name: "default".into(),
            client_urls: vec!["http://localhost:2379".into()],
            election_ticks: 10,
            tick: TICK,
            pre_vote: true,
            catchup_entries: 0,
            segments_kept: 2,
            lease_ttl_min: 2,
            quota_bytes: self.quota_bytes,
            request_ids: (1 << 32, 1),
            seed: self.seed,
        }
    }

    /// Starts the member on what the disk has. Says what recovery found.
    fn start(&mut self) -> Result<String, String> {
        let store = Store::open(self.store.clone()).map_err(|error| error.to_string())?;
        let urls = vec!["http://localhost:2380".to_owned()];
        let foundation = Foundation::new([("default".to_owned(), urls)], "etcd-cluster");
        let member_id = foundation.founders[0].id;
        let (opening, said) = if self.files.names().is_empty() {
            (Opening::Found(foundation), "founded".to_owned())
        } else {
            let applied = store.applied().index;
            let read = self.files.recover(applied).map_err(|error| error.to_string())?;
            assert_eq!(read.metadata, Metadata { node_id: member_id, cluster_id: foundation.cluster_id });
            let said = format!(
                "recovered: store at {applied}, {} entries to {}, commit {}{}",
                read.entries.len(),
                read.last_index,
                read.state.commit,
                if read.tail.torn { ", torn tail dropped" } else { "" }
            );
            (Opening::Recover(Box::new(read), self.files.names()), said)
        };
        let mut replica = Replica::open(self.settings(member_id), store, opening, Pins::new(1))?;
        replica.log.set_segment_bytes(self.segment_bytes);
        self.replica = Some(replica);
        Ok(said)
    }

    /// The power fails.
    fn crash(&mut self, crash: Crash) {
        self.replica = None;
        self.checkpoint = None;
        self.digest = None;
        if let (Crash::Torn(seed), Some((_, write))) = (crash, self.writes.front())
            // A segment that is being created has no name before its first write is durable.
            && !write.create
        {
            let mut prng = Prng::new(seed);
            self.files.write_sectors(write, |_| prng.chance(1, 2));
        }
        self.writes.clear();
    }

    fn replica(&mut self) -> &mut Replica {
        self.replica.as_mut().expect("a member that runs")
    }

    fn step(&mut self, input: Input) {
        self.replica().step(input);
    }

    /// Ends a turn. Writes and checkpoints are kept, the rest is handed to `each`.
    fn drain(&mut self, mut each: impl FnMut(&Output)) -> bool {
        let now = self.now;
        let mut outputs = Outputs::default();
        let more = self.replica().drain(now, &mut outputs);
        for output in outputs {
            each(&output);
            self.keep(output);
        }
        more
    }

    fn keep(&mut self, output: Output) {
        match output {
            Output::AppendWal { ready, write } => self.writes.push_back((ready, write)),
            Output::WriteCheckpoint(job) => self.checkpoint = Some(job),
            Output::DigestCompaction(job) => self.digest = Some(job),
            Output::ReleaseWal { segments } => self.files.release(segments.len()),
            _ => {}
        }
    }

    /// The oldest write becomes durable.
    fn sync(&mut self) -> bool {
        let Some((ready, write)) = self.writes.pop_front() else { return false };
        self.files.write(&write);
        self.step(Input::WalSynced { ready, buffer: write.bytes });
        true
    }

    /// The checkpoint under way becomes durable.
    fn finish_checkpoint(&mut self) -> bool {
        let Some(job) = self.checkpoint.take() else { return false };
        job.execute().expect("a file in memory never fails");
        self.step(Input::CheckpointSynced { generation: job.generation() });
        true
    }

    /// The compaction's hash is there.
    fn finish_digest(&mut self) -> bool {
        let Some(mut job) = self.digest.take() else { return false };
        let hash = loop {
            if let Some(hash) = job.step(2) {
                break hash;
            }
        };
        self.step(Input::CompactionDigested { hash });
        true
    }

    fn propose(&mut self, request: Request) -> u64 {
        self.next_id += 1;
        let id = self.next_id;
        let entry = Entry::new(id, request).encode();
        self.step(Input::Propose { ticket: Ticket(id.into()), id, entry });
        id
    }

    fn put(&mut self, key: &str, value: &str) -> u64 {
        let request =
            PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
        self.propose(Request::Put(request))
    }

    /// What a client of the newest snapshot reads.
    fn get(&mut self, key: &str) -> Option<String> {
        let mut reader = self.replica().readers().register();
        let snapshot = reader.snapshot();
        let view = View::new(&snapshot);
        let found = view.value_at(key.as_bytes(), snapshot.applied().revision)?;
        let kv: crate::proto::mvccpb::KeyValue = prost::Message::decode(found).unwrap();
        Some(String::from_utf8_lossy(&kv.value).into_owned())
    }

    /// Turns until nothing is left to do: a world in which everything works.
    fn settle(&mut self, mut each: impl FnMut(&Output)) {
        while self.drain(&mut each) | self.sync() | self.finish_checkpoint() | self.finish_digest() {}
    }
}

/// The records of a write, but those that an earlier one has written already.
fn records(write: &Write, skip: &mut u64) -> String {
    let mut text = String::new();
    let mut at = 0;
    while let Frame::Record(record) = read_frame(&write.bytes[at..], 0) {
        let begins = write.offset + at as u64;
        at += record.end;
        if begins < *skip {
            continue;
        }
        let word = match record.kind {
            Kind::Crc => "crc".to_owned(),
            Kind::Metadata => "metadata".to_owned(),
            Kind::State => {
                let state = decode_state(record.data).unwrap();
                let vote = if state.vote == 0 { "" } else { " voted" };
                format!("state(term {} commit {}{vote})", state.term, state.commit)
            }
            Kind::Snapshot => {
                let mark = SnapshotMark::decode(record.data).unwrap();
                let voters = mark.conf_state.map_or(0, |state| state.voters.len());
                format!("mark(index {} term {} voters {voters})", mark.index, mark.term)
            }
            Kind::Entry => {
                let entry = decode_entry(record.data).unwrap();
                let what = match (entry.entry_type(), entry.data.is_empty()) {
                    (raft::eraftpb::EntryType::EntryNormal, true) => "empty".to_owned(),
                    (raft::eraftpb::EntryType::EntryNormal, false) => {
                        format!("{:?}", Entry::decode(entry.data).unwrap().request.kind())
                    }
                    (kind, _) => format!("{kind:?}"),
                };
                format!("{}:{what}", entry.index)
            }
        };
        write!(text, " {word}").unwrap();
    }
    *skip = write.offset + at as u64;
    text
}

struct Script {
    world: World,
    /// How far the current segment's records have been shown.
    shown: u64,
}

impl Script {
    fn tell(&mut self, output: &Output) -> String {
        match output {
            Output::AppendWal { write, .. } => {
                if write.create {
                    self.shown = 0;
                }
                let create = if write.create { format!(" create {}", write.segment) } else { String::new() };
                let sync = if write.sync { "" } else { " (need not be durable)" };
                format!("log{create}:{}{sync}", records(write, &mut self.shown))
            }
            Output::WriteCheckpoint(job) => format!("checkpoint up to {}", job.applied_index()),
            Output::ReleaseWal { segments } => {
                format!("release {}", segments.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
            }
            Output::Send { to, message } => format!("send to {to:x} {:?}", message.msg_type()),
            Output::Reply { ticket, result: Ok(response) } => {
                let what = match response {
                    Response::LeaseTimeToLive { ttl, granted_ttl, .. } => {
                        format!(" ttl {ttl} of {granted_ttl}")
                    }
                    Response::LeaseKeepAlive { ttl, .. } => format!(" ttl {ttl}"),
                    _ => String::new(),
                };
                format!("reply {} at revision {}{what}", ticket.0, response.revision())
            }
            Output::Reply { ticket, result: Err(error) } => format!("reply {}: {error}", ticket.0),
            Output::ReadReady { ticket } => format!("read {} may look", ticket.0),
            Output::Publish(batch) => {
                let keys: Vec<_> = batch.events.iter().map(|e| String::from_utf8_lossy(&e.key)).collect();
                format!("publish {}: {}", batch.revision, keys.join(" "))
            }
            Output::DigestCompaction(_) => "digest a compaction".into(),
            Output::Halt { reason } => format!("halt: {reason}"),
            Output::Compacted { revision, removed } => format!("compacted to {revision}, {removed} removed"),
        }
    }

    fn turn(&mut self) -> String {
        let mut text = String::new();
        loop {
            let (now, mut outputs) = (self.world.now, Outputs::default());
            let more = self.world.replica().drain(now, &mut outputs);
            for output in outputs {
                writeln!(text, "  {}", self.tell(&output)).unwrap();
                self.world.keep(output);
            }
            if !more {
                return text;
            }
        }
    }

    /// Runs one line: a command, its effects on the replica, and then a turn.
    fn run(&mut self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let command = words.next().expect("a command");
        let words: Vec<&str> = words.collect();
        let number = |i: usize| words.get(i).map_or(1, |word| word.parse::<u64>().expect("a number"));
        let mut said = String::new();
        match command {
            "start" => {
                self.shown = u64::MAX;
                let found = self.world.start();
                writeln!(said, "  {}", found.clone().unwrap_or_else(|error| error)).unwrap();
                if found.is_err() {
                    return said;
                }
                self.shown = self.world.replica().log.length();
            }
            "crash" => {
                let crash = if words.is_empty() { Crash::Clean } else { Crash::Torn(number(1)) };
                self.world.crash(crash);
                return said;
            }
            "put" => words.iter().for_each(|pair| {
                let (key, value) = pair.split_once('=').expect("key=value");
                let length = value.strip_prefix('#').map(|length| length.parse().expect("a length"));
                let value = length.map_or(value.to_owned(), |length| "v".repeat(length));
                let ticket = self.world.put(key, &value);
                writeln!(said, "  ticket {ticket}").unwrap();
            }),
            "grant" => {
                let request = LeaseGrantRequest { id: number(0) as i64, ttl: number(1) as i64 };
                self.world.propose(Request::LeaseGrant(request));
            }
            "ttl" => {
                let call = LeaseCall::TimeToLive { id: number(0) as i64 };
                self.world.step(Input::Lease { ticket: Ticket(0), call });
            }
            "checkpoint" => {
                let checkpoint = LeaseCheckpoint { id: number(0) as i64, remaining_ttl: number(1) as i64 };
                let request = LeaseCheckpointRequest { checkpoints: vec![checkpoint] };
                self.world.propose(Request::LeaseCheckpoint(request));
            }
            "renew" => {
                let call = LeaseCall::KeepAlive { id: number(0) as i64 };
                self.world.step(Input::Lease { ticket: Ticket(0), call });
            }
            "compact" => {
                let request = CompactionRequest { revision: number(0) as i64, physical: true };
                self.world.propose(Request::Compaction(request));
            }
            "delete" => {
                let request = DeleteRangeRequest { key: words[0].to_owned().into(), ..Default::default() };
                self.world.propose(Request::DeleteRange(request));
            }
            "defragment" => self.world.step(Input::Defragment { ticket: Ticket(number(0).into()) }),
            "sizes" => {
                let store = self.world.replica().store_stats();
                let [file, used, leaving] =
                    [store.total_bytes, store.used_bytes, store.leaving_bytes].map(|bytes| bytes / 1024);
                return format!("  file {file} KB, used {used} KB, leaving {leaving} KB\n");
            }
            "read" => self.world.step(Input::ReadIndex { ticket: Ticket(number(0).into()) }),
            "get" => {
                let key = words[0];
                let value = self.world.get(key).map_or("nothing".to_owned(), |value| match value.len() {
                    0..20 => value,
                    long => format!("{long} bytes"),
                });
                return format!("  {value}\n");
            }
            "tick" => {
                for _ in 0..number(0) {
                    self.world.now = self.world.now + TICK;
                    self.world.step(Input::Tick);
                }
            }
            "synced" => assert!(self.world.sync(), "no write is on its way"),
            "digested" => assert!(self.world.finish_digest(), "no hash is being taken"),
            "hash" => {
                let (revision, current) = (number(0) as i64, self.world.replica().applied().revision);
                let hash = self.world.replica().compaction_hashes().get(revision, current);
                let told = hash.map_or("none".into(), |hash| {
                    format!("{} since compaction {}", hash.hash, hash.compact_revision)
                });
                return format!("  {told}\n");
            }
            "checkpointed" => assert!(self.world.finish_checkpoint(), "no checkpoint is under way"),
            "quota" => {
                self.world.quota_bytes = Some(number(0));
                return said;
            }
            "disarm" => {
                let member_id = self.world.replica().settings.member_id;
                let (action, alarm) = (AlarmAction::Deactivate as i32, AlarmType::Nospace as i32);
                self.world.propose(Request::Alarm(AlarmRequest { action, member_id, alarm }));
            }
            "alarms" => {
                let raised = self.world.replica().alarms().is_raised(AlarmType::Nospace);
                return format!("  {}\n", if raised { "NOSPACE" } else { "none" });
            }
            "segments" => {
                self.world.segment_bytes = number(0);
                return said;
            }
            "gate" => {
                let gate = self.world.replica().gate().clone();
                let open = if gate.is_open() { "open" } else { "closed" };
                let published = if gate.is_published() { ", published" } else { "" };
                return format!(
                    "  {open} at term {}, committed {} applied {}{published}\n",
                    gate.term(),
                    gate.committed(),
                    gate.applied()
                );
            }
            "files" => {
                return self.world.files.names().iter().fold(said, |said, name| format!("{said}  {name}\n"));
            }
            "turn" => {}
            _ => panic!("{command} is no command"),
        }
        said + &self.turn()
    }
}

#[test]
fn transcripts() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/replica/testdata");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut script = Script { world: World::new(1), shown: 0 };
        let mut out = String::new();
        for line in text.lines().filter(|line| !line.starts_with("  ")) {
            writeln!(out, "{line}").unwrap();
            if !line.is_empty() && !line.starts_with('#') {
                out.push_str(&script.run(line));
            }
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, &out).unwrap();
        } else {
            assert_eq!(text, out, "{}", file.display());
        }
    }
}

/// A life with puts, checkpoints and crashes, everything in an order that the seed decides. Returns what happened,
/// for comparing two runs.
fn random_life(seed: u64) -> String {
    let prng = &mut Prng::new(seed);
    let mut world = World::new(seed);
    world.segment_bytes = 16 * 1024;
    let mut trace = String::new();
    // What each key may read: the last acknowledged value, and those proposed since.
    let mut allowed: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    let mut open: BTreeMap<u64, (String, String)> = BTreeMap::new();
    let mut highest = 0;

    world.start().unwrap();
    for _ in 0..200 {
        match prng.below(20) {
            0..8 => {
                let key = format!("k{}", prng.below(6));
                let value = format!("{}-{}", world.next_id, "x".repeat(prng.below(2000) as usize));
                let ticket = world.put(&key, &value);
                allowed.entry(key.clone()).or_insert_with(|| vec![None]).push(Some(value.clone()));
                open.insert(ticket, (key, value));
            }
            8..12 => {
                world.sync();
            }
            12..14 => {
                world.now = world.now + TICK;
                world.step(Input::Tick);
            }
            14 => world.now = world.now + Duration::from_secs(prng.below(7)),
            15 => {
                world.finish_checkpoint();
            }
            16 if prng.chance(1, 3) => {
                let crash = if prng.chance(1, 2) { Crash::Clean } else { Crash::Torn(prng.next_u64()) };
                world.crash(crash);
                let said = world.start().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                writeln!(trace, "{said}").unwrap();
                open.clear();
                world.settle(|_| {});
                let revision = world.replica().applied().revision;
                assert!(revision >= highest, "seed {seed}: the revision went back to {revision}");
                for (key, values) in &mut allowed {
                    let value = world.get(key);
                    assert!(
                        values.contains(&value),
                        "seed {seed}: {key} lost its value, or never had this one"
                    );
                    // Whatever is there now is durable: nothing older may come back.
                    *values = vec![value];
                }
            }
            _ => {}
        }
        let mut answered = Vec::new();
        world.drain(|output| match output {
            Output::Reply { ticket, result } => {
                let response = result.as_ref().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                answered.push((ticket.0, response.revision()));
            }
            Output::AppendWal { ready, write } => {
                writeln!(trace, "write {ready} {} {}", write.offset, write.bytes.len()).unwrap();
            }
            _ => {}
        });
        for (ticket, revision) in answered {
            assert!(revision > highest, "seed {seed}: revisions grow");
            highest = revision;
            let (key, value) = open.remove(&(ticket as u64)).expect("one answer for each ticket");
            let values = allowed.get_mut(&key).expect("a key that was put");
            let at =
                values.iter().position(|known| known.as_ref() == Some(&value)).expect("a value proposed");
            values.drain(..at);
            let value = world.get(&key);
            assert!(values.contains(&value), "seed {seed}: {key} is answered before it is published");
            writeln!(trace, "reply {ticket} {revision}").unwrap();
        }
    }
    trace
}

#[test]
fn acknowledged_puts_survive_crashes() {
    for seed in 0..150 {
        random_life(seed);
    }
}

#[test]
fn the_same_seed_lives_the_same_life() {
    for seed in 0..10 {
        assert_eq!(random_life(seed), random_life(seed));
    }
}

const MANY: usize = 5_000;

fn many_puts() -> Request {
    let put = |number: usize| {
        let (key, value) = (format!("key{number:05}").into(), "value".into());
        RequestOp { request: Some(Op::RequestPut(PutRequest { key, value, ..Default::default() })) }
    };
    Request::Txn(TxnRequest { success: (0..MANY).map(put).collect(), ..Default::default() })
}

fn delete_all() -> Request {
    let all = || Bytes::from_static(b"\0");
    Request::DeleteRange(DeleteRangeRequest { key: all(), range_end: all(), prev_kv: true })
}

/// Turns until the entry under way has begun and is suspended.
fn suspend(world: &mut World) {
    while !world.replica().is_suspended() {
        world.drain(|_| ());
        world.sync();
    }
}

#[test]
fn an_entry_of_many_keys_takes_many_turns_and_shows_at_its_end() {
    let mut world = World::new(1);
    world.start().unwrap();
    world.settle(|_| ());
    for (request, before, after) in
        [(many_puts(), None, Some("value".to_owned())), (delete_all(), Some("value".to_owned()), None)]
    {
        let id = world.propose(request);
        suspend(&mut world);
        let applied = world.replica().applied();
        let later = world.put("later", "x");
        let (mut turns, mut logged, mut replies) = (1, false, Vec::new());
        while world.replica().is_suspended() {
            assert_eq!((world.get("key00000"), world.get("key04999")), (before.clone(), before.clone()));
            assert_eq!(world.replica().applied(), applied, "an entry that is not complete was published");
            assert!(replies.is_empty(), "an answer came before its entry was published");
            world.step(Input::Tick);
            world.finish_checkpoint();
            let more = world.drain(|output| match output {
                Output::AppendWal { .. } => logged = true,
                Output::Reply { ticket, .. } => replies.push(ticket.0 as u64),
                Output::WriteCheckpoint(_) => panic!("a checkpoint began in the middle of an entry"),
                _ => {}
            });
            assert!(more || !world.replica().is_suspended(), "nobody would call again");
            turns += 1;
        }
        assert!(turns >= MANY * CHANGE_COST / APPLY_BUDGET, "{turns} turns");
        assert!(logged, "the log waited for the entry");
        assert_eq!(world.get("key04999"), after);
        world.settle(|output| {
            if let Output::Reply { ticket, .. } = output {
                replies.push(ticket.0 as u64);
            }
        });
        assert_eq!(replies, [id, later]);
        let (index, revision) = (world.replica().applied().index, world.replica().applied().revision);
        assert_eq!((index, revision), (applied.index + 2, applied.revision + 2));
    }
}

/// A member with 200 keys that hold 12 MB, and the entry that keeps the values of all.
fn copying(world: &mut World) -> Request {
    let key = |number: usize| format!("key{number:03}");
    world.start().unwrap();
    world.replica().spill.set_bound(1 << 20);
    for number in 0..200 {
        world.put(&key(number), &"v".repeat(60_000));
    }
    world.settle(|_| ());
    let keep = |number: usize| {
        let put = PutRequest { key: key(number).into(), ignore_value: true, ..Default::default() };
        RequestOp { request: Some(Op::RequestPut(put)) }
    };
    Request::Txn(TxnRequest { success: (0..200).map(keep).collect(), ..Default::default() })
}

#[test]
fn an_entry_that_copies_much_keeps_little_in_memory() {
    let mut world = World::new(4);
    let request = copying(&mut world);
    world.propose(request);
    suspend(&mut world);
    let revision = world.replica().applied().revision;
    let dirty = world.replica().store_stats().dirty_bytes;
    let (mut most, mut spills) = (0, 0);
    while world.replica().is_suspended() {
        most = most.max(world.replica().store.draft_bytes());
        let more = world.drain(|_| ());
        if let Some(job) = &world.checkpoint {
            assert!(job.is_spill(), "a checkpoint began in the middle of an entry");
            spills += 1;
            assert!(!more, "nothing can be done while the pages are being written");
            assert_eq!(world.replica().applied().revision, revision, "a part of an entry was published");
        }
        world.finish_checkpoint();
    }
    assert!(spills >= 3, "{spills} spills");
    // A slice takes 6 MB, which are copied twice.
    assert!(most < 5 << 20, "{most} bytes were in memory");
    assert!(
        world.replica().store_stats().dirty_bytes < dirty + (5 << 20),
        "what was spilled is written again"
    );
    world.replica().store.check_invariants();
    let kept = "v".repeat(60_000);
    assert_eq!(world.get("key199").as_ref(), Some(&kept));
    world.settle(|_| ());
    world.crash(Crash::Clean);
    world.start().unwrap();
    world.settle(|_| ());
    assert_eq!((world.get("key000"), world.get("key199")), (Some(kept.clone()), Some(kept)));
    assert_eq!(world.replica().applied().revision, revision + 1);
    world.replica().store.check_invariants();
}

#[test]
fn an_entry_whose_pages_the_disk_refuses_is_applied_in_memory() {
    let mut world = World::new(5);
    let request = copying(&mut world);
    world.propose(request);
    let revision = world.replica().applied().revision;
    let mut refused = 0;
    while world.replica().applied().revision == revision {
        world.drain(|_| ());
        world.sync();
        // The job is not executed.
        if let Some(job) = world.checkpoint.take() {
            refused += 1;
            world.step(Input::CheckpointSynced { generation: job.generation() });
        }
    }
    assert!((1..=4).contains(&refused), "asked {refused} times");
    assert_eq!(world.get("key199"), Some("v".repeat(60_000)));
    world.replica().store.check_invariants();
}

#[test]
fn an_entry_that_cannot_be_applied_stops_the_member_behind_those_before_it() {
    let mut world = World::new(6);
    world.start().unwrap();
    world.settle(|_| ());
    let before = world.put("before", "x");
    // An AuthEnable, which is not built.
    let entry = Bytes::from_static(&[0xc2, 0x3e, 0x00]);
    world.step(Input::Propose { ticket: Ticket(1 << 40), id: 1 << 40, entry });
    world.put("after", "y");
    let (mut said, mut replies) = (Vec::new(), Vec::new());
    world.settle(|output| match output {
        Output::Halt { reason } => said.push(reason.clone()),
        Output::Reply { ticket, .. } => replies.push(ticket.0 as u64),
        _ => {}
    });
    assert_eq!(replies, [before]);
    assert!(said.len() == 1 && said[0].contains("start the member with that version"), "{said:?}");
    assert_eq!((world.get("before"), world.get("after")), (Some("x".into()), None));
    assert!(world.replica().settle(&mut Outputs::default()), "it can be stopped in order");
}

#[test]
fn a_crash_in_the_middle_of_an_entry_costs_nothing() {
    let mut world = World::new(2);
    world.start().unwrap();
    world.settle(|_| ());
    for (request, after) in [(many_puts(), Some("value".to_owned())), (delete_all(), None)] {
        world.propose(request);
        suspend(&mut world);
        let revision = world.replica().applied().revision;
        world.crash(Crash::Clean);
        world.start().unwrap();
        world.settle(|_| ());
        assert_eq!((world.get("key00000"), world.get("key04999")), (after.clone(), after));
        assert_eq!(world.replica().applied().revision, revision + 1);
    }
}

#[test]
fn the_hash_of_a_compaction_begins_at_the_one_before_also_within_a_turn() {
    let mut world = World::new(3);
    world.start().unwrap();
    world.settle(|_| ());
    for value in ["a", "b", "c", "d", "e"] {
        world.put("key", value);
    }
    world.settle(|_| ());
    for revision in [3, 5] {
        world.propose(Request::Compaction(CompactionRequest { revision, physical: false }));
    }
    world.settle(|_| ());
    let hashes = world.replica().compaction_hashes();
    let begins = [3, 5].map(|revision| hashes.get(revision, 0).map(|hash| hash.compact_revision));
    assert_eq!(begins, [Some(-1), Some(3)]);
}
