//! Running a model.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::atomic::set_fences;
use loom::model::Builder;

/// Tries every order of a model's threads with up to so many preemptions, and says how many there were.
pub fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) -> u64 {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 5_000;
    let executions = Arc::new(AtomicU64::new(0));
    let counted = executions.clone();
    builder.check(move || {
        set_fences(Some(Arc::default()));
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    set_fences(None);
    executions.load(Ordering::Relaxed)
}
