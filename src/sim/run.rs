//! Running worlds: one or many, twice each, and what to say about them.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::cluster;
use super::peers;
use super::plant::Plant;
use super::shrink::Cuts;
use super::spoil::HAS_FAULTS;
use super::world::{Tally, World};

/// Words of which one is in every refusal to go on with rotten bytes.
const REFUSALS: &[&str] = &["checksum", "kevel check", "damage", "ut back a copy of"];

/// Of the seeds of an ordinary run, one in so many is also a seed of the scripted peers, and another one also a seed of
/// the cluster.
const OTHERS_EVERY: u64 = 8;

/// The kinds of worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One member, its disk and its clients.
    Member,
    /// One member among scripted peers.
    Peers,
    /// A cluster of real members.
    Cluster,
}

impl Kind {
    /// The world that finds a planted bug.
    pub fn of(plant: Plant) -> Self {
        match plant {
            plant if plant.is_of_peers() => Self::Peers,
            plant if plant.is_of_cluster() => Self::Cluster,
            _ => Self::Member,
        }
    }

    fn argument(self) -> &'static str {
        match self {
            Self::Member => "",
            Self::Peers => " --world peers",
            Self::Cluster => " --world cluster",
        }
    }
}

/// How a world ended.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// The trace as a number.
    pub digest: u64,
    /// What happened.
    pub tally: Tally,
    /// The member refused to serve from a rotten disk.
    pub refused: bool,
}

/// Why a world failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What the judge, or the member, said.
    pub message: String,
    /// What happened last, if it was recorded.
    pub lines: Vec<String>,
}

/// One world, from its beginning to its end.
pub fn world(kind: Kind, seed: u64, plant: Option<Plant>, verbose: bool) -> Result<Verdict, Failure> {
    match kind {
        Kind::Member => member(seed, plant, verbose),
        Kind::Peers => scripted(seed, plant, verbose),
        Kind::Cluster => clustered(seed, plant, verbose, &Cuts::default()),
    }
}

fn clustered(seed: u64, plant: Option<Plant>, verbose: bool, cuts: &Cuts) -> Result<Verdict, Failure> {
    let mut world = cluster::World::new(seed, plant, verbose, cuts);
    match panic::catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(()) => Ok(Verdict { digest: world.trace.digest(), tally: world.tally, refused: false }),
        Err(panic) => {
            let lines = world.trace.lines().map(Into::into).collect();
            Err(Failure { message: text_of(&*panic), lines })
        }
    }
}

fn scripted(seed: u64, plant: Option<Plant>, verbose: bool) -> Result<Verdict, Failure> {
    let mut world = peers::World::new(seed, plant, verbose);
    match panic::catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(()) => Ok(Verdict { digest: world.trace.digest(), tally: world.tally, refused: false }),
        Err(panic) => {
            let lines = world.trace.lines().map(Into::into).collect();
            Err(Failure { message: text_of(&*panic), lines })
        }
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into())).unwrap_or_default()
}

fn member(seed: u64, plant: Option<Plant>, verbose: bool) -> Result<Verdict, Failure> {
    let mut world = World::new(seed, plant, verbose);
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| world.run()));
    let verdict =
        |world: &World, refused| Verdict { digest: world.trace.digest(), tally: world.tally, refused };
    match outcome {
        Ok(()) => Ok(verdict(&world, world.refused)),
        Err(panic) => {
            let message = text_of(&*panic);
            if world.rotten && is_refusal(&message) {
                return Ok(verdict(&world, true));
            }
            Err(Failure { message, lines: world.trace.lines().map(Into::into).collect() })
        }
    }
}

/// True if the member, and not the judge, stopped for what it read.
fn is_refusal(message: &str) -> bool {
    !message.starts_with("judge:") && REFUSALS.iter().any(|word| message.contains(word))
}

/// One world twice.
pub fn twice(kind: Kind, seed: u64, plant: Option<Plant>) -> Result<Verdict, Failure> {
    let (first, second) = (world(kind, seed, plant, false)?, world(kind, seed, plant, false)?);
    if first.digest == second.digest {
        return Ok(first);
    }
    let message = format!("two runs differ: digests {:x} and {:x}", first.digest, second.digest);
    Err(Failure { message, lines: vec![] })
}

const HELP: &str = "\
Runs simulated worlds and judges them; each runs twice and has to leave the same trace.

    sim [--seeds N] [--start S] [--threads T] [--once]   N worlds from seed S on (1000 from 0, on all cores)
    sim --seed S [--plant NAME]                          one world, with its last events if it fails
    sim --plant NAME [--seeds N]                         worlds with a planted bug: the judge should find it
    sim --list                                           the planted bugs, and a seed that finds each
    sim --refresh [--seeds N]                            a new seed for each planted bug whose seed finds it no more

    --world W   member, peers or cluster: one member and its clients, one member among scripted peers, or a cluster
                of real members
    --cut C     a smaller world of a cluster, as a failing seed says: faults=N, requests=N, no-changes, no-watchers,
                no-leases, no-compactions, with commas between them
    --once      run each world once: faster, and blind to what differs between two runs
    --help      this text

Ends with status 0 when every world passed, 1 when one failed, 2 when the arguments make no sense.";

struct Args {
    start: u64,
    seeds: u64,
    threads: usize,
    once: bool,
    plant: Option<Plant>,
    one: bool,
    refresh: bool,
    kind: Option<Kind>,
    cuts: Cuts,
}

impl Args {
    /// The worlds of a seed.
    fn kinds(&self, seed: u64) -> &[Kind] {
        match self.kind.or(self.plant.map(Kind::of)) {
            Some(Kind::Member) => &[Kind::Member],
            Some(Kind::Peers) => &[Kind::Peers],
            Some(Kind::Cluster) => &[Kind::Cluster],
            None if self.one => &[Kind::Member],
            None => match seed % OTHERS_EVERY {
                0 => &[Kind::Member, Kind::Peers],
                4 => &[Kind::Member, Kind::Cluster],
                _ => &[Kind::Member],
            },
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut parsed = Args {
        start: 0,
        seeds: 1000,
        threads,
        once: false,
        plant: None,
        one: false,
        refresh: false,
        kind: None,
        cuts: Cuts::default(),
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is not a number"));
        match arg.as_str() {
            "--seeds" => parsed.seeds = number(value()?)?,
            "--start" => parsed.start = number(value()?)?,
            "--threads" => parsed.threads = number(value()?)?.max(1) as usize,
            "--once" => parsed.once = true,
            "--refresh" => parsed.refresh = true,
            "--seed" => (parsed.start, parsed.seeds, parsed.one) = (number(value()?)?, 1, true),
            "--cut" => parsed.cuts = Cuts::parse(&value()?)?,
            "--world" => {
                parsed.kind = Some(match value()?.as_str() {
                    "member" => Kind::Member,
                    "peers" => Kind::Peers,
                    "cluster" => Kind::Cluster,
                    other => return Err(format!("no world is called {other}; see --help")),
                });
            }
            "--plant" => {
                let name = value()?;
                let found = Plant::ALL.iter().find(|plant| plant.name() == name);
                parsed.plant = Some(*found.ok_or(format!("no planted bug is called {name}; see --list"))?);
            }
            "--list" => {
                for plant in Plant::ALL {
                    println!("{:22} seed {:<8}{}", plant.name(), plant.seed(), plant.story().trim());
                }
                std::process::exit(0);
            }
            "--help" | "-h" => {
                println!("{HELP}");
                std::process::exit(0);
            }
            _ => return Err(format!("unknown argument {arg}; see --help")),
        }
    }
    Ok(parsed)
}

/// The command.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let args = match parse(args) {
        Ok(args) => args,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    if args.plant.is_some_and(Plant::is_within) && !HAS_FAULTS {
        eprintln!("this bug is planted in builds with --features faults alone");
        return ExitCode::from(2);
    }
    // Panics are verdicts here; they are printed with their seed.
    panic::set_hook(Box::new(|_| {}));
    match () {
        () if args.refresh => refresh(&args),
        () if args.one => one(&args),
        () => many(&args),
    }
}

/// Whether a seed shows a planted bug, and nothing without it.
fn shows(plant: Plant, seed: u64) -> bool {
    let kind = Kind::of(plant);
    world(kind, seed, Some(plant), false).is_err() && world(kind, seed, None, false).is_ok()
}

/// Says the lines that are to be changed in `plant` and on the page of the simulator.
fn refresh(args: &Args) -> ExitCode {
    let mut lost = false;
    let here = Plant::ALL.iter().filter(|plant| HAS_FAULTS || !plant.is_within());
    for &plant in here.filter(|&&plant| !shows(plant, plant.seed())) {
        match first(args, |seed| shows(plant, seed)) {
            Some(seed) => {
                println!("    {plant:?} = \"{}\", {seed};", plant.name());
                println!("//! | `{}` | {} | {seed} |", plant.name(), plant.story().trim());
            }
            None => {
                println!("no seed shows {}", plant.name());
                lost = true;
            }
        }
    }
    if lost { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The first seed of which something holds, found on all cores.
fn first(args: &Args, holds: impl Fn(u64) -> bool + Sync) -> Option<u64> {
    let (next, found) = (AtomicU64::new(args.start), AtomicU64::new(u64::MAX));
    let end = args.start + args.seeds;
    std::thread::scope(|scope| {
        for _ in 0..args.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.min(found.load(Ordering::Relaxed)) {
                        break;
                    }
                    if holds(seed) {
                        found.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    Some(found.into_inner()).filter(|&seed| seed < u64::MAX)
}

fn one(args: &Args) -> ExitCode {
    let kind = args.kinds(args.start)[0];
    if kind == Kind::Cluster && args.cuts != Cuts::default() {
        return match clustered(args.start, args.plant, true, &args.cuts) {
            Ok(verdict) => {
                println!("seed {} passes: {verdict:?}", args.start);
                ExitCode::SUCCESS
            }
            Err(failure) => {
                say(kind, args.start, args.plant, &failure, &args.cuts);
                ExitCode::FAILURE
            }
        };
    }
    match world(kind, args.start, args.plant, true).and_then(|_| twice(kind, args.start, args.plant)) {
        Ok(verdict) => {
            println!("seed {} passes: {verdict:?}", args.start);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            report(kind, args.start, args.plant, &failure);
            ExitCode::FAILURE
        }
    }
}

/// Says how a world fails, how to see it again, and the same of a smaller one.
fn report(kind: Kind, seed: u64, plant: Option<Plant>, failure: &Failure) {
    if kind == Kind::Cluster {
        let is_same = |other: Failure| class(&other.message) == class(&failure.message);
        let cuts = Cuts::default().shrink(|cuts| clustered(seed, plant, false, cuts).is_err_and(is_same));
        if cuts != Cuts::default()
            && let Err(failure) = clustered(seed, plant, true, &cuts)
        {
            say(kind, seed, plant, &failure, &cuts);
        }
    }
    let lines = match failure.lines.is_empty() {
        true => world(kind, seed, plant, true).err().map_or(vec![], |failure| failure.lines),
        false => failure.lines.clone(),
    };
    say(kind, seed, plant, &Failure { message: failure.message.clone(), lines }, &Cuts::default());
}

/// What failures have in common that a smaller world has to keep: the words at the beginning.
fn class(message: &str) -> String {
    message.chars().filter(|letter| !letter.is_ascii_digit()).take(40).collect()
}

fn say(kind: Kind, seed: u64, plant: Option<Plant>, failure: &Failure, cuts: &Cuts) {
    let mut err = std::io::stderr().lock();
    for line in &failure.lines {
        let cut = line.char_indices().nth(400).map_or(line.len(), |(at, _)| at);
        let _ = writeln!(err, "{}", &line[..cut]);
    }
    let plant = plant.map_or(String::new(), |plant| format!(" --plant {}", plant.name()));
    let _ = writeln!(err, "seed {seed} fails: {}", failure.message);
    let _ =
        writeln!(err, "    cargo run --release --bin sim --{} --seed {seed}{plant}{cuts}", kind.argument());
}

fn many(args: &Args) -> ExitCode {
    let (next, failed) = (AtomicU64::new(args.start), AtomicBool::new(false));
    let end = args.start + args.seeds;
    let began = Instant::now();
    let tallies: Vec<(Tally, u64)> = std::thread::scope(|scope| {
        let work = || {
            let (mut total, mut refused) = (Tally::default(), 0);
            while !failed.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    break;
                }
                for &kind in args.kinds(seed) {
                    let outcome = match args.once {
                        true => world(kind, seed, args.plant, false),
                        false => twice(kind, seed, args.plant),
                    };
                    match outcome {
                        Ok(verdict) => {
                            total.add(&verdict.tally);
                            refused += u64::from(verdict.refused);
                        }
                        Err(failure) => {
                            if !failed.swap(true, Ordering::Relaxed) {
                                report(kind, seed, args.plant, &failure);
                            }
                        }
                    }
                }
            }
            (total, refused)
        };
        let threads: Vec<_> = (0..args.threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker catches panics")).collect()
    });
    let mut total = Tally::default();
    tallies.iter().for_each(|(tally, _)| total.add(tally));
    let refused: u64 = tallies.iter().map(|(_, refused)| refused).sum();
    let seconds = began.elapsed().as_secs_f64();
    let done = next.load(Ordering::Relaxed).min(end) - args.start;
    println!(
        "{done} seeds in {seconds:.1} s, {:.0} a second; {refused} refused rotten bytes",
        done as f64 / seconds
    );
    println!("{total:?}");
    match (failed.load(Ordering::Relaxed), args.plant) {
        (false, None) | (true, Some(_)) => ExitCode::SUCCESS,
        (true, None) => ExitCode::FAILURE,
        (false, Some(plant)) => {
            eprintln!("nobody found {}", plant.name());
            ExitCode::FAILURE
        }
    }
}
