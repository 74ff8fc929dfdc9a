//! The scenarios: what is asked of the server. Each makes jobs for [`crate::phase`], mostly a [`Source`] in a
//! [`Loader`] per connection.
//!
//! [`Source`]: crate::loader::Source
//! [`Loader`]: crate::loader::Loader
#![forbid(unsafe_code)]

pub mod fill;
pub mod kubernetes;
pub mod lease;
pub mod list;
pub mod mixed;
pub mod put;
pub mod range;
pub mod txn;
pub mod watch;

use std::sync::Arc;

use kevel::stdx::time::Duration;

use crate::args::Common;
use crate::keys::{Draw, Spelling};
use crate::loader::{Loader, Source};
use crate::pace::{Load, Pace};
use crate::phase::{Job, Outcome, World};
use crate::run::Bounds;
use crate::template::Nonce;

const DURATION_DEFAULT: Duration = Duration::from_secs(10);
const IN_FLIGHT_DEFAULT: u32 = 1000;

/// The settings of a run, as scenarios need them.
#[derive(Clone)]
pub struct Settings {
    pub common: Common,
    pub spelling: Spelling,
    pub nonce: Nonce,
}

/// What a scenario ends with: its phases' measurements, the one of interest last.
pub type Outcomes = Result<Vec<Outcome>, String>;

impl Settings {
    /// Checks what the command line alone cannot.
    ///
    /// # Errors
    /// When keys are too short for their space.
    pub fn new(common: Common, nonce: Nonce) -> Result<Self, String> {
        let keys = &common.keys;
        let spelling = Spelling::new(&keys.key_prefix, keys.key_size as usize, keys.key_space)?;
        Ok(Self { common, spelling, nonce })
    }

    /// The bounds that the command line sets.
    pub fn bounds(&self) -> Bounds {
        let load = &self.common.load;
        let duration = load.duration.or(load.total.is_none().then_some(DURATION_DEFAULT));
        Bounds { total: load.total, duration, warmup: load.warmup, grace: None }
    }

    /// The pace that the command line sets.
    pub fn load(&self) -> Load {
        let load = &self.common.load;
        load.rate.map_or(Load::Closed, |per_second| Load::Open { per_second, poisson: load.poisson })
    }

    /// Connections, unless the command line says otherwise `default`.
    pub fn connections(&self, default: u32) -> usize {
        self.common.load.conns.unwrap_or(default) as usize
    }

    /// Clients of connection `at` of `connections`.
    pub fn clients(&self, at: usize, connections: usize) -> usize {
        let open = self.common.load.rate.is_some();
        let default = if open { IN_FLIGHT_DEFAULT.max(connections as u32) } else { connections as u32 };
        share(self.common.load.clients.unwrap_or(default) as usize, at, connections).max(1)
    }

    /// How connection `at` of `connections` draws its keys.
    pub fn draw(&self, at: usize, connections: usize) -> Draw {
        let keys = &self.common.keys;
        Draw::new(keys.keys, keys.zipf, keys.key_space, at as u64, connections as u64, keys.seed)
    }

    /// A job per connection, each with a source of its own that `make` makes for connection `at`.
    pub fn jobs<S: Source + 'static>(
        &self,
        load: Load,
        connections: usize,
        make: impl Fn(&Self, usize) -> S + Send + Sync + 'static,
    ) -> Vec<Job> {
        let make = Arc::new(make);
        (0..connections)
            .map(|at| {
                let (settings, make) = (self.clone(), make.clone());
                let clients = self.clients(at, connections);
                let pace = Pace::new(load, at, connections, self.common.keys.seed.wrapping_add(at as u64));
                Job::driver(clients, move |record, run| {
                    Loader::new(make(&settings, at), pace, clients, run, record)
                })
            })
            .collect()
    }
}

/// The part of `total` that number `at` of `among` gets.
pub fn share(total: usize, at: usize, among: usize) -> usize {
    total / among + usize::from(at < total % among)
}

/// A scenario with its arguments.
pub trait Scenario {
    /// Runs it.
    ///
    /// # Errors
    /// When it cannot begin.
    fn run(&self, settings: &Settings, world: &World) -> Outcomes;
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_add_up() {
        for (total, among) in [(10, 3), (2, 5), (100, 10)] {
            assert_eq!((0..among).map(|at| share(total, at, among)).sum::<usize>(), total);
        }
    }
}
