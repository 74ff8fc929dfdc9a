//! Plays a file of `testdata`: each line is a command, and what the member says to it follows, indented.
//!
//! A `log` line shows a write on its way; nothing after it in raft's order may have left before it is `synced`.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::world::{Crash, TICK, World};
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, LeaseCheckpoint, LeaseCheckpointRequest,
    LeaseGrantRequest,
};
use crate::replica::port::{Input, LeaseCall, Output, Outputs, Ticket};
use crate::request::{Entry, Request};
use crate::response::Response;
use crate::stdx::transcript::play as play_file;
use crate::wal::Write;
use crate::wal::record::{Frame, Kind, SnapshotMark, decode_entry, decode_state, read_frame};

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
            Output::AskPromotion { ticket, id } => {
                format!("ask about the promotion of {id:x} for {}", ticket.0)
            }
            Output::Removed => "removed".to_owned(),
            Output::AskLessor { leader, ticket, .. } => format!("ask {leader:x} for {}", ticket.0),
            Output::SendSnapshot { to, .. } => format!("send a snapshot to {to:x}"),
            Output::PlaceSnapshot => "place the snapshot".into(),
            Output::RefuseSnapshot(arrival) => format!("refuse the snapshot up to {}", arrival.index()),
            Output::Installed { revision, .. } => format!("installed at revision {revision}"),
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
            Output::Unsound { from, why } => format!("{from:x} has sent {why}"),
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

/// Plays the transcript `name`; with `UPDATE` in the environment, writes the answers anew.
pub(super) fn play(name: &str) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/replica/testdata");
    let file = folder.join(format!("{name}.txt"));
    let mut script = Script { world: World::new(1), shown: 0 };
    play_file(&file, |line| script.run(line));
}
