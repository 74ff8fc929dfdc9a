//! A member's life: examine, open, recover, serve, stop.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use super::boot::failure::{Failure, to};
use super::boot::wiring::{self, Ending};
use super::boot::{data_dir, executors, founders, listeners, open, signals};
use super::check;
use super::core::plan::Plan;
use super::io::{probe, process};
use super::log::{self, lines};
use super::tls::Ports;
use crate::config::Config;

/// Runs a member until it is told to stop.
pub fn run(mut config: Config) -> ExitCode {
    match try_run(&mut config) {
        Ok(ending) => {
            lines::closed(&config);
            log::flush();
            match ending {
                Some(Ending::Signal(signal)) => signals::end(signal),
                Some(Ending::Removed) => ExitCode::SUCCESS,
                Some(Ending::Halted) | None => ExitCode::FAILURE,
            }
        }
        Err(Failure { what, why }) => {
            lines::fatal(what, why);
            log::flush();
            ExitCode::FAILURE
        }
    }
}

/// A whole life. What ended it, or why it did not begin.
fn try_run(config: &mut Config) -> Result<Option<Ending>, Failure> {
    // 1. What this process may use: rings, descriptors, CPUs.
    let rings = probe::probe().map_err(to("cannot use io_uring"))?;
    process::enough_descriptors().map_err(to("too few file descriptors"))?;
    let cpus = executors::allowed_cpus();
    let plan = Plan::new(&config.cores, &cpus).map_err(to("cannot use the CPUs of --cores"))?;
    lines::cores(&config.cores, cpus.len());
    let depth = rings.depth(plan.executors());

    // 2. The data directory: made, or found with a member in it. Founders that DNS is to name are asked for before.
    let initialized = data_dir::prepare(config)?;
    lines::data_dir(config, initialized);

    // 3. What secures the listeners, and every listener, before anything is opened that takes time.
    lines::starting_with_tls("peer", &config.tls.peer, &config.tls.cipher_suites);
    lines::starting_with_tls("client", &config.tls.client, &config.tls.cipher_suites);
    let ports = Ports::open(config, cpus.len()).map_err(to("cannot set up TLS"))?;
    lines::configuring_listeners(config);
    let listeners = listeners::claim(config).map_err(to("cannot listen"))?;
    lines::starting(config, initialized, plan.sessions(), cpus.len());
    lines::streams(config);
    lines::machine(&plan.to_string(), &rings, depth, process::descriptor_limit());

    // 4. The store, and the log behind it; before them the founders, where a discovery service is to name them.
    if !initialized {
        founders::join(config).map_err(to("discovery failed"))?;
    }
    let config = &*config;
    let opened = open::open(config, &ports).map_err(to("cannot open the member's data"))?;
    lines::no_fsync(config);
    lines::quota(config.limits.quota_backend_bytes, config.quota_bytes());
    lines::local_member(opened.member_id, opened.cluster_id);

    // 5. The data, compared with those of the other members.
    if initialized && config.gates.checks_initially() {
        let own = wiring::own(config, (opened.cluster_id, opened.member_id), 0, &ports);
        check::initial::check(&opened.store, own).map_err(to("the initial corruption check failed"))?;
    }

    // 6. The cores, the lanes between them and the threads beside them.
    let wired = wiring::wire(config, opened, listeners, ports, plan.sessions());
    let wiring::Member { replica, sessions, end } = wired.map_err(to("cannot set the member up"))?;

    // 7. A signal ends what begins now.
    let ending = end.clone();
    signals::watch(move |signal| {
        lines::signal(signals::name(signal));
        ending.begin(Ending::Signal(signal));
    })
    .map_err(to("cannot watch for signals"))?;

    // 8. The executors run until every client is gone and the last checkpoint is written.
    executors::run(plan, depth, replica, sessions).map_err(to("cannot run the member"))?;
    Ok(end.ending())
}
