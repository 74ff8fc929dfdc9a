//! What a member's process has its disk do: log writes, checkpoints, and the hash of a compaction at leisure.
#![forbid(unsafe_code)]

use super::super::plant::Plant;
use super::super::world::TICK;
use super::world::{Event, World};
use kevel::page::CheckpointJob;
use kevel::replica::port::Input;
use kevel::stdx::time::Duration;
use kevel::wal;

impl World {
    /// Whether log writes of a member count as durable before they are, by a planted bug.
    fn syncs_early(&self, number: usize) -> bool {
        match self.plant {
            Some(Plant::ClusterAnswerEarly) => true,
            Some(Plant::ClusterAloneUnsynced) => {
                let life = self.nodes[number].life.as_ref();
                life.is_some_and(|life| life.replica.cluster().voters().count() == 1)
            }
            _ => false,
        }
    }

    /// A write to the log of a member.
    pub(super) fn append(&mut self, number: usize, life: u64, ready: u64, write: wal::Write) {
        self.trace.bytes(&write.bytes);
        let is_early = self.syncs_early(number);
        let Some(running) = self.life(number, life) else { return };
        if is_early {
            running.replica.step(Input::WalSynced { ready, buffer: Vec::new(), took: Duration::ZERO });
        }
        running.writes.push_back((ready, Some(write), is_early));
        self.write_next(number);
        if is_early {
            self.turn_soon(number);
        }
    }

    /// Begins the log write whose turn it is, if none is on its way.
    fn write_next(&mut self, number: usize) {
        let time = self.some(self.params.write_time);
        let node = &mut self.nodes[number];
        let Some(life) = &mut node.life else { return };
        let Some(write) = life.writes.front_mut().and_then(|(_, write, _)| write.take()) else { return };
        let prepared = if write.create { life.preparer.take(&node.disk, &mut self.prng) } else { None };
        life.preparer.prepare(&node.disk);
        node.disk.begin_write(write, prepared);
        let life = life.number;
        self.plan(time, Event::Written(number, life));
    }

    /// The disk is done with a log write.
    pub(super) fn written(&mut self, number: usize, life: u64) {
        if self.life(number, life).is_none() {
            return;
        }
        if self.nodes[number].paused {
            return self.plan(TICK, Event::Written(number, life));
        }
        let node = &mut self.nodes[number];
        node.disk.finish_write();
        let Some(running) = &mut node.life else { return };
        let (ready, _, is_told) = running.writes.pop_front().expect("a write that was begun");
        if !is_told {
            running.replica.step(Input::WalSynced { ready, buffer: Vec::new(), took: Duration::ZERO });
        }
        self.write_next(number);
        self.turn_soon(number);
    }

    /// The store file is written. What was written may not have come to the disk before this is over.
    pub(super) fn begin_checkpoint(&mut self, number: usize, life: u64, job: &CheckpointJob) {
        let time = self.some(Duration::from_millis(100));
        let generation = job.generation();
        job.execute().expect("a disk with room");
        let line = format_args!("{number} begins checkpoint {generation} of entry {}", job.applied_index());
        self.trace.step(self.now, &[23, number as u64, generation, job.applied_index()], line);
        let is_early = self.plant == Some(Plant::ClusterCheckpointEarly);
        let time = if is_early { time + Duration::from_secs(2) } else { time };
        let Some(running) = self.life(number, life) else { return };
        if is_early {
            running.replica.step(Input::CheckpointSynced { generation });
        }
        self.tally.checkpoints += 1;
        self.die_amid(number, 60, time * 2);
        self.plan(time, Event::Checkpointed(number, life, generation));
    }

    /// A checkpoint is durable.
    pub(super) fn checkpointed(&mut self, number: usize, life: u64, generation: u64) {
        if self.life(number, life).is_none() {
            return;
        }
        if self.nodes[number].paused {
            return self.plan(TICK, Event::Checkpointed(number, life, generation));
        }
        self.nodes[number].disk.store_file().settle();
        let is_told = self.plant == Some(Plant::ClusterCheckpointEarly);
        let Some(running) = self.life(number, life) else { return };
        if !is_told {
            running.replica.step(Input::CheckpointSynced { generation });
        }
        self.turn_soon(number);
    }

    /// A slice of a compaction's hash.
    pub(super) fn digest(&mut self, number: usize, life: u64) {
        let budget = 1 + self.prng.below(40) as usize;
        let late = self.some(Duration::from_millis(5));
        let is_paused = self.nodes[number].paused;
        let Some(running) = self.life(number, life) else { return };
        let Some(job) = running.digest.as_mut() else { return };
        if is_paused {
            return self.plan(TICK, Event::Digest(number, life));
        }
        let Some(hash) = job.step(budget).expect("a store whose records can be read") else {
            return self.plan(late, Event::Digest(number, life));
        };
        running.digest = None;
        running.replica.step(Input::CompactionDigested { hash: Ok(hash) });
        self.judge.on_digest(number, hash);
        self.turn_soon(number);
    }
}
