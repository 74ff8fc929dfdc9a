//! The version that a cluster agrees on: the lowest of its members', which the leader asks for.
//!
//! Versions have two numbers here. A member that does not tell its version keeps the cluster where it is; a cluster
//! that has agreed on none begins with the oldest one then, and goes up when all have told theirs.
#![forbid(unsafe_code)]

use super::Cluster;

/// The oldest version that a cluster agrees on.
const OLDEST: &str = "3.0.0";

impl Cluster {
    /// The version that the cluster is to agree on, if that is another one than now. `members` are the versions that
    /// its members have told; none for one that has not.
    pub fn next_version(&self, members: &[Option<String>]) -> Option<String> {
        let told: Option<Vec<(u64, u64)>> =
            members.iter().map(|version| minor(version.as_deref()?)).collect();
        let lowest = told.and_then(|told| told.into_iter().min());
        if self.version.is_empty() {
            return Some(lowest.map_or_else(|| OLDEST.to_owned(), shown));
        }
        let (now, lowest) = (minor(&self.version)?, lowest?);
        if let Some(target) = &self.downgrade_target {
            let target = minor(target)?;
            let is_one_down = |from: (u64, u64)| from.0 == target.0 && from.1 == target.1 + 1;
            let may = target != now && is_one_down(now) && is_one_down(lowest);
            return may.then(|| shown(target));
        }
        (now.0 == lowest.0 && now < lowest).then(|| shown(lowest))
    }
}

/// The first two numbers of a version; none if it is no version.
pub fn minor(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn shown((major, minor): (u64, u64)) -> String {
    format!("{major}.{minor}.0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_goes_up_to_its_lowest_member_and_down_only_when_told() {
        let next = |now: &str, target: Option<&str>, members: &[&str]| {
            let downgrade_target = target.map(str::to_owned);
            let cluster = Cluster { version: now.to_owned(), downgrade_target, ..Cluster::default() };
            let told = |version: &&str| (!version.is_empty()).then(|| (*version).to_owned());
            cluster.next_version(&members.iter().map(told).collect::<Vec<_>>())
        };
        assert_eq!(next("", None, &["3.7.3"]).as_deref(), Some("3.7.0"));
        assert_eq!(next("", None, &["3.7.3", "3.6.5"]).as_deref(), Some("3.6.0"));
        for unknown in ["", "x"] {
            assert_eq!(next("", None, &["3.7.3", unknown]).as_deref(), Some(OLDEST));
            assert_eq!(next("3.0.0", None, &["3.7.3", unknown]), None);
        }
        assert_eq!(next("3.0.0", None, &["3.7.3", "3.7.0"]).as_deref(), Some("3.7.0"));
        assert_eq!(next("3.6.0", None, &["3.7.3", "3.6.9"]), None);
        assert_eq!(next("3.7.0", None, &["3.6.1"]), None, "nobody goes down by itself");
        assert_eq!(next("3.7.0", Some("3.6.0"), &["3.7.3", "3.7.3"]).as_deref(), Some("3.6.0"));
        assert_eq!(next("3.6.0", Some("3.6.0"), &["3.7.3"]), None);
        assert_eq!(next("3.7.0", Some("3.5.0"), &["3.7.3"]), None);
    }
}
