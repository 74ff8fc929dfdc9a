//! Leases: granted, kept alive, or left to expire in a flood.
#![forbid(unsafe_code)]

mod expire;
mod grant;
mod keepalive;

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Outcomes, Scenario, Settings};
use crate::phase::World;
use crate::units::{duration, size_positive};

/// What `lease` takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Lease")]
pub struct LeaseArgs {
    /// What is done
    #[arg(value_enum)]
    pub what: What,
    /// Time to live of each lease, seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..), default_value_t = 10)]
    pub ttl: u32,
    /// keep-alive: leases in all [default: one per client]; expire: leases that expire [default: 1000]
    #[arg(long, value_name = "N", value_parser = size_positive)]
    pub leases: Option<u64>,
    /// expire: puts per second beside the flood, to see what it does to others
    #[arg(long, value_name = "PER_SECOND", value_parser = crate::units::rate, default_value_t = 100.0)]
    pub probe_rate: f64,
    /// expire: let all leases end within so many seconds, the first one --ttl after the grants began; grants that
    /// come later than that are left out, and only puts from then on count
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub within: Option<u32>,
    /// expire: how long after the last put a key may still go [default: 10s and a second for every 500 leases]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub patience: Option<Duration>,
}

/// What is done with leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// Grant leases
    Grant,
    /// Renew leases over a stream per client
    KeepAlive,
    /// Grant leases with a key each and see how late the keys go
    Expire,
}

impl Scenario for LeaseArgs {
    fn run(&self, settings: &Settings, world: &World) -> Outcomes {
        match self.what {
            What::Grant => grant::run(self, settings, world),
            What::KeepAlive => keepalive::run(self, settings, world),
            What::Expire => expire::run(self, settings, world),
        }
    }
}

/// The field of a LeaseGrantResponse and a LeaseKeepAliveResponse that holds the lease's number.
const LEASE_ID: u64 = 2;
/// The field of both that holds the time to live.
const LEASE_TTL: u64 = 3;
