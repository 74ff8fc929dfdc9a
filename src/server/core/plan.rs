//! Who runs where.
//!
//! Up to three cores one executor plays both parts: measured, parting them only costs. From four on the replica
//! has a core of its own and every other core serves clients. A single executor is not pinned unless `--cores`
//! names CPUs, so that several members on one small machine spread instead of queueing on CPU 0.
#![forbid(unsafe_code)]

use std::fmt;

/// The value of `--cores`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cores {
    /// All CPUs that the process may run on.
    #[default]
    All,
    /// That many of them.
    Count(usize),
    /// Exactly these.
    Cpus(Vec<usize>),
}

impl std::str::FromStr for Cores {
    type Err = String;

    /// `4` is a count, `0-3` or `0,2` or `5,` are CPUs.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a count such as 4 or CPUs such as 0-3 or 0,2 but found {text:?}");
        if text.is_empty() || text == "all" {
            return Ok(Cores::All);
        }
        if let Ok(count) = text.parse::<usize>() {
            return if count == 0 { Err(wrong()) } else { Ok(Cores::Count(count)) };
        }
        let mut cpus = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.parse().map_err(|_| wrong())?;
            let last: usize = last.parse().map_err(|_| wrong())?;
            if first > last || last > 4095 {
                return Err(wrong());
            }
            cpus.extend(first..=last);
        }
        cpus.sort_unstable();
        cpus.dedup();
        if cpus.is_empty() { Err(wrong()) } else { Ok(Cores::Cpus(cpus)) }
    }
}

/// One executor's place: a CPU, or wherever the kernel likes.
pub type Place = Option<usize>;

/// The executors of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// One executor plays both parts.
    Shared(Place),
    /// The replica's core, and those that serve clients.
    Parted {
        /// Raft, WAL and apply.
        replica: Place,
        /// Connections, reads and watches; at least one.
        sessions: Vec<Place>,
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
    fn cores_are_a_count_or_a_list() {
        assert_eq!("4".parse(), Ok(Cores::Count(4)));
        assert_eq!("0-2,2,5".parse(), Ok(Cores::Cpus(vec![0, 1, 2, 5])));
        assert_eq!("3,".parse(), Ok(Cores::Cpus(vec![3])));
        assert_eq!("".parse(), Ok(Cores::All));
        for wrong in ["0", "x", "3-1", ",", "1-99999"] {
            assert!(wrong.parse::<Cores>().is_err(), "{wrong}");
        }
    }

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
