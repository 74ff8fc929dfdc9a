//! Watchers and puts: from the put's planned begin to the event at the watcher.
#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use kevel::proto::etcdserverpb::WatchCreateRequest;
use kevel::stdx::time::Instant;

use super::put::PutSource;
use super::{Outcomes, Scenario, Settings, share};
use crate::keys::prefix_end;
use crate::loader::{Done, Loader, Request, Source, Then};
use crate::pace::{Load, Pace};
use crate::phase::{Job, Phase, World};
use crate::run::Run;
use crate::template::STAMP_BYTES;
use crate::units::size_positive;
use crate::watcher::{self, Streams, Watcher};

/// Puts per second unless --rate or --total says otherwise.
const RATE_DEFAULT: f64 = 100.0;

/// What `watch` takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Watch")]
pub struct WatchArgs {
    /// Watchers
    #[arg(long, value_name = "N", value_parser = size_positive, default_value = "100")]
    pub watchers: u64,
    /// Connections of the watchers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), default_value_t = 1)]
    pub watch_conns: u32,
    /// Watch streams per connection
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000), default_value_t = 1)]
    pub streams: u32,
    /// Each watcher watches a key of its own, as far as --key-space has them; otherwise all watch the prefix
    #[arg(long)]
    pub distinct: bool,
    /// Ask for the previous pair with each event
    #[arg(long)]
    pub prev_kv: bool,
    /// Put as fast as clients get answers, instead of 100 a second
    #[arg(long, conflicts_with = "rate")]
    pub closed: bool,
}

impl Scenario for WatchArgs {
    fn run(&self, settings: &Settings, world: &World) -> Outcomes {
        let common = &settings.common;
        if (common.keys.val_size as usize) < STAMP_BYTES {
            return Err(format!("watch needs --val-size of {STAMP_BYTES} at least: values carry the time"));
        }
        let mut settings = settings.clone();
        if !self.closed && common.load.rate.is_none() {
            settings.common.load.rate = Some(RATE_DEFAULT);
        }
        let connections = settings.connections(1);
        let (load, watchers) = (settings.load(), self.watchers);
        let mut jobs = self.watch_jobs(&settings);
        jobs.extend(self.put_jobs(&settings, load, connections, watchers));
        let phase =
            Phase { name: "watch".into(), classes: vec!["put", "event"], jobs, bounds: settings.bounds() };
        Ok(vec![world.run(phase)?])
    }
}

impl WatchArgs {
    fn watch_jobs(&self, settings: &Settings) -> Vec<Job> {
        let conns = self.watch_conns as usize;
        let streams = self.streams as usize;
        let space = settings.common.keys.key_space;
        let mut first = 0u64;
        (0..conns)
            .map(|at| {
                let here = share(self.watchers as usize, at, conns);
                let requests: Streams = (0..streams)
                    .map(|stream| {
                        (0..share(here, stream, streams))
                            .map(|_| {
                                first += 1;
                                self.create(settings, (first - 1) % space)
                            })
                            .collect()
                    })
                    .collect();
                let nonce = settings.nonce;
                Job::listener(streams, move |record, run| {
                    Watcher::new(requests, 1, watcher::stamps(nonce), run, record)
                })
            })
            .collect()
    }

    fn create(&self, settings: &Settings, number: u64) -> WatchCreateRequest {
        let (key, range_end) = if self.distinct {
            (settings.spelling.key(number), Vec::new())
        } else {
            let prefix = settings.spelling.prefix();
            let key = if prefix.is_empty() { vec![0] } else { prefix.to_vec() };
            (key, prefix_end(prefix))
        };
        WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            prev_kv: self.prev_kv,
            progress_notify: true,
            ..Default::default()
        }
    }

    fn put_jobs(&self, settings: &Settings, load: Load, connections: usize, watchers: u64) -> Vec<Job> {
        let space = settings.common.keys.key_space;
        let distinct = self.distinct;
        (0..connections)
            .map(|at| {
                let settings = settings.clone();
                let clients = settings.clients(at, connections);
                let pace =
                    Pace::new(load, at, connections, settings.common.keys.seed.wrapping_add(at as u64));
                Job::driver(clients, move |record, run| {
                    let watched =
                        if distinct { Watched::Keys { watchers, space } } else { Watched::Prefix(watchers) };
                    let put = PutSource::new(&settings, settings.draw(at, connections));
                    let source = Observed { put, watched, owed: vec![0; clients], run: run.clone() };
                    Loader::new(source, pace, clients, run, record)
                })
            })
            .collect()
    }
}

/// How many watch a key.
#[derive(Clone, Copy)]
enum Watched {
    Prefix(u64),
    Keys { watchers: u64, space: u64 },
}

impl Watched {
    fn watchers(self, number: u64) -> u64 {
        match self {
            Watched::Prefix(watchers) => watchers,
            Watched::Keys { watchers, space } => watchers / space + u64::from(number < watchers % space),
        }
    }
}

/// Puts whose events are owed to watchers.
struct Observed {
    put: PutSource,
    watched: Watched,
    /// By client: events that its put owes.
    owed: Vec<u64>,
    run: Arc<Run>,
}

impl Source for Observed {
    fn next(&mut self, client: usize, intended: Instant) -> Option<Request> {
        let (number, request) = self.put.put(intended);
        self.owed[client] = self.watched.watchers(number);
        Some(request)
    }

    fn on_message(&mut self, _client: usize, _message: &Bytes) {}

    fn on_success(&mut self, client: usize) -> Then {
        self.run.expect_events(self.owed[client]);
        Then::Done(Done { class: 0, keys: 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_watcher_watches_some_key() {
        for (watchers, space) in [(7, 3), (3, 7), (10, 10)] {
            let keys = Watched::Keys { watchers, space };
            assert_eq!((0..space).map(|number| keys.watchers(number)).sum::<u64>(), watchers);
        }
        assert_eq!(Watched::Prefix(5).watchers(1), 5);
    }
}
