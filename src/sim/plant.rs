//! Planted bugs: proof that the judge can fail.
//!
//! Each is switched on at a seam of the simulated world, so that the member itself is always the real one.
#![forbid(unsafe_code)]

macro_rules! plants {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $seed:literal;)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Plant { $($(#[doc = $doc])* $name,)* }

        impl Plant {
            /// All of them.
            pub const ALL: &[Plant] = &[$(Plant::$name,)*];

            /// The name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Plant::$name => $text,)* }
            }

            /// A seed that finds it.
            pub fn seed(self) -> u64 {
                match self { $(Plant::$name => $seed,)* }
            }

            /// What is wrong with it.
            pub fn story(self) -> &'static str {
                match self { $(Plant::$name => concat!($($doc),*),)* }
            }
        }
    };
}

plants! {
    /// A sync of the log says it is done and does nothing.
    SkippedSync = "skipped-sync", 3;
    /// The end of a log write is reported before it has come.
    EarlySync = "early-sync", 0;
    /// The store claims an index one below what its trees contain, so an entry is applied twice.
    AppliedBehind = "applied-behind", 10;
    /// The store claims an index one above what its trees contain, so an entry is left out.
    AppliedAhead = "applied-ahead", 1;
    /// What a torn write left behind the end of the log stays there.
    TailNotZeroed = "tail-not-zeroed", 20928;
    /// Recovery takes the last whole record for torn.
    LastRecordDropped = "last-record-dropped", 1;
    /// A checkpoint is reported durable before it is: the log goes, and pages are used again too early.
    EarlyCheckpoint = "early-checkpoint", 1534;
    /// A sync of the store file does nothing.
    SkippedStoreSync = "skipped-store-sync", 1;
    /// The meta page of a checkpoint is written before the pages that it names are durable.
    MetaBeforePages = "meta-before-pages", 3;
    /// The log loses one segment more than the replica released.
    ReleasedTooMuch = "released-too-much", 11;
    /// A compaction takes a pair that is still to be read.
    CompactionEatsLive = "compaction-eats-live", 1;
    /// A linearizable read asks nobody: after a restart it shows the last checkpoint.
    StaleRead = "stale-read", 5006;
    /// A response with events is lost on its way to somebody who catches up.
    LostOnCatchUp = "lost-on-catch-up", 5;
    /// A response with events comes twice.
    DoubledEvent = "doubled-event", 4;
    /// Progress overtakes events on their way.
    ProgressOvertakes = "progress-overtakes", 0;
    /// A restart brings back a lease that was revoked.
    LeaseRevived = "lease-revived", 248;
    /// The member's clock is a fifth too fast, so leases expire early.
    FastClock = "fast-clock", 2;
}

#[cfg(test)]
mod tests {
    use super::super::run;
    use super::*;

    #[test]
    fn the_page_of_the_simulator_lists_them_all() {
        let page = include_str!("main.rs");
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("//! | `")).collect();
        let told = |plant: &Plant| {
            format!("//! | `{}` | {} | {} |", plant.name(), plant.story().trim(), plant.seed())
        };
        assert_eq!(rows, Plant::ALL.iter().map(told).collect::<Vec<_>>());
    }

    #[test]
    fn each_is_found_by_its_seed_which_passes_without_it() {
        for &plant in Plant::ALL {
            let (seed, name) = (plant.seed(), plant.name());
            assert!(run::world(seed, Some(plant), false).is_err(), "seed {seed} does not find {name}");
            let plain = run::world(seed, None, false).map_err(|failure| failure.message);
            assert!(plain.is_ok(), "seed {seed} fails by itself: {plain:?}");
        }
    }
}
