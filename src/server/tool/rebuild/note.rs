//! What an interrupted rebuild leaves, so that the same command goes on.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::page::Owner;
use crate::server::io::dir;

const NAME: &str = "note";
const UNFINISHED: &str = "note.tmp";

/// A member that is being rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The cluster.
    pub(super) cluster_id: u64,
    /// The member that is removed.
    pub(super) member_id: u64,
    /// Where the others reach it, and the new one.
    pub(super) peer_urls: Vec<String>,
    /// It has no vote, and the new one gets none.
    pub(super) is_learner: bool,
    /// The new member, once it was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) added: Option<u64>,
    /// The folder of the log, where it lies apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wal_dir: Option<String>,
}

impl Note {
    /// The old member.
    pub(super) fn of_removed(&self) -> Owner {
        Owner { member_id: self.member_id, cluster_id: self.cluster_id }
    }

    /// The new member, once it was added.
    pub(super) fn of_added(&self) -> Option<Owner> {
        self.added.map(|member_id| Owner { member_id, cluster_id: self.cluster_id })
    }

    /// What an earlier attempt has left in a folder; none if there was none.
    ///
    /// # Errors
    /// What the filesystem answers, and when the note is not one.
    pub(super) fn read(folder: &Path) -> io::Result<Option<Self>> {
        match fs::read(folder.join(NAME)) {
            Ok(json) => serde_json::from_slice(&json).map(Some).map_err(io::Error::other),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Leaves the note in a folder, durably, in place of an older one.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let unfinished = folder.join(UNFINISHED);
        let mut file = File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec(self).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&unfinished, folder.join(NAME))?;
        dir::sync(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let folder = std::env::temp_dir().join(format!("kevel-rebuild-note-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        assert_eq!(Note::read(&folder).unwrap(), None);
        fs::create_dir_all(&folder).unwrap();
        let mut note = Note {
            cluster_id: u64::MAX,
            member_id: 7,
            peer_urls: vec!["http://c:2380".into()],
            is_learner: true,
            added: None,
            wal_dir: None,
        };
        note.write(&folder).unwrap();
        assert_eq!(Note::read(&folder).unwrap().as_ref(), Some(&note));
        (note.added, note.wal_dir) = (Some(9), Some("/wal".into()));
        note.write(&folder).unwrap();
        assert_eq!(Note::read(&folder).unwrap(), Some(note));
        fs::write(folder.join(NAME), "{").unwrap();
        Note::read(&folder).unwrap_err();
        fs::remove_dir_all(&folder).unwrap();
    }
}
