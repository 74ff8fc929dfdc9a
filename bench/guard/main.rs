//! What the paths that every request takes cost, one by one:
//! `cargo bench --bench guard [-- --json] [WORDS]`; with words, only the paths whose name contains them.
//!
//! Each path is the server's own code on realistic sizes (keys of 32 to 60 bytes, values of 256), measured without
//! what prepares it: CPU time of the thread, and instructions in user mode where the kernel counts them. Of many
//! repetitions the cheapest counts, so neighbours on the machine matter little. `perf/guard` compares the figures with
//! recorded ones.
//!
//! ```text
//!   clock   CPU time and instructions         wire    requests decoded, responses encoded
//!   meter   repetitions, and what they cost   tree    get, insert, scan
//!   load    keys, requests, filled stores     store   apply, compaction, checkpoint
//!                                             watch   publish          log    append
//! ```
#![deny(unsafe_code)]

mod clock;
mod load;
mod log;
mod meter;
mod store;
mod tree;
mod watch;
mod wire;

use meter::Meter;
use std::hint::black_box;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let json = std::env::args().any(|arg| arg == "--json");
    let mut calibration = calibrate();
    let mut meter = Meter::new(Duration::from_secs(2));
    meter.wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    for run in [wire::run, tree::run, store::run, watch::run, log::run] {
        run(&mut meter);
        // Often, and the cheapest counts: as with the paths, one moment may be a neighbour's.
        calibration = calibration.cheaper(calibrate());
    }
    if json {
        let paths: Vec<_> = meter.costs.iter().map(meter::Cost::json).collect();
        println!("{}", serde_json::json!({ "calibration": calibration.json(), "paths": paths }));
    } else {
        println!("{:<44} {:>12}  {:>14}  per", "path", "CPU ns", "instructions");
        [calibration].iter().chain(&meter.costs).for_each(|cost| println!("{cost}"));
    }
}

/// What other machines are compared by: the CRC-32C of 1 MiB. It has nothing of Kevel's in it.
fn calibrate() -> meter::Cost {
    let mut meter = Meter::new(Duration::from_millis(300));
    let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(0x9E37_79B9) >> 24) as u8).collect();
    meter.repeat("calibration: CRC-32C of 1 MiB", "MiB", || {
        for _ in 0..10 {
            black_box(crc32c::crc32c(black_box(&bytes)));
        }
        10
    });
    meter.costs.pop().expect("just measured")
}
