//! A member with files in memory, and a world that does what the member wants done when a test says so.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use crate::btree::{Read, Store};
use crate::cluster::reconfig::Rules;
use crate::mvcc::compact_hash::CompactionDigest;
use crate::mvcc::pin::Pins;
use crate::mvcc::view::View;
use crate::page::{CheckpointJob, MemoryFile};
use crate::proto::etcdserverpb::PutRequest;
use crate::replica::bootstrap::Foundation;
use crate::replica::port::{Input, Output, Outputs, Ticket};
use crate::replica::{Opening, Replica, Settings};
use crate::request::{Entry, Request};
use crate::stdx::prng::Prng;
use crate::stdx::time::{Duration, Instant};
use crate::wal::fuzz::Files;
use crate::wal::{Metadata, Write};

pub(super) const TICK: Duration = Duration::from_millis(100);

/// A member, its disk, and what it has asked the world to do.
pub(super) struct World {
    pub(super) replica: Option<Replica>,
    pub(super) files: Files,
    pub(super) store: Arc<MemoryFile>,
    pub(super) now: Instant,
    pub(super) writes: VecDeque<(u64, Write)>,
    pub(super) checkpoint: Option<CheckpointJob>,
    pub(super) digest: Option<Box<CompactionDigest>>,
    pub(super) next_id: u64,
    pub(super) segment_bytes: u64,
    pub(super) quota_bytes: Option<u64>,
    pub(super) seed: u64,
}

/// A world's disk after a crash may have part of the last write.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Crash {
    /// Nothing that was not synced is there.
    Clean,
    /// Some sectors of the write that was on its way are there.
    Torn(u64),
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
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

    pub(super) fn settings(&self, member_id: u64) -> Settings {
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
            asks_versions: false,
            rules: Rules::default(),
            request_ids: (1 << 32, 1),
            seed: self.seed,
        }
    }

    /// Starts the member on what the disk has. Says what recovery found.
    pub(super) fn start(&mut self) -> Result<String, String> {
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
    pub(super) fn crash(&mut self, crash: Crash) {
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

    pub(super) fn replica(&mut self) -> &mut Replica {
        self.replica.as_mut().expect("a member that runs")
    }

    pub(super) fn step(&mut self, input: Input) {
        self.replica().step(input);
    }

    /// Ends a turn. Writes and checkpoints are kept, the rest is handed to `each`.
    pub(super) fn drain(&mut self, mut each: impl FnMut(&Output)) -> bool {
        let now = self.now;
        let mut outputs = Outputs::default();
        let more = self.replica().drain(now, &mut outputs);
        for output in outputs {
            each(&output);
            self.keep(output);
        }
        more
    }

    pub(super) fn keep(&mut self, output: Output) {
        match output {
            Output::AppendWal { ready, write } => self.writes.push_back((ready, write)),
            Output::WriteCheckpoint(job) => self.checkpoint = Some(job),
            Output::DigestCompaction(job) => self.digest = Some(job),
            Output::ReleaseWal { segments } => self.files.release(segments.len()),
            _ => {}
        }
    }

    /// The oldest write becomes durable.
    pub(super) fn sync(&mut self) -> bool {
        let Some((ready, write)) = self.writes.pop_front() else { return false };
        self.files.write(&write);
        self.step(Input::WalSynced { ready, buffer: write.bytes, took: Duration::ZERO });
        true
    }

    /// The checkpoint under way becomes durable.
    pub(super) fn finish_checkpoint(&mut self) -> bool {
        let Some(job) = self.checkpoint.take() else { return false };
        job.execute().expect("a file in memory never fails");
        self.step(Input::CheckpointSynced { generation: job.generation() });
        true
    }

    /// The compaction's hash is there.
    pub(super) fn finish_digest(&mut self) -> bool {
        let Some(mut job) = self.digest.take() else { return false };
        let hash = loop {
            if let Some(hash) = job.step(2).transpose() {
                break hash;
            }
        };
        self.step(Input::CompactionDigested { hash });
        true
    }

    pub(super) fn propose(&mut self, request: Request) -> u64 {
        self.next_id += 1;
        let id = self.next_id;
        let entry = Entry::new(id, request).encode();
        self.step(Input::Propose { ticket: Ticket(id.into()), id, entry });
        id
    }

    pub(super) fn put(&mut self, key: &str, value: &str) -> u64 {
        let request =
            PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
        self.propose(Request::Put(request))
    }

    /// What a client of the newest snapshot reads.
    pub(super) fn get(&mut self, key: &str) -> Option<String> {
        let mut reader = self.replica().readers().register();
        let snapshot = reader.snapshot();
        let view = View::new(&snapshot);
        let found = view.value_at(key.as_bytes(), snapshot.applied().revision).unwrap()?;
        let kv: crate::proto::mvccpb::KeyValue = prost::Message::decode(found).unwrap();
        Some(String::from_utf8_lossy(&kv.value).into_owned())
    }

    /// Turns until nothing is left to do: a world in which everything works.
    pub(super) fn settle(&mut self, mut each: impl FnMut(&Output)) {
        while self.drain(&mut each) | self.sync() | self.finish_checkpoint() | self.finish_digest() {}
    }
}
