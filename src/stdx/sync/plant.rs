//! Faults at one line of the code under test.
//!
//! A plant names a line by the text that stands there. The atomic operations of that line are then done with a weaker
//! ordering, or not at all. The code under test knows nothing of it: the model's atomics ask which line calls them.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, Location};
use std::sync::atomic::Ordering;

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its operations are relaxed.
    Relaxed,
    /// Its stores and fences are not done, its loads find what a new atomic holds.
    LeftOut,
}

/// A line with a fault.
#[derive(Clone, Copy, Debug)]
pub struct Plant {
    /// How the file's path ends.
    pub file: &'static str,
    /// The file's text.
    pub text: &'static str,
    /// Which occurrence of `line` in the text, counted from 0.
    pub occurrence: usize,
    /// What the line contains.
    pub line: &'static str,
    /// What is wrong with it.
    pub fault: Fault,
}

/// The plant, resolved to a line number.
#[derive(Clone, Copy)]
struct Planted {
    file: &'static str,
    line: u32,
    fault: Fault,
}

thread_local! {
    // The model checker runs all of a model's threads on the thread that called it.
    static PLANTED: RefCell<Option<Planted>> = const { RefCell::new(None) };
    static REACHED: Cell<bool> = const { Cell::new(false) };
}

/// The fault at the line that calls, if one is planted there.
pub(super) fn at(caller: &Location<'_>) -> Option<Fault> {
    let planted = PLANTED.with_borrow(|planted| *planted)?;
    let hit = caller.line() == planted.line && caller.file().ends_with(planted.file);
    if hit {
        REACHED.set(true);
    }
    hit.then_some(planted.fault)
}

/// The ordering that a line gets which asks for `ordering`.
pub(super) fn weakened(ordering: Ordering, caller: &Location<'_>) -> Ordering {
    if at(caller).is_some() { Ordering::Relaxed } else { ordering }
}

/// Runs `model`, which passes without a plant, with one: true if the model fails then.
///
/// # Panics
/// When no line has the text, or the model does not come to that line.
pub fn is_found(plant: &Plant, model: impl Fn()) -> bool {
    let number = plant.text.lines().enumerate().filter(|(_, line)| line.contains(plant.line));
    let (line, _) = number.clone().nth(plant.occurrence).unwrap_or_else(|| panic!("no line has {plant:?}"));
    PLANTED.set(Some(Planted { file: plant.file, line: line as u32 + 1, fault: plant.fault }));
    REACHED.set(false);
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(AssertUnwindSafe(model));
    panic::set_hook(hook);
    PLANTED.set(None);
    assert!(REACHED.get(), "no operation is done at {} {:?}", plant.file, plant.line);
    outcome.is_err()
}
