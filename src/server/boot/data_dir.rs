//! What a data directory holds before anything is opened in it.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::{Config, Url};
use crate::server::io::dir;
use crate::server::log::{Line, lines};

/// Looks at the data directory and makes it if need be. True when a member of ours lives there.
///
/// # Errors
/// When it holds another program's data, cannot be used, or is empty while the flags describe no member that could
/// begin there.
pub fn prepare(config: &Config) -> Result<bool, String> {
    let initialized = inspect(config)?;
    if initialized {
        return Ok(true);
    }
    if config.founding.join_existing {
        return Err(
            "--initial-cluster-state=existing is not built yet: it needs clusters of more than one member; \
                    a member alone starts with --initial-cluster-state=new"
                .to_owned(),
        );
    }
    config.founders()?.check(&config.name, &config.advertise.peer, same_place)?;
    dir::create(&config.data_dir).map_err(|error| failed("create", &config.data_dir, &error))?;
    Ok(false)
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {verb} {}: {error}", path.display())
}

fn inspect(config: &Config) -> Result<bool, String> {
    let dir = &config.data_dir;
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("read", dir, &error)),
    };
    for entry in entries {
        let name = entry.map_err(|error| failed("read", dir, &error))?.file_name();
        match name.to_str() {
            Some("member") => {}
            Some("proxy") => {
                return Err(format!(
                    "{} is the directory of a v2 proxy, which etcd removed too",
                    dir.display()
                ));
            }
            _ => lines::stray_file(&name.to_string_lossy(), dir),
        }
    }
    let mode = fs::metadata(dir).map_err(|error| failed("read", dir, &error))?.permissions().mode() & 0o777;
    if mode != 0o700 {
        Line::warn("the data directory's permissions are not -rwx------")
            .text("data-dir", dir.display().to_string())
            .text("mode", format!("{mode:o}"))
            .write();
    }
    let bolt = config.member_dir().join("snap").join("db");
    if bolt.exists() {
        return Err(format!(
            "{} holds a member of etcd ({}); importing one is not built yet. Nothing in it was touched: name another \
             --data-dir for Kevel",
            dir.display(),
            bolt.display()
        ));
    }
    let has_log = fs::read_dir(config.wal_dir()).is_ok_and(|mut files| files.next().is_some());
    Ok(config.store_path().exists() || has_log)
}

/// Whether two URLs lead to one place: the same, or with names that stand for the same addresses. `localhost` stands
/// for itself alone, as it does to etcd.
fn same_place(one: &Url, other: &Url) -> bool {
    one == other
        || (one.scheme == other.scheme && one.port == other.port && {
            let (one, other) = (addresses(one), addresses(other));
            !one.is_empty() && one == other
        })
}

fn addresses(url: &Url) -> Vec<IpAddr> {
    if url.host == "localhost" {
        return Vec::new();
    }
    let found = (url.host.as_str(), url.port).to_socket_addrs();
    let mut addresses: Vec<IpAddr> =
        found.map(|found| found.map(|address| address.ip()).collect()).unwrap_or_default();
    addresses.sort_unstable();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Command, Surroundings};

    fn config(dir: &Path, more: &str) -> Config {
        let line = format!("--name=m --data-dir={} {more}", dir.display());
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let surroundings = Surroundings {
            env: &[],
            read_file: &|_| Err(io::Error::other("no file")),
            default_host: &|| None,
        };
        match config::parse(&args, &surroundings) {
            Ok(Command::Run { config, .. }) => *config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_directory_is_made_found_again_or_left_alone() {
        let dir = std::env::temp_dir().join(format!("kevel-data-dir-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let existing = prepare(&config(&dir, "--initial-cluster-state=existing")).unwrap_err();
        assert!(existing.starts_with("--initial-cluster-state=existing is not built yet"), "{existing}");
        assert!(!dir.exists(), "refused before anything was made");
        let other = prepare(&config(&dir, "--initial-cluster=m=http://localhost:1")).unwrap_err();
        assert!(other.starts_with("--initial-cluster must include m=http://localhost:2380"), "{other}");

        assert_eq!(prepare(&config(&dir, "--initial-cluster=m=http://localhost:2380,")), Ok(false));
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        fs::create_dir_all(dir.join("member/kevel")).unwrap();
        fs::write(dir.join("member/kevel/store"), "").unwrap();
        let restarted =
            config(&dir, "--initial-cluster-state=existing --initial-cluster=other=http://other:1,b=x");
        assert_eq!(
            prepare(&restarted),
            Ok(true),
            "flags that found a cluster mean nothing once there is data"
        );

        fs::create_dir_all(dir.join("member/snap")).unwrap();
        fs::write(dir.join("member/snap/db"), "").unwrap();
        let etcd = prepare(&restarted).unwrap_err();
        assert!(etcd.contains("holds a member of etcd") && etcd.contains("not built yet"), "{etcd}");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn names_and_addresses_of_one_place_are_equal() {
        let url = |text| Url::parse(text).unwrap();
        assert!(same_place(&url("http://localhost:1"), &url("http://localhost:1")));
        assert!(!same_place(&url("http://localhost:1"), &url("http://127.0.0.1:1")));
        assert!(same_place(&url("http://127.0.0.1:1"), &url("http://127.0.0.1:1")));
        assert!(!same_place(&url("http://localhost:1"), &url("http://127.0.0.1:2")));
        assert!(!same_place(&url("http://127.0.0.1:1"), &url("http://127.0.0.2:1")));
    }
}
