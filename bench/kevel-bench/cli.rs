//! The command line: what every scenario takes, and the scenarios.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};

use crate::args::Common;
use crate::scenario;

/// Load for any etcd v3 endpoint, and what it costs.
#[derive(Parser)]
#[command(name = "kevel-bench", version, after_long_help = EXAMPLES, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  Closed loop, as etcd's own tool does it: 100 clients over 10 connections
    kevel-bench put --conns 10 --clients 100 --total 100000 --key-size 8 --val-size 256
  Open loop: 5000 puts a second whatever the server does, latency from the planned begin
    kevel-bench put --rate 5000 --poisson --duration 60s --clients 1000
  What a server costs, with a plot and figures for programs
    kevel-bench mixed --read-ratio 0.9 --duration 30s --server-pid $(pidof kevel) --plot run.svg --json run.json
  Read one key, or all of a prefix in pages, or as a stream
    kevel-bench range --only /registry/health --conns 4 --clients 64
    kevel-bench range --prefix /registry/pods/ --paged --limit 500
    kevel-bench range --prefix /registry/pods/ --stream
  Put to event, 1000 watchers on one prefix
    kevel-bench watch --watchers 1000 --rate 200 --duration 20s
  A cluster's control plane with 500 nodes
    kevel-bench kubernetes --nodes 500 --duration 5m

Exit status: 0 when all went well; 1 when operations failed, events were missing or connections broke (unless
--allow-errors); 2 when the run could not begin.";

/// The scenarios.
#[derive(Subcommand)]
pub enum Command {
    /// Puts of one key each
    Put,
    /// Reads: one key, spans of keys, a prefix, in pages or as a stream
    Range(scenario::range::RangeArgs),
    /// Kubernetes' writes: put if unchanged, read otherwise
    Txn(scenario::txn::TxnArgs),
    /// Reads and puts in a given proportion
    Mixed(scenario::mixed::MixedArgs),
    /// Lists of many large objects by several callers: throughput and the server's memory
    List(scenario::list::ListArgs),
    /// Leases: grants, keep-alives, or many that expire at once
    Lease(scenario::lease::LeaseArgs),
    /// A control plane: heartbeats, pods that come and go, lists, watches, compaction
    Kubernetes(scenario::kubernetes::KubernetesArgs),
    /// Write every key of the key space once
    Fill(scenario::fill::FillArgs),
    /// Watchers and puts: how late events are
    Watch(scenario::watch::WatchArgs),
    /// Print a shell's completion script
    Completion { shell: clap_complete::Shell },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_scenario_takes_what_all_take() {
        const COMMON: [&str; 8] = [
            "--key=k",
            "--cert=c",
            "--cacert=a",
            "--keys=zipf",
            "--rate=5",
            "--clients=7",
            "--json",
            "--server-pid=1,2",
        ];
        let scenarios = Cli::command();
        let names =
            scenarios.get_subcommands().map(clap::Command::get_name).filter(|&name| name != "completion");
        for name in names {
            let what = (name == "lease").then_some("grant");
            let words = ["kevel-bench", name].into_iter().chain(what).chain(COMMON);
            let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{name}: {error}"));
            let Common { tls, load, report, .. } = cli.common;
            assert_eq!(
                (tls.key, load.clients, report.json),
                (Some("k".into()), Some(7), Some("-".into())),
                "{name}"
            );
        }
    }
}
