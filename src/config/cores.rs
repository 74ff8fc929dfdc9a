//! `--cores`: how many CPUs a member uses, or which.
#![forbid(unsafe_code)]

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
}
