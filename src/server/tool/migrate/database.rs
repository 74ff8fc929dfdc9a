//! What a database of etcd says of itself: how far it has got, which release has written it, and whether it has what
//! Kevel has no place for.
#![forbid(unsafe_code)]

use raft::eraftpb::ConfState;

use super::super::Failed;
use super::members;
use crate::bbolt::{Database, ReadError, Source};
use crate::snapshot::status::each_pair;

/// How far a database has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// Index of the last log entry that is in it.
    pub(super) index: u64,
    /// Term of that entry.
    pub(super) term: u64,
}

/// What a database says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Said {
    /// How far it has got.
    pub(super) reached: Reached,
    /// Who votes, as raft goes by; none where it does not say so.
    pub(super) conf_state: Option<ConfState>,
    /// The release that has written it; none before etcd 3.6.
    pub(super) version: Option<String>,
}

impl Said {
    /// Whether etcd 3.5 or 3.6 has written it.
    pub(super) fn is_of_older(&self) -> bool {
        self.version.as_deref().is_none_or(|version| !version.starts_with("3.7."))
    }
}

/// Looks at the small buckets, before the large ones are taken in.
///
/// # Errors
/// What is damaged, or does not fit, and what to do.
pub(super) fn look<S: Source + ?Sized>(database: &Database<'_, S>, shown: &str) -> Result<Said, Failed> {
    let damaged = |error: ReadError| Failed::error(format!("{shown}: {error}"));
    let mut said = Said::default();
    if let Some(meta) = database.bucket(b"meta").map_err(damaged)? {
        let read = each_pair(meta, |key, value| {
            let number = || value.try_into().map_or(0, u64::from_be_bytes);
            match key {
                b"consistent_index" => said.reached.index = number(),
                b"term" => said.reached.term = number(),
                b"storageVersion" => said.version = Some(String::from_utf8_lossy(value).into_owned()),
                b"confState" => {
                    said.conf_state = members::read(value)
                        .map_err(|why| ReadError::Damaged(format!("bucket meta: confState: {why}")))?;
                }
                _ => {}
            }
            Ok(())
        });
        read.map_err(damaged)?;
    }
    if let Some(why) = refusal(said.reached, said.version.as_deref()) {
        return Err(Failed::error(format!("{shown} {why}")));
    }
    if has_auth(database).map_err(damaged)? {
        return Err(Failed::error(format!(
            "{shown} has users, roles or authentication, which Kevel does not have yet. To go on without them, start \
             etcd, switch authentication off (`etcdctl auth disable`), delete them (`etcdctl user delete`, \
             `etcdctl role delete`), stop etcd, and migrate again"
        )));
    }
    Ok(said)
}

/// Why a database of this progress and version is not taken.
fn refusal(reached: Reached, version: Option<&str>) -> Option<String> {
    if let Some(version) = version {
        let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
        return match (parts.next().flatten(), parts.next().flatten()) {
            (Some(3), Some(5..=7)) if reached.index > 0 && reached.term > 0 => None,
            (Some(3), Some(5..=7)) => Some(NOTHING.to_owned()),
            _ => Some(format!(
                "was written by etcd {version}, and Kevel takes what etcd 3.5 to 3.7 have written: bring etcd to 3.7 \
                 first, by its own upgrade or downgrade"
            )),
        };
    }
    if reached.index == 0 {
        return Some(NOTHING.to_owned());
    }
    // etcd 3.5 is the first that says the term, and 3.6 the first that says the version.
    (reached.term == 0).then(|| {
        "was written by etcd 3.4 or an older release, and Kevel takes what etcd 3.5 to 3.7 have written: upgrade etcd \
         first"
            .to_owned()
    })
}

const NOTHING: &str = "has no entry of the log in it: this member has not caught up with its cluster yet. Let it do \
                       so, or remove it from the cluster and add a member of Kevel instead";

fn has_auth<S: Source + ?Sized>(database: &Database<'_, S>) -> Result<bool, ReadError> {
    for bucket in [&b"authUsers"[..], b"authRoles"] {
        if let Some(mut pairs) = database.bucket(bucket)?
            && pairs.advance()?
        {
            return Ok(true);
        }
    }
    let Some(auth) = database.bucket(b"auth")? else { return Ok(false) };
    let mut is_enabled = false;
    each_pair(auth, |key, value| {
        is_enabled |= key == b"authEnabled" && value != [0];
        Ok(())
    })?;
    Ok(is_enabled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_that_are_taken_are_told_from_others() {
        let refused = |index, term, version| refusal(Reached { index, term }, version);
        for version in [None, Some("3.5.0"), Some("3.6.0"), Some("3.7.0")] {
            assert_eq!(refused(7, 2, version), None, "{version:?}");
            assert_eq!(refused(0, 0, version).as_deref(), Some(NOTHING), "{version:?}");
        }
        assert!(refused(7, 0, None).unwrap().contains("etcd 3.4"));
        for version in ["3.8.0", "4.0.0", "3.4.0", "x", ""] {
            assert!(refused(7, 2, Some(version)).unwrap().contains(&format!("by etcd {version},")));
        }
    }
}
