//! What a data directory holds before anything is opened in it.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::failure::{Failure, at_path, to};
use super::founders;
use super::places::Places;
use crate::config::{Config, Discovery};
use crate::page;
use crate::server::io::dir;
use crate::server::io::page_file::MappedFile;
use crate::server::log::{Line, lines};
use crate::wal::SegmentName;

/// Looks at the data directory and makes it if need be. True when a member of ours lives there. Where none does, the
/// founders are asked for that DNS is to name.
///
/// # Errors
/// When it holds another program's data, cannot be used, or is empty while the flags describe no member that could
/// begin there.
pub fn prepare(config: &mut Config) -> Result<bool, Failure> {
    let initialized = inspect(config).map_err(to("cannot use the data directory"))?;
    if initialized {
        return Ok(true);
    }
    founders::discover(config).map_err(to("discovery failed"))?;
    may_begin(config).map_err(to("cannot found or join a cluster"))?;
    dir::create(&config.data_dir)
        .map_err(|error| at_path("create", config.data_dir.display(), &error))
        .map_err(to("cannot use the data directory"))?;
    // etcd's tools for logs look for this folder.
    let snapshots = config.snap_dir();
    dir::create(&snapshots)
        .map_err(|error| at_path("create", snapshots.display(), &error))
        .map_err(to("cannot use the data directory"))?;
    Ok(false)
}

/// Whether the flags describe a member that begins a cluster, or joins one.
fn may_begin(config: &Config) -> Result<(), String> {
    let cluster = config.founders()?;
    if config.founding.join_existing {
        cluster.check_joiner(&config.name)?;
        return match config.founding.discovery {
            Some(Discovery::Service(_)) => {
                Err("discovery URL should not be set when joining existing initial cluster".to_owned())
            }
            _ => Ok(()),
        };
    }
    let places = Places::begin();
    cluster.check(&config.name, &config.advertise.peer, |one, other| places.are_same(one, other))
}

/// Whether a member of ours lives in the data directory. Looks only.
fn inspect(config: &Config) -> Result<bool, String> {
    let dir = &config.data_dir;
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(at_path("read", dir.display(), &error)),
    };
    for entry in entries {
        let name = entry.map_err(|error| at_path("read", dir.display(), &error))?.file_name();
        match name.to_str() {
            Some("member") => {}
            Some("proxy") => {
                return Err(format!(
                    "{} is the directory of a v2 proxy, which etcd removed too: name another --data-dir",
                    dir.display()
                ));
            }
            _ => lines::stray_file(&name.to_string_lossy(), dir),
        }
    }
    let metadata = fs::metadata(dir).map_err(|error| at_path("read", dir.display(), &error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode != 0o700 {
        Line::warn("the data directory's permissions are not -rwx------")
            .text("data-dir", dir.display().to_string())
            .text("mode", format!("{mode:o}"))
            .write();
    }
    let bolt = config.member_dir().join("snap").join("db");
    if bolt.exists() {
        if !is_ours(&config.store_path()) {
            return Err(etcds(dir, &bolt));
        }
        lines::etcd_store_found(&config.member_dir().join("snap"));
    }
    Ok(is_ours(&config.store_path()) || first_segment(&config.wal_dir()).is_some())
}

/// The first segment of the log in a folder. Other files are none of a member.
fn first_segment(folder: &Path) -> Option<SegmentName> {
    let files = fs::read_dir(folder).ok()?;
    files.filter_map(|file| SegmentName::parse(file.ok()?.file_name().to_str()?)).min()
}

/// Whether a member of Kevel has begun to live in the store at `path`. A file of that name that cannot be read is
/// Kevel's all the same, and opening it says what is wrong with it.
pub fn is_ours(path: &Path) -> bool {
    match MappedFile::open_existing(path) {
        Ok(file) => page::is_claimed(&file).unwrap_or(true),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// What is said of a directory that belongs to etcd.
fn etcds(dir: &Path, bolt: &Path) -> String {
    format!(
        "{dir} holds a member of etcd ({}), and Kevel does not live on etcd's store. Nothing in it was touched: stop \
         etcd and make a member of Kevel of it with `kevel migrate --from {dir}`, or save a snapshot of the running \
         etcd with `etcdctl snapshot save` and found a new cluster from it with `kevel snapshot restore`",
        bolt.display(),
        dir = dir.display()
    )
}

/// What is said of a directory to be checked that has no store of Kevel.
pub fn no_store(dir: &Path, store: &Path) -> String {
    let what = if let Err(error) = fs::metadata(store)
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        return format!(
            "cannot read {}: {error}; run this as the user that the member runs as",
            store.display()
        );
    } else if !dir.exists() {
        "there is no such folder"
    } else if dir.join("member").join("snap").join("db").exists() {
        "it holds a member of etcd"
    } else {
        "it holds no member of Kevel"
    };
    format!(
        "{}: {what} ({} is missing); name the folder that --data-dir names, default.kevel where none was given",
        dir.display(),
        store.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Store;
    use crate::config;
    use crate::page::Owner;
    use std::sync::Arc;

    fn config(dir: &Path, more: &str) -> Config {
        config::of_line(&format!("--name=m --data-dir={} {more}", dir.display()))
    }

    #[test]
    fn a_directory_is_made_found_again_or_left_alone() {
        let dir = std::env::temp_dir().join(format!("kevel-data-dir-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let joins = "--initial-cluster-state=existing --initial-cluster=other=http://other:1";
        let Failure { what, why: unlisted } = prepare(&mut config(&dir, joins)).unwrap_err();
        assert_eq!(what, "cannot found or join a cluster");
        assert!(unlisted.starts_with("couldn't find local name"), "{unlisted}");
        assert!(!dir.exists(), "refused before anything was made");
        let other = prepare(&mut config(&dir, "--initial-cluster=m=http://localhost:1")).unwrap_err().why;
        assert!(other.starts_with("--initial-cluster has m=http://localhost:1 but missing from"), "{other}");

        assert_eq!(prepare(&mut config(&dir, "--initial-cluster=m=http://localhost:2380,")), Ok(false));
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        fs::create_dir_all(dir.join("member/wal")).unwrap();
        fs::write(dir.join("member/wal/notes.txt"), "").unwrap();
        assert_eq!(prepare(&mut config(&dir, "")), Ok(false), "a stray file is no log");
        fs::write(dir.join("member/wal/0000000000000000-0000000000000000.wal"), "").unwrap();
        assert_eq!(prepare(&mut config(&dir, "")), Ok(true));
        fs::remove_dir_all(dir.join("member/wal")).unwrap();
        fs::create_dir_all(dir.join("member/kevel")).unwrap();
        let store = dir.join("member/kevel/store");
        fs::write(&store, "").unwrap();
        assert_eq!(
            prepare(&mut config(&dir, "")),
            Ok(false),
            "a start that was interrupted has left no member"
        );
        drop(Store::open(Arc::new(MappedFile::open(&store).unwrap())).unwrap());
        page::claim(&MappedFile::open(&store).unwrap(), Owner { member_id: 1, cluster_id: 2 }).unwrap();
        let mut restarted =
            config(&dir, "--initial-cluster-state=existing --initial-cluster=other=http://other:1,b=x");
        assert_eq!(
            prepare(&mut restarted),
            Ok(true),
            "flags that found a cluster mean nothing once there is data"
        );

        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_directory_is_whose_the_store_is() {
        let dir = std::env::temp_dir().join(format!("kevel-data-dir-whose-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("member/snap")).unwrap();
        fs::write(dir.join("member/snap/db"), "").unwrap();
        let config = config(&dir, "");
        let refused = || match prepare(&mut config.clone()) {
            Err(Failure { what: "cannot use the data directory", why }) => {
                why.contains("holds a member of etcd") && why.contains("snapshot restore")
            }
            _ => false,
        };
        assert!(refused(), "etcd's alone");
        let store = config.store_path();
        assert!(no_store(&dir, &store).contains("holds a member of etcd"));
        assert!(no_store(&dir.join("member"), &store).contains("holds no member of Kevel"));
        assert!(no_store(&dir.join("none"), &store).contains("no such folder"));
        let parent = config.store_path().parent().unwrap().to_owned();
        fs::create_dir_all(parent).unwrap();
        let file = MappedFile::open(&config.store_path()).unwrap();
        assert!(is_ours(&config.store_path()), "a member runs on it");
        drop(file);
        assert!(refused(), "an empty file says nothing");
        drop(Store::open(Arc::new(MappedFile::open(&config.store_path()).unwrap())).unwrap());
        assert!(refused(), "a store that no member has begun to live in");
        let owner = Owner { member_id: 1, cluster_id: 2 };
        page::claim(&MappedFile::open(&config.store_path()).unwrap(), owner).unwrap();
        assert_eq!(prepare(&mut config.clone()), Ok(true), "etcd was started once on a directory of Kevel");
        fs::write(config.store_path(), [7; 2 * page::PAGE_SIZE]).unwrap();
        assert_eq!(
            prepare(&mut config.clone()),
            Ok(true),
            "what is wrong with the store is said when it is opened"
        );
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_new_data_directory_has_the_folder_that_tools_for_logs_look_for() {
        let dir = std::env::temp_dir().join(format!("kevel-data-dir-snap-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        assert_eq!(prepare(&mut config(&dir, "")), Ok(false));
        assert!(dir.join("member/snap").is_dir());
        assert_eq!(prepare(&mut config(&dir, "")), Ok(false), "an empty folder is no member of etcd");
        fs::remove_dir_all(&dir).unwrap();
    }
}
