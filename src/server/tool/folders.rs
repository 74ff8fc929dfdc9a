//! Folders that change hands: whose they are, and whether they can be given another name.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use crate::server::io::dir;
use crate::wal::SegmentName;

/// The mounts of this process, one in a line, the fifth word of which is the folder.
const MOUNTS: &str = "/proc/self/mountinfo";

/// The user and the group to whom a file belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Belongs {
    uid: u32,
    gid: u32,
}

impl Belongs {
    /// To whom the file at `path` belongs, or what is behind a link there.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|found| Self { uid: found.uid(), gid: found.gid() })
    }

    /// Gives one file or folder to them, where it is not theirs.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub(super) fn give(self, path: &Path) -> io::Result<()> {
        let found = fs::symlink_metadata(path)?;
        match (found.uid(), found.gid()) == (self.uid, self.gid) {
            true => Ok(()),
            false => chown(path, Some(self.uid), Some(self.gid)),
        }
    }

    /// Makes everything in a folder durable, and gives it to them.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub(super) fn seal(self, path: &Path) -> io::Result<()> {
        self.give(path)?;
        if !fs::symlink_metadata(path)?.is_dir() {
            return File::open(path)?.sync_all();
        }
        for entry in fs::read_dir(path)? {
            self.seal(&entry?.path())?;
        }
        dir::sync(path)
    }
}

/// Whether something is mounted on a folder, so that it cannot be given another name.
pub(super) fn is_mount_point(folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    // Without a list nobody knows, and the rename itself says so.
    fs::read_to_string(MOUNTS).is_ok_and(|mounts| is_mounted(&mounts, &folder.to_string_lossy()))
}

fn is_mounted(mounts: &str, folder: &str) -> bool {
    let escaped = folder.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011");
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&escaped))
}

/// The segments of the log in a folder, in order.
///
/// # Errors
/// What the filesystem answers.
pub(super) fn segments(log: &Path) -> io::Result<Vec<SegmentName>> {
    let entries = fs::read_dir(log)?.collect::<Result<Vec<_>, _>>()?;
    let mut names: Vec<SegmentName> =
        entries.iter().filter_map(|entry| SegmentName::parse(entry.file_name().to_str()?)).collect();
    names.sort_unstable();
    Ok(names)
}

/// Moves the segments of a log into another folder of the same filesystem, which is made if it is not there.
///
/// # Errors
/// What the filesystem answers.
pub(super) fn move_segments(log: &Path, into: &Path) -> io::Result<()> {
    let names = segments(log)?;
    dir::create(into)?;
    Belongs::of(log)?.give(into)?;
    for name in names {
        let name = name.to_string();
        fs::rename(log.join(&name), into.join(&name))?;
    }
    dir::sync(into)?;
    dir::sync(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_on_which_something_is_mounted_is_known() {
        assert!(is_mount_point(Path::new("/proc")) && is_mount_point(Path::new("/proc/../proc")));
        assert!(!is_mount_point(Path::new("/proc/self")) && !is_mount_point(Path::new("/no/such/folder")));
        let mounts =
            "36 35 98:0 /m /a\\040b rw,noatime - ext3 /dev/root rw\n37 35 98:0 / /c rw - ext3 x rw\n";
        let found = ["/a b", "/c", "/", "/a"].map(|folder| is_mounted(mounts, folder));
        assert_eq!(found, [true, true, false, false]);
    }

    #[test]
    fn segments_move_and_other_files_stay() {
        let root = std::env::temp_dir().join(format!("kevel-folders-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        let name = SegmentName { sequence: 3, index: 7 };
        fs::write(root.join(name.to_string()), "log").unwrap();
        fs::write(root.join("0.tmp"), "").unwrap();
        assert_eq!(segments(&root).unwrap(), [name]);
        let kept = root.join("kept");
        move_segments(&root, &kept).unwrap();
        assert_eq!((segments(&root).unwrap(), segments(&kept).unwrap()), (vec![], vec![name]));
        assert!(root.join("0.tmp").exists());
        let own = Belongs::of(&root).unwrap();
        own.seal(&root).unwrap();
        assert_eq!(own, Belongs::of(&kept).unwrap());
        fs::remove_dir_all(&root).unwrap();
    }
}
