//! All fuzz targets: `cargo run --release --bin fuzz -- TARGET SEED [SECONDS]`.
//!
//! The targets live beside what they test; one that needs nothing but public names is here. With a number of seconds,
//! seeds are tried one after the other from SEED on until the time is over; a failing seed is printed with its panic,
//! and alone it fails again.
#![forbid(unsafe_code)]

mod txn;

use std::panic;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Steps of one run of the btree target: long enough for several checkpoints and crashes, short enough to read.
const BTREE_STEPS: u64 = 150;

type Target = (&'static str, fn(u64));

const TARGETS: &[Target] = &[
    ("btree", |seed| kevel::btree::fuzz::run(seed, BTREE_STEPS)),
    ("mvcc", kevel::mvcc::fuzz::run),
    ("wal", kevel::wal::fuzz::run),
    ("http2", kevel::server::http2::fuzz::run),
    ("grpc", |seed| {
        kevel::server::grpc::fuzz::fuzz(seed, 0);
    }),
    ("gzip", kevel::server::grpc::fuzz::packed),
    ("http1", kevel::server::http1::fuzz::run),
    ("peer", kevel::peer::fuzz::run),
    ("txn", txn::run),
    ("config", kevel::config::fuzz::run),
    ("bbolt", kevel::bbolt::fuzz::run),
];

/// What the last panic said.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

fn main() -> ExitCode {
    let args = std::env::args().skip(1).collect::<Vec<_>>();
    let (Some((_, target)), Some(Ok(seed)), seconds) = (
        args.first().and_then(|name| TARGETS.iter().find(|(target, _)| target == name)),
        args.get(1).map(|seed| seed.parse::<u64>()),
        args.get(2).map_or(Ok(0), |seconds| seconds.parse::<u64>()),
    ) else {
        return usage();
    };
    let Ok(seconds) = seconds else { return usage() };
    // A panic that a subject catches by itself is no failure, so nothing is said before it has come out of the target.
    panic::set_hook(Box::new(|info| {
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
    }));
    let start = Instant::now();
    let mut next = seed;
    loop {
        if panic::catch_unwind(|| target(next)).is_err() {
            let why = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("failed: fuzz -- {} {next}\n{why}", args[0]);
            return ExitCode::FAILURE;
        }
        next += 1;
        if start.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
    }
    println!("{}: {} seeds from {seed} on, all well", args[0], next - seed);
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    let targets = TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    eprintln!("usage: fuzz TARGET SEED [SECONDS]\ntargets: {}", targets.join(" "));
    ExitCode::from(2)
}
