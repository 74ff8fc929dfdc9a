//! Reads and puts in a given proportion.
#![forbid(unsafe_code)]

use bytes::Bytes;
use clap::Args;
use kevel::stdx::prng::Prng;
use kevel::stdx::time::Instant;

use super::put::PutSource;
use super::range::{How, RangeArgs, RangeSource};
use super::{Outcomes, Scenario, Settings, fill};
use crate::loader::{Done, Request, Source, Then};
use crate::pace::unit;
use crate::phase::{Phase, World};

/// What `mixed` takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Mixed")]
pub struct MixedArgs {
    /// Share of reads, from 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share_of_one, default_value_t = 0.9)]
    pub read_ratio: f64,
    /// Read so many keys from each drawn one on, instead of one
    #[arg(long, value_name = "N")]
    pub span: Option<u64>,
    /// Write all keys first
    #[arg(long)]
    pub fill: bool,
    #[command(flatten)]
    pub how: How,
}

fn share_of_one(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("not a number from 0 to 1".to_owned()),
    }
}

impl Scenario for MixedArgs {
    fn run(&self, settings: &Settings, world: &World) -> Outcomes {
        let mut outcomes = Vec::new();
        if self.fill {
            outcomes.push(fill::prepare(settings, world)?);
        }
        let connections = settings.connections(1);
        let args = RangeArgs { span: self.span, how: self.how.clone(), ..RangeArgs::default() };
        let read_ratio = self.read_ratio;
        let jobs = settings.jobs(settings.load(), connections, move |settings, at| Mixed {
            reads: RangeSource::new(&args, &settings.spelling, settings.draw(at, connections)),
            puts: PutSource::new(settings, settings.draw(at, connections)),
            read_ratio,
            prng: Prng::new(settings.common.keys.seed ^ (at as u64) << 32),
            is_read: Vec::new(),
        });
        let phase =
            Phase { name: "mixed".into(), classes: vec!["read", "put"], jobs, bounds: settings.bounds() };
        outcomes.push(world.run(phase)?);
        Ok(outcomes)
    }
}

struct Mixed {
    reads: RangeSource,
    puts: PutSource,
    read_ratio: f64,
    prng: Prng,
    /// By client.
    is_read: Vec<bool>,
}

impl Source for Mixed {
    fn next(&mut self, client: usize, intended: Instant) -> Option<Request> {
        if self.is_read.len() <= client {
            self.is_read.resize(client + 1, false);
        }
        self.is_read[client] = unit(&mut self.prng) <= self.read_ratio;
        if self.is_read[client] {
            self.reads.next(client, intended)
        } else {
            self.puts.next(client, intended)
        }
    }

    fn on_message(&mut self, client: usize, message: &Bytes) {
        if self.is_read[client] {
            self.reads.on_message(client, message);
        }
    }

    fn on_success(&mut self, client: usize) -> Then {
        if self.is_read[client] {
            self.reads.on_success(client)
        } else {
            Then::Done(Done { class: 1, keys: 1 })
        }
    }
}
