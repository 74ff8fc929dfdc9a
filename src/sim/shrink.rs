//! Making a world that fails smaller: fewer faults and requests, and without what the failure does not need. What is
//! left fails too, and is easier to read.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;

/// What a cluster's world can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Changes,
    Watchers,
    Leases,
    Compactions,
}

impl Part {
    const ALL: [Part; 4] = [Part::Changes, Part::Watchers, Part::Leases, Part::Compactions];

    fn name(self) -> &'static str {
        match self {
            Part::Changes => "changes",
            Part::Watchers => "watchers",
            Part::Leases => "leases",
            Part::Compactions => "compactions",
        }
    }
}

/// What is cut off a world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// So many faults happen at most, if it is not as many as the seed says.
    faults: Option<u64>,
    /// So many requests are made at most, likewise.
    requests: Option<u32>,
    without: BTreeSet<Part>,
}

impl Cuts {
    /// What stands on the command line: `faults=2,requests=10,no-watchers`.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut cuts = Self::default();
        for word in text.split(',') {
            let unknown =
                || format!("{word} is not faults=N, requests=N or a part that a world can do without");
            match word.split_once('=') {
                Some(("faults", number)) => cuts.faults = Some(number.parse().map_err(|_| unknown())?),
                Some(("requests", number)) => cuts.requests = Some(number.parse().map_err(|_| unknown())?),
                _ => {
                    let is_it = |part: &&Part| word.strip_prefix("no-") == Some(part.name());
                    cuts.without.insert(*Part::ALL.iter().find(is_it).ok_or_else(unknown)?);
                }
            }
        }
        Ok(cuts)
    }

    /// How many faults happen in a world whose seed says so many.
    pub fn faults(&self, drawn: u64) -> u64 {
        self.faults.map_or(drawn, |faults| faults.min(drawn))
    }

    /// How many requests are made in a world whose seed says so many.
    pub fn requests(&self, drawn: u32) -> u32 {
        self.requests.map_or(drawn, |requests| requests.min(drawn))
    }

    /// Whether a world keeps a part.
    pub fn keeps(&self, part: Part) -> bool {
        !self.without.contains(&part)
    }

    /// The world that is left of one that fails, as long as `fails` holds of it.
    pub fn shrink(mut self, fails: impl Fn(&Cuts) -> bool) -> Self {
        for part in Part::ALL {
            let mut smaller = self.clone();
            if smaller.without.insert(part) && fails(&smaller) {
                self = smaller;
            }
        }
        let smaller = |faults| Cuts { faults: Some(faults), ..self.clone() };
        if let Some(found) = [0, 1, 2, 3, 4, 6, 8].map(smaller).into_iter().find(|cuts| fails(cuts)) {
            self = found;
        }
        let smaller = |requests| Cuts { requests: Some(requests), ..self.clone() };
        if let Some(found) = [2, 5, 10, 20, 40].map(smaller).into_iter().find(|cuts| fails(cuts)) {
            self = found;
        }
        self
    }
}

impl fmt::Display for Cuts {
    /// As it stands on the command line, with a blank before it; nothing where nothing is cut.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = self.faults.map(|faults| format!("faults={faults}"));
        let requests = self.requests.map(|requests| format!("requests={requests}"));
        let parts = self.without.iter().map(|part| format!("no-{}", part.name()));
        let words: Vec<String> = faults.into_iter().chain(requests).chain(parts).collect();
        if words.is_empty() { Ok(()) } else { write!(f, " --cut {}", words.join(",")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_can_be_read_back() {
        let text = "faults=2,requests=10,no-changes,no-watchers";
        let cuts = Cuts::parse(text).unwrap();
        assert_eq!(cuts.to_string(), format!(" --cut {text}"));
        assert_eq!((cuts.faults(7), cuts.faults(1), cuts.requests(7)), (2, 1, 7));
        assert!(cuts.keeps(Part::Leases) && !cuts.keeps(Part::Changes));
        assert_eq!(Cuts::default().to_string(), "");
        assert!(Cuts::parse("no-judge").is_err() && Cuts::parse("faults=x").is_err());
    }

    #[test]
    fn what_a_failure_needs_stays() {
        let fails = |cuts: &Cuts| cuts.faults(9) >= 3 && cuts.requests(90) >= 15 && cuts.keeps(Part::Leases);
        let shrunk = Cuts::default().shrink(fails);
        assert_eq!(shrunk.to_string(), " --cut faults=3,requests=20,no-changes,no-watchers,no-compactions");
    }
}
