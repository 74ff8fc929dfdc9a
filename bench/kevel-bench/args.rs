//! The flags that every scenario takes.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::keys::Choice;
use crate::target::TlsArgs;
use crate::units::{duration, rate, size, size_positive};

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
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0s", global = true)]
    #[arg(hide_default_value = true)]
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
    #[arg(long, value_name = "BYTES", default_value_t = 24, global = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65536))]
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
    #[arg(long, value_name = "FILE", num_args = 0..=1, global = true)]
    #[arg(require_equals = true, default_missing_value = "-")]
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
