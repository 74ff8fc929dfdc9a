//! The world of one run: a clock, a disk, a member that comes and goes, and its clients.
//!
//! Everything happens at an instant of the virtual clock, taken from one queue. Lanes between cores keep their order
//! and take random time; a turn of the replica takes whatever has arrived, or less; a crash comes at any instant, or
//! between two outputs of a turn. The member is the real one: replica, store, log, hubs.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::check_lease::Leases;
use super::client::Client;
use super::closing::Closing;
use super::disk::Disk;
use super::judge::{Judge, judge};
use super::log_disk::By;
use super::member::Member;
use super::params::Params;
use super::plant::Plant;
use super::quota::Fullness;
use super::reading::Reading;
use super::spoil::{nothing_at, spoil_midway, spoil_order};
use super::trace::{Trace, show_input, show_output};
use super::workload::Workload;
use kevel::replica::port::{Input, Output};
use kevel::session::{FromReplica, core_of};
use kevel::stdx::prng::Prng;
use kevel::stdx::time::{Duration, Instant};

/// One raft tick.
pub const TICK: Duration = Duration::from_millis(100);

/// When nobody has asked for anything for so long, the end begins.
const CALM: Duration = Duration::from_secs(4);

/// Who is not served then is never served.
const PATIENCE: Duration = Duration::from_secs(160);

/// What happens next.
pub enum Event {
    Tick,
    /// An input has come through its lane.
    Arrive(Input),
    /// The replica takes what has arrived.
    Turn,
    WalDone {
        ready: u64,
        took: Duration,
    },
    CheckpointDone {
        generation: u64,
    },
    /// There is time for a leg of a compaction's hash.
    Digest,
    /// A message has come through the lane of a session core.
    Message(usize, FromReplica),
    /// A session core takes what has come, and works for its watchers.
    SessionTurn(usize),
    /// There is time for a leg of a long answer.
    Leg(u64),
    /// A client makes a request.
    Client(usize),
    /// A client takes the next response from its watch stream.
    Take(usize),
    /// The transport tells the hub how much room a client's stream has.
    Window(usize),
    /// The next step of the drill at the end.
    Close,
    Crash,
    Boot,
    /// There is room on the disk again.
    DiskFreed,
    /// The thread that prepares segments wakes up.
    Prepare,
    /// It is done with a file, or has failed.
    Prepared,
    /// There is room for segments again.
    LogDiskFreed,
}

struct Scheduled {
    at: Instant,
    number: u64,
    /// Events of a process are void when it is gone.
    life: u32,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Counts of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub requests: u64,
    pub replies: u64,
    pub reads: u64,
    /// Requests that were refused or timed out.
    pub given_up: u64,
    pub readings: u64,
    pub lost_batches: u64,
    pub events: u64,
    /// Watch responses that came in parts.
    pub pieced: u64,
    pub progress: u64,
    pub crashes: u64,
    /// Crashes in the middle of an entry.
    pub crashes_midway: u64,
    pub expired_leases: u64,
    pub checkpoints: u64,
    /// Snapshots that came to other members, and those that took the place of a store.
    pub snapshots: u64,
    pub installed: u64,
    /// Clients that went away.
    pub left: u64,
    /// How long the world has lasted, by its own clock.
    pub seconds: u64,
}

impl Tally {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Tally) {
        self.requests += other.requests;
        self.replies += other.replies;
        self.reads += other.reads;
        self.given_up += other.given_up;
        self.readings += other.readings;
        self.lost_batches += other.lost_batches;
        self.events += other.events;
        self.pieced += other.pieced;
        self.progress += other.progress;
        self.crashes += other.crashes;
        self.crashes_midway += other.crashes_midway;
        self.expired_leases += other.expired_leases;
        self.checkpoints += other.checkpoints;
        self.snapshots += other.snapshots;
        self.installed += other.installed;
        self.left += other.left;
        self.seconds += other.seconds;
    }
}

/// The world.
pub struct World {
    pub now: Instant,
    pub params: Params,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    /// Which life of the process this is.
    pub life: u32,
    pub prng: Prng,
    pub disk: Disk,
    pub judge: Judge,
    pub leases: Leases,
    pub workload: Workload,
    pub trace: Trace,
    pub tally: Tally,
    pub plant: Option<Plant>,
    pub member: Option<Member>,
    pub clients: Vec<Client>,
    /// Long answers under way.
    pub readings: BTreeMap<u64, Reading>,
    /// What the running process was told of its quota, and what is known of the space it has.
    pub quota: Option<u64>,
    pub fullness: Fullness,
    pub closing: Closing,
    pub requests_left: u32,
    pub crashes_left: u32,
    /// The disk has spoiled what it held.
    pub rotten: bool,
    /// The member refused to serve from a rotten disk.
    pub refused: bool,
    /// Records of leases that the store once held.
    pub old_leases: Vec<(Vec<u8>, Vec<u8>)>,
    /// Records of alarms that it once held.
    pub old_alarms: Vec<(Vec<u8>, Vec<u8>)>,
    /// Somebody looks at one state of the store, and everything goes on meanwhile.
    pub is_watched: bool,
    /// When the running process leads, and leases run.
    pub leads_since: Option<Instant>,
    /// Last arrivals: to the replica, then to each session core.
    pub lanes: Vec<Instant>,
    /// Inputs in the lane to the replica.
    pub inputs_on_the_way: usize,
}

impl World {
    /// A world that is a function of its seed, the planted bug, and nothing else.
    pub fn new(seed: u64, plant: Option<Plant>, verbose: bool) -> Self {
        let mut prng = Prng::new(seed);
        let params = Params::draw(&mut prng.fork());
        let disk = Disk::new(prng.fork(), plant);
        let workload = Workload::new(prng.fork(), params.mix.clone());
        let clients = (0..params.clients).map(|number| Client::new(number % params.cores)).collect();
        Self {
            now: Instant::from_nanos(1_000_000_000),
            queue: BinaryHeap::new(),
            scheduled: 0,
            life: 0,
            prng,
            disk,
            judge: Judge::default(),
            leases: Leases::default(),
            workload,
            trace: Trace::new(verbose),
            tally: Tally::default(),
            plant,
            member: None,
            clients,
            readings: BTreeMap::new(),
            quota: params.quota,
            fullness: Fullness::default(),
            closing: Closing::Before,
            requests_left: params.requests,
            crashes_left: params.crashes + u32::from(params.rot.is_some()),
            rotten: false,
            refused: false,
            old_leases: vec![],
            old_alarms: vec![],
            is_watched: false,
            leads_since: None,
            lanes: vec![Instant::default(); 1 + params.cores],
            inputs_on_the_way: 0,
            params,
        }
    }

    /// Runs to the end.
    pub fn run(&mut self) {
        self.boot();
        for number in 0..self.clients.len() {
            self.schedule(Duration::from_millis(10), Event::Client(number));
        }
        self.plan_crash();
        let mut calm_since = None;
        while let Some(Reverse(next)) = self.queue.pop() {
            if next.life != self.life {
                continue;
            }
            self.now = next.at;
            self.handle(next.event);
            if self.refused {
                return;
            }
            let calm = self.requests_left == 0 && self.crashes_left == 0 && self.member.is_some();
            let since = *calm_since.get_or_insert(self.now);
            if !calm {
                calm_since = None;
            } else if self.closing == Closing::Before && self.now.since(since) > CALM {
                self.close_down();
            } else if self.closing == Closing::Done && self.is_settled() {
                self.conclude();
                return;
            } else if self.now.since(since) > CALM + PATIENCE {
                let waiting: Vec<_> = self.clients.iter().flat_map(|client| client.creating()).collect();
                let applied = self.member().replica.applied();
                judge!(false, "the world does not come to rest: {applied:?}, {waiting:?}");
            }
        }
    }

    /// What happens next happens, while somebody looks on. Nobody else looks on then; it ends with the process.
    pub fn look_on(&mut self, events: u64) {
        self.is_watched = true;
        self.happen(events);
        self.is_watched = false;
    }

    fn happen(&mut self, events: u64) {
        for _ in 0..events {
            match self.queue.peek() {
                Some(Reverse(next)) if next.life != self.life => _ = self.queue.pop(),
                Some(Reverse(Scheduled { event: Event::Boot | Event::Close, .. })) | None => return,
                _ => {
                    let Some(Reverse(next)) = self.queue.pop() else { return };
                    self.now = next.at;
                    self.handle(next.event);
                }
            }
        }
    }

    pub fn schedule(&mut self, delay: Duration, event: Event) {
        self.schedule_at(self.now + delay, event);
    }

    fn schedule_at(&mut self, at: Instant, event: Event) {
        self.scheduled += 1;
        // What belongs to the world and not to the process outlives it.
        let life = self.life;
        self.queue.push(Reverse(Scheduled { at, number: self.scheduled, life, event }));
    }

    /// A random time up to `longest`, often much shorter.
    pub fn some(&mut self, longest: Duration) -> Duration {
        let longest = longest.as_nanos() as u64 >> self.prng.below(4);
        Duration::from_nanos(self.prng.below(longest + 1))
    }

    /// Sends something to the replica.
    pub fn send(&mut self, input: Input) {
        let delay = self.some(self.params.lane_time);
        let at = self.lanes[0].max(self.now + delay);
        self.lanes[0] = at;
        self.inputs_on_the_way += 1;
        self.schedule_at(at, Event::Arrive(input));
    }

    /// Whether the lane to the replica takes no further request.
    pub fn lane_is_full(&self) -> bool {
        self.inputs_on_the_way >= self.params.lane_inputs_max
    }

    fn send_to_core(&mut self, core: usize, message: FromReplica) {
        let delay = self.some(self.params.lane_time);
        let at = self.lanes[1 + core].max(self.now + delay);
        self.lanes[1 + core] = at;
        self.schedule_at(at, Event::Message(core, message));
    }

    pub fn plan_crash(&mut self) {
        if self.crashes_left == 0 {
            return;
        }
        // Some processes live so short that the disk has forgotten nothing since the one before.
        let soon = self.life > 0 && self.prng.chance(1, 4);
        let busy = self.params.pause * self.params.requests / (2 * self.params.clients as u32);
        let rest = Duration::from_millis(if soon { 300 } else { 2_000 });
        let after = self.some(if soon { rest } else { busy }) + self.some(rest);
        self.schedule(after, Event::Crash);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick => self.on_tick(),
            Event::Arrive(input) => {
                self.trace.step(self.now, &[1], format_args!("replica <- {}", show_input(&input)));
                self.inputs_on_the_way -= 1;
                self.member().inbox.push_back(input);
                self.wake_replica();
            }
            Event::Turn => self.turn(),
            Event::WalDone { ready, took } => self.on_wal_done(ready, took),
            Event::CheckpointDone { generation } => {
                self.trace.step(self.now, &[2, generation], format_args!("checkpoint {generation} is done"));
                self.disk.store_file().settle();
                if self.prng.chance(1, 6) {
                    self.check_store_file();
                }
                let untold = self.plant == Some(Plant::CheckpointUntold) && self.closing != Closing::Before;
                if self.plant != Some(Plant::EarlyCheckpoint) && !untold {
                    self.send(Input::CheckpointSynced { generation });
                }
            }
            Event::Digest => self.digest(),
            Event::Message(core, message) => self.on_message(core, message),
            Event::SessionTurn(core) => self.session_turn(core),
            Event::Leg(id) => self.read_on(id),
            Event::Client(number) => self.act(number),
            Event::Take(number) => self.take(number),
            Event::Window(number) => self.on_window(number),
            Event::Close => self.close_down(),
            Event::Crash => self.crash(),
            Event::Boot => self.boot(),
            Event::DiskFreed => self.execute_checkpoint(),
            Event::Prepare => self.prepare_segment(),
            Event::Prepared => self.on_prepared(),
            Event::LogDiskFreed => self.disk.folder(By::Preparer).set_room(None),
        }
    }

    /// The running member.
    pub fn member(&mut self) -> &mut Member {
        self.member.as_mut().expect("events of a process come while it lives")
    }

    pub fn wake_replica(&mut self) {
        if !std::mem::replace(&mut self.member().turn_due, true) {
            let delay = self.some(self.params.lane_time);
            self.schedule(delay, Event::Turn);
        }
    }

    fn on_tick(&mut self) {
        self.trace.step(self.now, &[3], format_args!("tick"));
        self.schedule(TICK, Event::Tick);
        self.member().inbox.push_back(Input::Tick);
        self.wake_replica();
        if self.leads_since.is_some() {
            self.leases.check(self.now, &self.judge);
        }
        for core in 0..self.params.cores {
            let now = self.now;
            let term = self.member().gate.term();
            let hub = self.member().cores[core].watches.hub();
            hub.set_term(term);
            hub.tick(now);
            self.pump(core);
            self.expire(core);
        }
    }

    /// A turn of the replica: what has arrived, or some of it, then everything it leads to.
    fn turn(&mut self) {
        let now = self.now;
        let take = match self.prng.below(4) {
            0 => 1,
            1 => 3,
            _ => usize::MAX,
        };
        let bounds = self.params.bounds(&mut self.prng);
        let member = self.member.as_mut().expect("a member that runs");
        let before = member.replica.pending();
        member.replica.set_bounds(&bounds);
        member.turn_due = false;
        let count = member.inbox.len().min(take);
        let told = match self.plant {
            Some(Plant::FastClock) => Instant::from_nanos(now.as_nanos() / 5 * 6),
            _ => now,
        };
        for input in member.inbox.drain(..count) {
            member.asked.step(self.plant, &mut member.replica, &self.judge, input);
        }
        let mut outputs = std::mem::take(&mut member.outputs);
        spoil_midway(self.plant, &mut member.replica, &mut outputs);
        let more = member.replica.drain(told, &mut outputs);
        member.asked.on_turn(&member.replica, &outputs);
        spoil_order(self.plant, &mut outputs);
        if more || !member.inbox.is_empty() {
            self.wake_replica();
        }
        if self.leads_since.is_none() && self.member().gate.is_open() {
            self.leads_since = Some(now);
            let applied = self.member().replica.applied().index;
            self.leases.on_leading(now, &self.judge, applied);
        }
        let applied = self.member().replica.applied().index;
        self.judge.on_applied(now, applied);
        self.check_quota();
        self.check_pins();
        self.check_pending(before.max(bounds.pending));
        let dies_after = self.dies_in_turn(outputs.len());
        for (number, output) in outputs.drain(..).enumerate() {
            if dies_after == Some(number) {
                self.crash();
                return;
            }
            self.do_output(output);
        }
        self.member().outputs = outputs;
    }

    /// No more proposals wait than may.
    fn check_pending(&mut self, most: usize) {
        let pending = self.member().replica.pending();
        judge!(pending <= most, "{pending} proposals wait, and {most} may");
    }

    /// Batches come in the order of their revisions, and none is left out.
    fn check_order(&mut self, revision: i64) {
        let published = &mut self.member().published;
        let before = std::mem::replace(published, revision);
        judge!(
            revision == before + 1,
            "the events of revision {revision} are published after those of {before}"
        );
    }

    /// Whoever is answered finds its events published.
    fn check_published(&mut self, revision: i64) {
        let published = self.member().published;
        judge!(revision <= published, "an answer tells of revision {revision}, and {published} is published");
    }

    /// Some lanes lose a batch; another follows, so that it is missed.
    fn loses_batch(&mut self) -> bool {
        let one_in = self.params.lost_batches;
        let lost = one_in > 0 && self.requests_left > 0 && self.prng.chance(1, one_in);
        self.tally.lost_batches += u64::from(lost);
        lost
    }

    /// Sometimes the process dies between two outputs.
    fn dies_in_turn(&mut self, outputs: usize) -> Option<usize> {
        let dies = self.crashes_left > 0 && outputs > 0 && self.prng.chance(1, 150);
        dies.then(|| self.prng.below(outputs as u64) as usize)
    }

    fn do_output(&mut self, output: Output) {
        self.trace.step(self.now, &[4], format_args!("replica -> {}", show_output(&output)));
        match output {
            Output::AppendWal { ready, write } => {
                self.trace.bytes(&write.bytes);
                self.judge_write(&write);
                let covers = (self.judge.last(), self.judge.mark());
                if self.plant == Some(Plant::EarlySync) {
                    self.send(Input::WalSynced { ready, buffer: Vec::new(), took: Duration::ZERO });
                }
                self.member().writes.push_back((ready, covers, Some(write)));
                self.write_next();
            }
            Output::ReleaseWal { mut segments } => {
                if self.plant == Some(Plant::ReleasedTooMuch) {
                    segments.extend(self.disk.log().get(segments.len()).map(|(name, _)| *name));
                }
                if self.plant != Some(Plant::ReleasedTooMuch) {
                    self.judge.on_release(&segments);
                }
                let member = self.member.as_mut().expect("a member that runs");
                member.preparer.release(&self.disk, &segments);
            }
            Output::WriteCheckpoint(job) => {
                self.tally.checkpoints += 1;
                self.delete_early(job.applied_index());
                if self.prng.chance(1, 20) {
                    self.disk.store_file().set_full(true);
                }
                self.member().checkpoint = Some(job);
                self.execute_checkpoint();
            }
            Output::DigestCompaction(job) => {
                self.member().digest = Some(job);
                self.schedule_digest();
            }
            Output::Reply { ticket, result } => {
                if let Ok(response) = &result {
                    self.check_published(response.revision());
                }
                self.send_to_core(core_of(ticket), FromReplica::Reply(ticket, result));
            }
            Output::ReadReady { ticket } => {
                self.send_to_core(core_of(ticket), FromReplica::ReadReady(ticket))
            }
            Output::Publish(batch) => {
                self.check_order(batch.revision);
                for core in 0..self.params.cores {
                    let batch = match self.loses_batch() {
                        true if self.plant == Some(Plant::GapUnseen) => {
                            nothing_at(batch.revision, batch.compact_revision)
                        }
                        true => continue,
                        false => batch.clone(),
                    };
                    self.send_to_core(core, FromReplica::Publish(batch));
                }
            }
            Output::Compacted { .. } => {}
            Output::Halt { reason } => judge!(false, "a member stops: {reason}"),
            Output::Unsound { from, .. } => judge!(false, "{from:x} has sent something to a lone member"),
            Output::AskPromotion { .. } => judge!(false, "a lone member asks about a promotion"),
            Output::Removed => judge!(false, "a lone member was removed"),
            Output::PlaceSnapshot | Output::RefuseSnapshot(_) | Output::Installed { .. } => {
                judge!(false, "nobody has sent a snapshot")
            }
            Output::Send { to, .. }
            | Output::SendSnapshot { to, .. }
            | Output::AskLessor { leader: to, .. } => {
                judge!(false, "a lone member sends to {to:x}")
            }
        }
    }
}
