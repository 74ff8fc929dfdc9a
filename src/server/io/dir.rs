//! Directories that outlive a power cut. A file is durable only where its name is, and a name is durable once the
//! directory that holds it was synced; the same holds of a directory in the one above it.
#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Makes a directory, and those above it that are missing, for this user alone. When it returns, all of them are
/// durable, also where a process that was killed has made them.
///
/// # Errors
/// What the filesystem answers.
pub fn create(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    if fs::metadata(path).is_ok_and(|found| found.is_dir()) {
        // Whoever may not read the directory above has not made this one.
        return match sync(parent) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            other => other,
        };
    }
    create(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync(parent)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// What the filesystem answers. One that cannot sync a directory is no error: such a filesystem keeps its own order.
pub fn sync(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn missing_directories_are_made_for_one_user_and_files_are_left_alone() {
        let root = std::env::temp_dir().join(format!("kevel-dir-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let path = root.join("a/b");
        create(&path).unwrap();
        create(&path).unwrap();
        for made in [&root, &root.join("a"), &path] {
            assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
        }
        fs::write(path.join("file"), "x").unwrap();
        assert!(create(&path.join("file/c")).is_err());
        assert!(sync(&root.join("missing")).is_err());
        fs::remove_dir_all(&root).unwrap();
    }
}
