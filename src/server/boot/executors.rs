//! The executors of a member: one that plays both parts, or one for each core.
#![forbid(unsafe_code)]

use std::fs;

use super::serving::SessionCore;
use super::wiring::ReplicaMain;
use crate::config::Cores;
use crate::server::core::plan::Plan;
use crate::server::io::executor::spawn;
use crate::server::io::task;

/// Runs every core to its end.
///
/// # Errors
/// When an executor cannot be started.
pub fn run(
    plan: Plan,
    ring_depth: usize,
    replica: ReplicaMain,
    mut sessions: Vec<SessionCore>,
) -> Result<(), String> {
    let executors = match plan {
        Plan::Shared(place) => {
            let session = sessions.remove(0);
            vec![spawn("member", place, ring_depth, move || async move {
                task::spawn(replica.run());
                session.run().await;
            })?]
        }
        Plan::Parted { replica: place, sessions: places } => {
            let mut executors = vec![spawn("replica", place, ring_depth, move || replica.run())?];
            for (number, (place, session)) in places.into_iter().zip(sessions).enumerate() {
                executors
                    .push(spawn(&format!("session-{number}"), place, ring_depth, move || session.run())?);
            }
            executors
        }
    };
    for executor in executors {
        executor.join()?;
    }
    Ok(())
}

/// The CPUs that this process may run on, as the kernel lists them.
pub fn allowed_cpus() -> Vec<usize> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    cpus_allowed(&status)
        .unwrap_or_else(|| (0..std::thread::available_parallelism().map_or(1, usize::from)).collect())
}

fn cpus_allowed(status: &str) -> Option<Vec<usize>> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim();
    match format!("{list},").parse() {
        Ok(Cores::Cpus(cpus)) => Some(cpus),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_names_the_cpus() {
        assert_eq!(cpus_allowed("Name:\tx\nCpus_allowed_list:\t0-2,7\n"), Some(vec![0, 1, 2, 7]));
        assert_eq!(cpus_allowed("Cpus_allowed_list:\t3\n"), Some(vec![3]));
        assert_eq!(cpus_allowed("Name:\tx\n"), None);
        assert!(!allowed_cpus().is_empty());
    }
}
