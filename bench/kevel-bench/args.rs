//! The command line.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::keys::Choice;
use crate::scenario;
use crate::target::TlsArgs;

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

/// What every scenario takes.
#[derive(Args, Clone)]
pub struct Common {
    /// Endpoints, separated by commas; connections are spread over them
    #[arg(
        long,
        value_name = "URLS",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379",
        global = true,
        help_heading = "Endpoints"
    )]
    pub endpoints: Vec<String>,
    /// Use only the endpoint that leads
    #[arg(long, global = true, help_heading = "Endpoints")]
    pub leader_only: bool,
    #[command(flatten)]
    pub tls: TlsArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub keys: KeyArgs,
    #[command(flatten)]
    pub report: ReportArgs,
}

/// How much, how fast, how long.
#[derive(Args, Clone)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// Connections [default: 1, or as the scenario says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), global = true)]
    pub conns: Option<u32>,
    /// Clients, spread over the connections: each has one operation in flight [default: one per connection; with
    /// --rate 1000, the most that may be in flight]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), global = true)]
    pub clients: Option<u32>,
    /// Operations at most
    #[arg(long, value_name = "N", global = true)]
    pub total: Option<u64>,
    /// Time at most, such as 30s, 500ms or 5m [default: 10s unless --total is given]
    #[arg(long, value_name = "TIME", value_parser = duration, global = true)]
    pub duration: Option<Duration>,
    /// Begin operations at this rate per second, whatever the server does (open loop); latency counts from the
    /// planned begin
    #[arg(long, value_name = "PER_SECOND", value_parser = rate, global = true)]
    pub rate: Option<f64>,
    /// Plan the begins of --rate as a Poisson process
    #[arg(long, requires = "rate", global = true)]
    pub poisson: bool,
    /// Don't count what begins in this first time
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0s", hide_default_value = true, global = true)]
    pub warmup: Duration,
    /// Threads, each with its own connections [default: half the CPUs, one at least]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), global = true)]
    pub threads: Option<u16>,
    /// Flow-control window of a call, bytes
    #[arg(long, value_name = "BYTES", value_parser = size, default_value = "1Mi", global = true)]
    pub window: u64,
    /// Flow-control window of a connection, bytes
    #[arg(long, value_name = "BYTES", value_parser = size, default_value = "16Mi", global = true)]
    pub connection_window: u64,
}

/// Keys and values.
#[derive(Args, Clone)]
#[command(next_help_heading = "Keys and values")]
pub struct KeyArgs {
    /// How keys are chosen
    #[arg(long, value_enum, default_value_t = Choice::Uniform, global = true)]
    pub keys: Choice,
    /// Number of different keys
    #[arg(long, value_name = "N", value_parser = size_positive, default_value = "10k", global = true)]
    pub key_space: u64,
    /// Bytes of a key
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=65536), default_value_t = 24, global = true)]
    pub key_size: u32,
    /// What keys begin with
    #[arg(long, value_name = "TEXT", default_value = "bench/", global = true)]
    pub key_prefix: String,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", value_parser = size, default_value = "256", global = true)]
    pub val_size: u64,
    /// Exponent of --keys zipf
    #[arg(long, value_name = "S", value_parser = rate, default_value_t = 0.99, global = true)]
    pub zipf: f64,
    /// Seed of keys, values and arrivals
    #[arg(long, value_name = "N", default_value_t = 1, global = true)]
    pub seed: u64,
}

/// What is reported, and where.
#[derive(Args, Clone)]
#[command(next_help_heading = "Report")]
pub struct ReportArgs {
    /// Watch these server processes on this machine: CPU, memory, bytes written
    #[arg(long, value_name = "PID", value_delimiter = ',', global = true)]
    pub server_pid: Vec<u32>,
    /// Figures as JSON, to FILE or standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-", global = true)]
    pub json: Option<PathBuf>,
    /// Latency distribution in HdrHistogram's text format, a file per class of operations
    #[arg(long, value_name = "FILE", global = true)]
    pub hgrm: Option<PathBuf>,
    /// Latency by percentile and throughput over time, as SVG
    #[arg(long, value_name = "FILE", global = true)]
    pub plot: Option<PathBuf>,
    /// Exit with 0 even when operations failed
    #[arg(long, global = true)]
    pub allow_errors: bool,
    /// No live line
    #[arg(long, global = true)]
    pub quiet: bool,
}

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

/// A duration such as `1.5s`, `200ms` or `2m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or("a unit is missing: ms, s, m or h")?;
    let number: f64 = text[..at].parse().map_err(|_| "not a number and a unit")?;
    let seconds = match &text[at..] {
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err("the unit is none of ms, s, m and h".to_owned()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// A number such as `20`, `4k`, `1Mi`.
pub fn size(text: &str) -> Result<u64, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: u64 = text[..at].parse().map_err(|_| "not a number")?;
    let unit = match &text[at..] {
        "" => 1,
        "k" => 1000,
        "Ki" => 1 << 10,
        "M" => 1_000_000,
        "Mi" => 1 << 20,
        "G" => 1_000_000_000,
        _ => return Err("the unit is none of k, Ki, M, Mi and G".to_owned()),
    };
    number.checked_mul(unit).ok_or_else(|| "too large".to_owned())
}

/// As [`size`], and not zero.
pub fn size_positive(text: &str) -> Result<u64, String> {
    size(text).and_then(|number| if number > 0 { Ok(number) } else { Err("at least one".to_owned()) })
}

/// A positive number.
pub fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
        _ => Err("not a positive number".to_owned()),
    }
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

    #[test]
    fn units() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("5").is_err() && duration("-1s").is_err() && duration("1d").is_err());
        assert_eq!((size("4k"), size("1Mi"), size("7")), (Ok(4000), Ok(1 << 20), Ok(7)));
        assert!(
            size("1X").is_err() && size_positive("0").is_err() && rate("0").is_err() && rate("inf").is_err()
        );
    }
}
