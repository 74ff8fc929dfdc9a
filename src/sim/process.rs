//! The process and its disk: log writes, checkpoints, compactions' hashes, crashes and starts.
#![forbid(unsafe_code)]

use super::disk::SECTOR_BYTES;
use super::judge::judge;
use super::log_disk::By;
use super::member::{Boot, Member};
use super::model::Answer;
use super::params::Rot;
use super::plant::Plant;
use super::world::{Event, TICK, World};
use kevel::replica::port::Input;
use kevel::stdx::time::{Duration, Instant};

impl World {
    /// The judge reads what goes to the disk.
    pub fn judge_write(&mut self, write: &kevel::wal::Write) {
        for at in self.judge.on_write(write) {
            let Some(request) = &self.judge.history[at].request else { continue };
            let id = request.header.as_ref().map_or(0, |header| header.id);
            if let Ok(Answer::LeaseGrant(granted)) = self.judge.answer(at) {
                self.leases.on_granted(self.now, granted.id, id, granted.ttl);
            }
            if id.is_multiple_of(2) {
                self.check_own_alarm(at);
            }
            for checkpoint in request.lease_checkpoint.iter().flat_map(|request| &request.checkpoints) {
                self.leases.on_checkpoint(checkpoint.id, checkpoint.remaining_ttl);
            }
            if request.alarm.is_some() && !self.judge.model.is_corrupt() {
                self.leases.on_alarm_cleared(self.now);
            }
            if let Some(revoke) = request.lease_revoke.as_ref().filter(|_| self.judge.answer(at).is_ok()) {
                let expired = !self.clients.iter().any(|client| client.asked(id));
                self.tally.expired_leases += u64::from(expired);
                self.leases.on_revoked(self.now, revoke.id, expired);
            }
        }
    }

    /// Begins the log write whose turn it is, if none is on its way.
    pub fn write_next(&mut self) {
        let begins = |write: &Option<kevel::wal::Write>| write.as_ref().map(|write| write.create);
        let Some(creates) = self.member().writes.front().and_then(|(.., write)| begins(write)) else {
            return;
        };
        let prepared = if creates { self.take_prepared() } else { None };
        if creates && prepared.is_none() {
            return;
        }
        if let Some((ready, _, write)) = self.member().writes.front_mut()
            && let Some(write) = write.take()
        {
            let ready = *ready;
            // The blocks behind the last record are zeros.
            let sectors = write.bytes.iter().rposition(|&byte| byte != 0).unwrap_or(0) / SECTOR_BYTES;
            self.disk.begin_write(write, prepared);
            let time = self.some(self.params.write_time);
            let one_in = if creates || sectors > 0 { 12 } else { 100 };
            self.plan_crash_amid(one_in, time);
            self.schedule(time, Event::WalDone { ready, took: time });
        }
    }

    /// Sometimes the process dies while the disk writes, more often where a segment begins, or a record may be torn.
    fn plan_crash_amid(&mut self, one_in: u64, time: Duration) {
        if self.crashes_left > 0 && self.prng.chance(1, one_in) {
            let after = self.some(time);
            self.schedule(after, Event::Crash);
        }
    }

    pub fn on_wal_done(&mut self, ready: u64, took: Duration) {
        self.trace.step(self.now, &[5, ready], format_args!("log write {ready} is done"));
        self.disk.finish_write();
        let (_, covers, _) = self.member().writes.pop_front().expect("a log write was on its way");
        (self.judge.durable, self.judge.marked) = covers;
        if self.plant != Some(Plant::EarlySync) {
            self.send(Input::WalSynced { ready, buffer: Vec::new(), took });
        }
        self.write_next();
    }

    pub fn schedule_digest(&mut self) {
        let time = self.some(Duration::from_millis(5));
        self.schedule(time, Event::Digest);
    }

    /// One leg of a compaction's hash.
    pub fn digest(&mut self) {
        let budget = 1 + self.prng.below(40) as usize;
        let job = self.member().digest.as_mut().expect("a hash is being taken");
        let hash = job.step(budget).expect("a store whose records can be read");
        let Some(hash) = hash else { return self.schedule_digest() };
        self.member().digest = None;
        self.trace.step(self.now, &[12], format_args!("digested {hash:?}"));
        let (revision, previous) = (hash.hash_revision, hash.compact_revision);
        let before = self.judge.model.compactions.range(..revision).next_back().copied().unwrap_or(-1);
        judge!(
            previous == before,
            "the hash of compaction {revision} begins at {previous}, and the one before was to {before}"
        );
        let expected = self.judge.model.compaction_hash(revision, previous);
        judge!(
            hash.hash == expected,
            "the hash of compaction {previous} to {revision} is {expected:x}, not {:x}",
            hash.hash
        );
        self.member().digested.insert(revision, hash.hash);
        if !self.spoils(Plant::DigestLost, 4) {
            self.send(Input::CompactionDigested { hash: Ok(hash) });
        }
    }

    pub fn execute_checkpoint(&mut self) {
        let file = self.disk.store_file();
        let Some(job) = self.member().checkpoint.take() else { return };
        // Pages of an entry under way stay in memory where the disk has no room for them.
        match job.execute().or_else(|error| if job.is_spill() { Ok(()) } else { Err(error) }) {
            Ok(()) => {
                let generation = job.generation();
                if self.plant == Some(Plant::EarlyCheckpoint) {
                    self.send(Input::CheckpointSynced { generation });
                }
                let time = self.some(Duration::from_millis(50));
                self.schedule(time, Event::CheckpointDone { generation });
            }
            Err(error) => {
                self.trace.step(self.now, &[6], format_args!("checkpoint: {error}"));
                // Most often it is full for one attempt.
                file.set_full(self.prng.chance(1, 4));
                self.member().checkpoint = Some(job);
                self.send(Input::CheckpointRefused);
                let time = self.some(Duration::from_millis(500));
                self.schedule(time, Event::DiskFreed);
            }
        }
    }

    /// The file of a checkpoint that is done: every page is reached once or free, and it holds a state that was.
    pub fn check_store_file(&mut self) {
        let report = match kevel::page::check::check(&*self.disk.store_file(), kevel::btree::Tree::NAMES) {
            Ok(report) => report,
            Err(error) => return judge!(self.rotten, "the store file cannot be checked: {error}"),
        };
        judge!(report.is_sound() || self.rotten, "the store file: {report}");
        let applied = report.applied;
        judge!(applied.index <= self.judge.durable, "the store file holds entry {}", applied.index);
        let state = self.judge.state(applied.index);
        judge!(
            self.rotten
                || applied.index == 0
                || (applied.revision, applied.compact_revision) == (state.revision, state.compacted),
            "the store file holds {applied:?}, not {state:?}"
        );
    }

    pub fn crash(&mut self) {
        if self.crashes_left == 0 || self.member.is_none() {
            return;
        }
        self.crashes_left -= 1;
        self.tally.crashes += 1;
        let midway = self.member().replica.is_suspended();
        self.tally.crashes_midway += u64::from(midway);
        let power = self.prng.chance(2, 3);
        self.trace.step(self.now, &[7, u64::from(power)], format_args!("crash, power lost: {power}"));
        self.end_process();
        self.disk.crash(power);
        if self.crashes_left == 0
            && let Some(rot) = self.params.rot
        {
            let place = match rot {
                Rot::Log => self.disk.rot_log(),
                Rot::Store => self.disk.rot_store(),
            };
            self.rotten = place.is_some();
            let line = format_args!("{rot:?} rots: {place:?}");
            self.trace.step(self.now, &[8, u64::from(self.rotten)], line);
        }
        let time = self.some(Duration::from_millis(3_000));
        self.schedule(time, Event::Boot);
    }

    pub fn end_process(&mut self) {
        self.member = None;
        self.readings.clear();
        self.leads_since = None;
        self.leases.on_crash();
        self.life += 1;
        self.lanes.fill(Instant::default());
        self.inputs_on_the_way = 0;
        for client in &mut self.clients {
            client.disconnect();
        }
    }

    pub fn boot(&mut self) {
        self.trace.step(self.now, &[9], format_args!("boot"));
        let durable = self.judge.durable;
        if self.life > 0 && self.prng.chance(1, 3) {
            self.quota = self.quota.map(|quota| quota * 2).filter(|_| self.prng.chance(3, 4));
        }
        match Member::boot(self) {
            Boot::Running(member) => self.member = Some(*member),
            Boot::Refused(why) => {
                self.trace.step(self.now, &[10], format_args!("refused: {why}"));
                judge!(self.rotten, "the member does not start: {why}");
                self.refused = true;
                return;
            }
        }
        if self.life > 0 && self.crashes_left > 0 && self.prng.chance(1, 20) {
            // The start dies half-way, and nobody has been served.
            self.judge.durable = durable;
            return self.crash();
        }
        self.disk.folder(By::Start).told(By::Start);
        self.prepare_segment();
        self.schedule(TICK, Event::Tick);
        self.wake_replica();
        if self.life > 0 {
            for number in 0..self.clients.len() {
                let pause = self.some(Duration::from_millis(2_000));
                self.schedule(pause, Event::Client(number));
            }
            self.plan_crash();
        }
    }
}
