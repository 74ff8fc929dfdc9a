//! Many large objects, listed by several callers at once: what it costs the server, above all memory.
#![forbid(unsafe_code)]

use clap::Args;

use super::range::{How, RangeArgs, RangeSource};
use super::{Outcomes, Scenario, Settings, fill};
use crate::phase::{Phase, World};
use crate::units::{size, size_positive};

const CALLERS_DEFAULT: u32 = 4;

/// What `list` takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "List")]
pub struct ListArgs {
    /// Objects under the prefix
    #[arg(long, value_name = "N", value_parser = size_positive, default_value = "10k")]
    pub objects: u64,
    /// Bytes of an object
    #[arg(long, value_name = "BYTES", value_parser = size, default_value = "4Ki")]
    pub object_size: u64,
    /// The objects are there already
    #[arg(long)]
    pub no_fill: bool,
    #[command(flatten)]
    pub how: How,
}

impl Scenario for ListArgs {
    fn run(&self, settings: &Settings, world: &World) -> Outcomes {
        let mut common = settings.common.clone();
        common.keys.key_space = self.objects;
        common.keys.val_size = self.object_size;
        let mut settings = Settings::new(common, settings.nonce)?;
        let mut outcomes = Vec::new();
        if !self.no_fill {
            outcomes.push(fill::prepare(&settings, world)?);
        }
        let load = &mut settings.common.load;
        let callers = *load.clients.get_or_insert(CALLERS_DEFAULT);
        // A list fills a connection's window by itself: callers have connections of their own, as apiservers do.
        let connections = settings.connections(callers);
        let prefix = settings.common.keys.key_prefix.clone();
        let args = RangeArgs { prefix: Some(prefix), how: self.how.clone(), ..RangeArgs::default() };
        let jobs = settings.jobs(settings.load(), connections, move |settings, at| {
            RangeSource::new(&args, &settings.spelling, settings.draw(at, connections))
        });
        let phase = Phase { name: "list".into(), classes: vec!["list"], jobs, bounds: settings.bounds() };
        outcomes.push(world.run(phase)?);
        Ok(outcomes)
    }
}
