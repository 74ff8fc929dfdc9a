//! A measured phase: its threads, their connections, and what the reporting thread sees meanwhile.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration as StdDuration;

use glommio::{LocalExecutorBuilder, Placement};
use kevel::server::io::clock;
use kevel::stdx::time::{Duration, Instant};

use crate::calls::Handler;
use crate::link::{self, Tuning};
use crate::process::Use;
use crate::progress::Progress;
use crate::record::{self, Interval, Record, Shared, histogram};
use crate::run::{Bounds, Run};
use crate::target::Target;

/// How often servers' memory is looked at, and the phase's state.
const LOOK_EVERY: StdDuration = StdDuration::from_millis(25);
/// How long connections may take until they are ready.
const READY_MAX: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(1);
const RING_DEPTH: usize = 512;
const RING_BYTES: usize = 1 << 20;

type Make = Box<dyn FnOnce(Shared, Arc<Run>) -> Box<dyn Handler> + Send>;

/// One connection's work.
pub struct Job {
    make: Make,
    calls_max: usize,
    drives: bool,
}

impl Job {
    /// A job that drives the phase, with `calls_max` calls in flight at most.
    pub fn driver<H: Handler + 'static>(
        calls_max: usize,
        make: impl FnOnce(Shared, Arc<Run>) -> H + Send + 'static,
    ) -> Self {
        Self { make: Box::new(|record, run| Box::new(make(record, run))), calls_max, drives: true }
    }

    /// A job that listens until the drivers are done.
    pub fn listener<H: Handler + 'static>(
        calls_max: usize,
        make: impl FnOnce(Shared, Arc<Run>) -> H + Send + 'static,
    ) -> Self {
        Self { drives: false, ..Self::driver(calls_max, make) }
    }
}

/// What all phases of a run share.
#[derive(Clone)]
pub struct World {
    pub targets: Vec<Target>,
    pub threads: usize,
    pub window: u32,
    pub connection_window: u32,
    pub server_pids: Vec<u32>,
    pub progress: bool,
    pub stop: Arc<AtomicBool>,
}

/// A phase to run.
pub struct Phase {
    pub name: String,
    pub classes: Vec<&'static str>,
    pub jobs: Vec<Job>,
    pub bounds: Bounds,
}

/// What a phase measured.
pub struct Outcome {
    pub name: String,
    pub connections: usize,
    pub record: Record,
    /// From the start of counting to the last end of an operation.
    pub elapsed: Duration,
    pub series: Vec<Interval>,
    pub servers: Vec<Use>,
    pub client: Option<Use>,
    pub breaks: u64,
    pub events_missing: u64,
    pub interrupted: bool,
}

impl Outcome {
    /// Whether everything went as it should.
    pub fn is_clean(&self) -> bool {
        self.record.failures() == 0 && self.events_missing == 0 && self.breaks == 0
    }
}

impl World {
    /// The same with other endpoints, and no live line.
    pub fn with_targets(&self, targets: Vec<Target>) -> Self {
        Self { targets, progress: false, ..self.clone() }
    }

    /// Runs a phase to its end.
    ///
    /// # Errors
    /// When it cannot begin.
    pub fn run(&self, phase: Phase) -> Result<Outcome, String> {
        let connections = phase.jobs.len();
        let drivers = phase.jobs.iter().filter(|job| job.drives).count();
        let run = Run::new(phase.bounds, drivers, self.stop.clone());
        let count = self.threads.clamp(1, connections.max(1));
        let mut shares: Vec<Vec<(usize, Job)>> = (0..count).map(|_| Vec::new()).collect();
        for (at, job) in phase.jobs.into_iter().enumerate() {
            shares[at % count].push((at, job));
        }
        let records: Vec<Shared> =
            (0..count).map(|_| Arc::new(Mutex::new(Record::new(&phase.classes)))).collect();
        let threads: Vec<_> = shares
            .into_iter()
            .zip(&records)
            .map(|(share, record)| {
                let (record, run) = (record.clone(), run.clone());
                let (targets, windows) = (self.targets.clone(), (self.window, self.connection_window));
                thread::spawn(move || execute(share, &targets, windows, &record, &run))
            })
            .collect();
        let begun = clock::now();
        while run.ready() < connections && !threads.iter().all(thread::JoinHandle::is_finished) {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            if clock::now() > begun + READY_MAX {
                let ready = run.ready();
                run.fail(format!("only {ready} of {connections} connections are ready after a minute"));
                break;
            }
            thread::sleep(StdDuration::from_millis(1));
        }
        run.begin(clock::now());
        let mut seen = Seen::new(self, &phase.name);
        while !threads.iter().all(thread::JoinHandle::is_finished) {
            thread::sleep(LOOK_EVERY);
            seen.look(self, &run, &records);
        }
        for handle in threads {
            handle.join().map_err(|_| "a thread of the load panicked".to_owned())?;
        }
        if let Some(reason) = run.failure() {
            return Err(reason);
        }
        let mut merged = Record::new(&phase.classes);
        records.iter().for_each(|record| merged.merge(&record::lock(record)));
        let from = run.counted_from().expect("begun above");
        let elapsed = merged.last.map_or(Duration::ZERO, |last| last.since(from));
        seen.finish(&run, &records);
        Ok(Outcome {
            name: phase.name,
            connections,
            record: merged,
            elapsed,
            series: seen.series,
            servers: seen.servers,
            client: seen.client,
            breaks: run.breaks(),
            events_missing: run.events_missing(),
            interrupted: self.stop.load(Ordering::Relaxed),
        })
    }
}

/// The thread of the load: one executor, a task per connection.
fn execute(
    share: Vec<(usize, Job)>,
    targets: &[Target],
    (window, connection_window): (u32, u32),
    record: &Shared,
    run: &Arc<Run>,
) {
    let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(RING_BYTES).ring_depth(RING_DEPTH);
    let executor = match builder.make() {
        Ok(executor) => executor,
        Err(error) => return run.fail(format!("cannot start an executor: {error}")),
    };
    executor.run(async move {
        let tasks: Vec<_> = share
            .into_iter()
            .map(|(at, job)| {
                let tuning = Tuning { calls_max: job.calls_max, window, connection_window };
                let mut handler = (job.make)(record.clone(), run.clone());
                let (run, targets) = (run.clone(), targets.to_vec());
                glommio::spawn_local(async move {
                    if let Err(reason) = link::drive(&targets, at, tuning, &run, handler.as_mut()).await {
                        run.fail(reason);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
    });
}

/// What the reporting thread sees.
struct Seen {
    progress: Progress,
    series: Vec<Interval>,
    servers: Vec<Use>,
    client: Option<Use>,
    counting: bool,
    interval_since: Instant,
}

impl Seen {
    fn new(world: &World, name: &str) -> Self {
        let mut seen = Self {
            progress: Progress::new(world.progress, name),
            series: Vec::new(),
            servers: Vec::new(),
            client: None,
            counting: false,
            interval_since: Instant::default(),
        };
        seen.begin(world);
        seen
    }

    fn begin(&mut self, world: &World) {
        self.servers = world.server_pids.iter().filter_map(|&pid| Use::begin(pid)).collect();
        self.client = Use::begin(std::process::id());
    }

    fn look(&mut self, world: &World, run: &Run, records: &[Shared]) {
        let now = clock::now();
        let from = run.counted_from().expect("begun before");
        if !self.counting && now >= from {
            self.counting = true;
            self.interval_since = from;
            // What the warm-up used is not counted either.
            if from != run.start().expect("begun before") {
                self.begin(world);
            }
        }
        self.servers.iter_mut().for_each(Use::look);
        if self.counting && now >= self.interval_since + INTERVAL {
            self.close(from, now, records);
        }
    }

    fn close(&mut self, from: Instant, now: Instant, records: &[Shared]) {
        let mut latency = histogram();
        let errors = records.iter().map(|record| record::lock(record).take_interval(&mut latency)).sum();
        let interval = Interval {
            at: now.since(from).as_secs_f64(),
            seconds: now.since(self.interval_since).as_secs_f64(),
            errors,
            latency,
        };
        self.progress.show(&interval);
        self.interval_since = now;
        self.series.push(interval);
    }

    fn finish(&mut self, run: &Run, records: &[Shared]) {
        self.servers.iter_mut().for_each(Use::look);
        self.client.iter_mut().for_each(Use::look);
        self.progress.clear();
        let (now, from) = (clock::now(), run.counted_from().expect("begun before"));
        // The rest of a second would look like a slump.
        if self.series.is_empty() || now >= self.interval_since + INTERVAL / 4 {
            self.interval_since = self.interval_since.max(from);
            self.close(from, now, records);
            self.progress.clear();
        }
    }
}
