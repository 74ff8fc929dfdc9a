//! Pins of revisions under the model checker; see [`crate::stdx::sync`].
//!
//! Readers read at revision 3, of which the sweep of a compaction to 5 would take something away that died at 4. Both
//! see the store only as states that are published one after the other, as everything else of it is.
#![forbid(unsafe_code)]

use loom::sync::Arc;
use loom::thread;

use super::pin::Pins;
use crate::stdx::sync::explore::explore;
use crate::stdx::sync::plant::{Fault, Plant, is_found};
use crate::stdx::sync::{AtomicI64, Ordering};

/// The revision that is read.
const READ: i64 = 3;
/// The revision that the compaction goes to.
const COMPACTED: i64 = 5;

/// The published state: what was compacted and what was swept.
struct Published(AtomicI64);

impl Published {
    fn show(&self, compacted: i64, swept: i64) {
        self.0.store(compacted << 8 | swept, Ordering::Release);
    }

    fn compacted(&self) -> i64 {
        self.0.load(Ordering::Acquire) >> 8
    }

    fn swept(&self) -> i64 {
        self.0.load(Ordering::Acquire) & 0xFF
    }
}

/// Steps in another order than the code's.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Right,
    /// The sweep looks at the pins, and then publishes the compaction.
    SweepLooksFirst,
    /// A reader looks at the compaction revision, and then pins.
    ReaderLooksFirst,
}

fn sweep_and_pin(order: Order) -> u64 {
    explore(2, move || {
        let pins = Pins::new(2);
        let published = Arc::new(Published(AtomicI64::new(0)));
        let readers = [0, 1].map(|core| {
            let (mut slot, published) = (pins.slot(core), published.clone());
            thread::spawn(move || {
                let early = published.compacted();
                let compacted =
                    || if order == Order::ReaderLooksFirst { early } else { published.compacted() };
                let newer = core == 1 && slot.pin(READ + 1, || published.compacted());
                if slot.pin(READ, compacted) {
                    assert!(published.swept() <= READ, "swept under a pin");
                    slot.unpin(READ);
                }
                if newer {
                    assert!(published.swept() <= READ + 1, "swept under a pin");
                    slot.unpin(READ + 1);
                }
            })
        });
        let early = pins.lowest();
        published.show(COMPACTED, 0);
        let pinned = if order == Order::SweepLooksFirst { early } else { pins.lowest() };
        published.show(COMPACTED, pinned.unwrap_or(COMPACTED).min(COMPACTED));
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert_eq!(pins.lowest(), None, "a pin was never given back");
    })
}

#[test]
fn nothing_is_swept_under_a_pin() {
    let executions = sweep_and_pin(Order::Right);
    assert!(executions > 10_000, "only {executions} orders were tried");
}

#[test]
#[should_panic(expected = "swept under a pin")]
fn a_sweep_that_looks_before_it_publishes_is_found() {
    sweep_and_pin(Order::SweepLooksFirst);
}

#[test]
#[should_panic(expected = "swept under a pin")]
fn a_reader_that_looks_before_it_pins_is_found() {
    sweep_and_pin(Order::ReaderLooksFirst);
}

#[test]
fn faults_are_found() {
    let plant = |line, occurrence, fault| Plant {
        file: "mvcc/pin.rs",
        text: include_str!("pin.rs"),
        occurrence,
        line,
        fault,
    };
    for plant in [
        plant("fence(Ordering::SeqCst)", 0, Fault::LeftOut),
        plant("fence(Ordering::SeqCst)", 1, Fault::LeftOut),
        plant(".store(lowest, Ordering::Release)", 0, Fault::LeftOut),
    ] {
        assert!(
            is_found(&plant, || _ = sweep_and_pin(Order::Right)),
            "{} {:?}",
            plant.line,
            plant.occurrence
        );
    }
}
