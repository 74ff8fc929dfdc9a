//! Who runs where.
//!
//! Up to three cores one executor plays both parts: measured, parting them only costs. From four on the replica
//! has a core of its own and every other core serves clients. A single executor is not pinned unless `--cores`
//! names CPUs, so that several members on one small machine spread instead of queueing on CPU 0.
#![forbid(unsafe_code)]

use std::fmt;

use crate::config::Cores;

/// One executor's place: a CPU, or wherever the kernel likes.
pub type CpuChoice = Option<usize>;

/// The executors of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// One executor plays both parts.
    Shared(CpuChoice),
    /// The replica's core, and those that serve clients.
    Parted {
        /// Raft, WAL and apply.
        replica: CpuChoice,
        /// Connections, reads and watches; at least one.
        sessions: Vec<CpuChoice>,
    },
}

/// From here on the replica gets a core of its own.
const PARTED_FROM: usize = 4;

impl Plan {
    /// Chooses among the `allowed` CPUs.
    ///
    /// # Errors
    /// When `--cores` names a CPU that the process may not use.
    pub fn new(cores: &Cores, allowed: &[usize]) -> Result<Self, String> {
        assert!(!allowed.is_empty(), "a process runs somewhere");
        let (chosen, named) = match cores {
            Cores::All => (allowed.to_vec(), false),
            Cores::Count(count) => (allowed.iter().copied().take(*count).collect(), false),
            Cores::Cpus(cpus) => {
                if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
                    return Err(format!(
                        "--cores names CPU {cpu}, but this process may run on {allowed:?} only"
                    ));
                }
                (cpus.clone(), true)
            }
        };
        if chosen.len() < PARTED_FROM {
            let place = named.then(|| chosen[0]);
            return Ok(Plan::Shared(place));
        }
        let sessions = chosen[1..].iter().copied().map(Some).collect();
        Ok(Plan::Parted { replica: Some(chosen[0]), sessions })
    }

    /// How many executors there are.
    pub fn executors(&self) -> usize {
        match self {
            Plan::Shared(_) => 1,
            Plan::Parted { sessions, .. } => 1 + sessions.len(),
        }
    }

    /// How many cores serve clients.
    pub fn sessions(&self) -> usize {
        match self {
            Plan::Shared(_) => 1,
            Plan::Parted { sessions, .. } => sessions.len(),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Plan::Shared(None) => write!(f, "one executor for raft and clients"),
            Plan::Shared(Some(cpu)) => write!(f, "one executor for raft and clients on CPU {cpu}"),
            Plan::Parted { sessions, .. } => write!(f, "one core for raft, {} for clients", sessions.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_machines_share_and_large_ones_part() {
        let cpus: Vec<usize> = (0..64).collect();
        assert_eq!(Plan::new(&Cores::All, &cpus[..1]), Ok(Plan::Shared(None)));
        assert_eq!(Plan::new(&Cores::All, &cpus[..2]), Ok(Plan::Shared(None)));
        assert_eq!(Plan::new(&Cores::Cpus(vec![1]), &cpus[..2]), Ok(Plan::Shared(Some(1))));
        assert!(Plan::new(&Cores::Cpus(vec![7]), &cpus[..2]).is_err());
        let Ok(Plan::Parted { replica, sessions }) = Plan::new(&Cores::All, &cpus) else {
            panic!("64 cores part")
        };
        assert_eq!((replica, sessions.len()), (Some(0), 63));
        assert_eq!(Plan::new(&Cores::Count(3), &cpus), Ok(Plan::Shared(None)));
    }
}
