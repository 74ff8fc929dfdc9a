//! Two names that change places in one step, so that no crash leaves either of them without a file.
//!
//! Unsafe: `renameat2`, which the standard library does not offer.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Gives each of two paths what the other one had.
///
/// # Errors
/// What the filesystem answers. Some can not do this.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (one, other) = (text(one)?, text(other)?);
    // SAFETY: both texts end with a zero and outlive the call, which only reads them.
    let result = unsafe {
        libc::renameat2(libc::AT_FDCWD, one.as_ptr(), libc::AT_FDCWD, other.as_ptr(), libc::RENAME_EXCHANGE)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn folders_change_places_with_all_that_is_in_them() {
        let root = std::env::temp_dir().join(format!("kevel-exchange-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for name in ["a", "b"] {
            fs::create_dir_all(root.join(name)).unwrap();
            fs::write(root.join(name).join("name"), name).unwrap();
        }
        exchange(&root.join("a"), &root.join("b")).unwrap();
        assert_eq!(fs::read_to_string(root.join("a/name")).unwrap(), "b");
        assert_eq!(fs::read_to_string(root.join("b/name")).unwrap(), "a");
        let missing = exchange(&root.join("a"), &root.join("c")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        fs::remove_dir_all(&root).unwrap();
    }
}
