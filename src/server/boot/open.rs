//! The store and the log of a member, opened or founded.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use crate::btree::Store;
use crate::config::{Config, InitialCluster, Url};
use crate::replica::Opening;
use crate::replica::bootstrap::Foundation;
use crate::server::io::page_file::MappedFile;
use crate::server::io::wal_dir::WalDir;
use crate::wal;

/// The cluster that a member without data founds, and the member's id in it.
fn foundation(config: &Config) -> Result<(Foundation, u64), String> {
    let InitialCluster { members } = config.founders()?;
    let members = members.into_iter().map(|(name, urls)| (name, urls.iter().map(Url::to_string).collect()));
    let foundation = Foundation::new(members, &config.founding.token);
    let own = foundation.founders.iter().find(|founder| founder.name == config.name);
    let id = own.ok_or("this member is not part of --initial-cluster")?.id;
    Ok((foundation, id))
}

/// A member's files, open, and what they hold.
pub struct Opened {
    /// The store, as the last checkpoint left it.
    pub store: Store,
    /// How the replica begins: with a new cluster, or with what the log holds beyond the store.
    pub opening: Opening,
    /// This member.
    pub member_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
    /// The log's folder.
    pub wal_dir: WalDir,
}

/// Opens the store and recovers the log; makes both where there is neither.
///
/// # Errors
/// When a file cannot be opened, is damaged beyond what a crash leaves, or is missing.
pub fn open(config: &Config) -> Result<Opened, String> {
    let failed = |what: &str, path: &std::path::Path, error: &dyn std::fmt::Display| {
        format!("cannot {what} {}: {error}", path.display())
    };
    let store_path = config.store_path();
    let store_dir = store_path.parent().expect("a file is in a directory");
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(store_dir)
        .map_err(|error| failed("create", store_dir, &error))?;
    let file = MappedFile::open(&store_path).map_err(|error| failed("open", &store_path, &error))?;
    let file = if config.unsafe_no_fsync { file.without_sync() } else { file };
    let store = Store::open(Arc::new(file)).map_err(|error| failed("open", &store_path, &error))?;
    let wal_path = config.wal_dir();
    let wal_dir = WalDir::open(&wal_path).map_err(|error| failed("open", &wal_path, &error))?;
    let wal_dir = if config.unsafe_no_fsync { wal_dir.without_sync() } else { wal_dir };
    let names = wal_dir.segments().map_err(|error| failed("read", &wal_path, &error))?;
    let applied = store.applied().index;
    if names.is_empty() {
        if applied > 0 {
            return Err(format!(
                "{} holds data, but the log in {} is gone: put it back, or restore this member from a snapshot",
                store_path.display(),
                wal_path.display()
            ));
        }
        let (foundation, member_id) = foundation(config)?;
        let cluster_id = foundation.cluster_id;
        return Ok(Opened { store, opening: Opening::Found(foundation), member_id, cluster_id, wal_dir });
    }
    let content = wal_dir.read_after(&names, applied).map_err(|error| failed("read", &wal_path, &error))?;
    let segments: Vec<_> = content.iter().map(|(name, bytes)| (*name, &**bytes)).collect();
    let recovered = wal::recover(&segments, applied).map_err(|error| error.to_string())?;
    drop(content);
    wal_dir.mend_tail(&recovered.tail).map_err(|error| failed("mend", &wal_path, &error))?;
    let wal::Metadata { node_id: member_id, cluster_id, .. } = recovered.metadata;
    Ok(Opened {
        store,
        opening: Opening::Recover(Box::new(recovered), names),
        member_id,
        cluster_id,
        wal_dir,
    })
}
