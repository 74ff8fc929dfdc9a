//! `kevel-bench`: load for any etcd v3 endpoint, and what it costs.
//!
//! ```text
//!   cli, args  the command line                 scenario/  what is asked of the server
//!   target     endpoints and TLS                phase      threads, connections, the reporting thread's view
//!   link       a connection and its turns       run        when a phase begins and ends
//!   calls      calls in flight, gRPC over h2    loader     clients that do one operation after another
//!   ready      what woke a connection           watcher    watch streams
//!   pipe       bytes and TLS, a read and a      pace       closed and open loops
//!              write per turn                   keys, zipf which keys
//!   template   requests encoded once            record     histograms and counts
//!   optimistic Kubernetes' transactions         process    CPU and memory of servers and of ourselves
//!   frame      messages out of answers          progress   the live line
//!   fields     single fields of messages        report/    table, JSON, distributions, plots
//!   leader     which endpoint leads             units      numbers with units
//! ```
//!
//! Thread per core: each thread runs one executor with its own connections and shares nothing while it runs but a few
//! counters. A connection is one task; calls are numbers in a slab. Per wake-up there is one read and one write.
#![forbid(unsafe_code)]

mod args;
mod calls;
mod cli;
mod fields;
mod frame;
mod keys;
mod leader;
mod link;
mod loader;
mod optimistic;
mod pace;
mod phase;
mod pipe;
mod process;
mod progress;
mod ready;
mod record;
mod report;
mod run;
mod scenario;
mod target;
mod template;
mod units;
mod watcher;
mod zipf;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{CommandFactory, Parser};
use kevel::server::io::{clock, probe};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args::Common;
use crate::cli::{Cli, Command};
use crate::phase::World;
use crate::scenario::{Outcomes, Scenario, Settings};
use crate::target::Target;
use crate::template::Nonce;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STATUS_ERRORS: u8 = 1;
const STATUS_USAGE: u8 = 2;

fn main() -> ExitCode {
    kevel::server::io::process::early_init();
    let cli = Cli::parse();
    if let Command::Completion { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "kevel-bench", &mut script);
        report::print(&String::from_utf8_lossy(&script));
        return ExitCode::SUCCESS;
    }
    let report = cli.common.report.clone();
    let outcomes = match execute(cli) {
        Ok(outcomes) => outcomes,
        Err(reason) => {
            eprintln!("kevel-bench: {reason}");
            return ExitCode::from(STATUS_USAGE);
        }
    };
    let command: Vec<String> = std::env::args().collect();
    if let Err(reason) = report::report(&outcomes, &command, &report) {
        eprintln!("kevel-bench: {reason}");
        return ExitCode::from(STATUS_USAGE);
    }
    if outcomes.iter().all(phase::Outcome::is_clean) || report.allow_errors {
        return ExitCode::SUCCESS;
    }
    eprintln!("kevel-bench: not everything went well");
    ExitCode::from(STATUS_ERRORS)
}

fn execute(cli: Cli) -> Outcomes {
    probe::probe()?;
    let settings = Settings::new(cli.common.clone(), Nonce::new(clock::wall_nanos()))?;
    let world = world(&cli.common)?;
    match &cli.command {
        Command::Put => scenario::put::Put.run(&settings, &world),
        Command::Range(args) => args.run(&settings, &world),
        Command::Watch(args) => args.run(&settings, &world),
        Command::Txn(args) => args.run(&settings, &world),
        Command::Mixed(args) => args.run(&settings, &world),
        Command::List(args) => args.run(&settings, &world),
        Command::Lease(args) => args.run(&settings, &world),
        Command::Kubernetes(args) => args.run(&settings, &world),
        Command::Fill(args) => args.run(&settings, &world),
        Command::Completion { .. } => Ok(Vec::new()),
    }
}

/// What all phases share.
fn world(common: &Common) -> Result<World, String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second signal ends the process at once.
        let registered = signal_hook::flag::register_conditional_shutdown(signal, 1, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()));
        registered.map_err(|error| error.to_string())?;
    }
    let targets = Target::parse_all(&common.endpoints, &common.tls)?;
    let window = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX).clamp(65_535, (1 << 31) - 1);
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut world = World {
        targets,
        threads: common.load.threads.map_or((cpus / 2).max(1), usize::from),
        window: window(common.load.window),
        connection_window: window(common.load.connection_window),
        server_pids: common.report.server_pid.clone(),
        progress: !common.report.quiet,
        stop,
    };
    for pid in &world.server_pids {
        process::sample(*pid).ok_or_else(|| format!("--server-pid {pid}: no such process"))?;
    }
    if common.leader_only {
        world.targets = vec![leader::find(&world)?];
    }
    Ok(world)
}
