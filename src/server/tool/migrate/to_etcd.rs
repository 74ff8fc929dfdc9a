//! A member of etcd from one of Kevel.
#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::super::Failed;
use super::super::restore::failed;
use super::command::{Done, config_of};
use super::meter::{Meter, Metered};
use super::new_log::write_log;
use super::staging::{Staging, Way};
use crate::bbolt::{Database, Source, check};
use crate::btree::{Applied, Store};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::mvcc::View;
use crate::page::Owner;
use crate::replica::Opening;
use crate::server::boot::open::{Opened, open};
use crate::server::io::file_source::FileSource;
use crate::server::tls::Ports;
use crate::snapshot::{Gathering, SnapshotFile};
use crate::wal::{self, SegmentName};

/// Leases copied, and small changes looked at, in one step.
const SLICE: usize = 4096;
/// Bytes of the database in one step, about.
const PIECE_BYTES: usize = 1 << 20;

/// Makes the new member.
///
/// # Errors
/// What is wrong, and what to do. Then the member of Kevel is what it was.
pub(super) fn migrate(way: &Way) -> Result<Done, Failed> {
    way.check()?;
    let config = config_of(&way.source, way.wal_dir.as_deref())?;
    let opened = open(&config, &Ports::none()).map_err(Failed::error)?;
    let Opened { store, opening: Opening::Recover(recovered, _), member_id, cluster_id, .. } = opened else {
        return Err(Failed::error(format!(
            "{} has no log, so no member has begun to live there",
            way.source.display()
        )));
    };
    let owner = Owner { member_id, cluster_id };
    let applied = store.applied();
    if applied.index == 0 {
        return Err(Failed::error(
            "the store has no entry of the log in it yet: start Kevel once more, let it come up, stop it with SIGTERM, \
             and migrate again",
        ));
    }
    let staging = Staging::begin(way)?;
    let database = staging.folder("snap")?.join("db");
    write_database(way, &store, &database)?;
    // etcd begins at the mark of the log, and skips what its database has already.
    let cluster = Cluster::restore(&store.readers().register().snapshot());
    let cluster = cluster.map_err(|error| unread(way, error))?;
    write_log(&staging, &recovered, applied, cluster.conf_state())?;
    look_again(&staging, &database, applied)?;
    let placed = staging.finish()?;
    Ok(Done { owner, revision: applied.revision, index: applied.index, placed })
}

fn unread(way: &Way, _: Error) -> Failed {
    Failed::error(format!(
        "a record of the store cannot be read: `kevel check {}` looks at all of it",
        way.source.display()
    ))
}

/// Writes the file that etcd would have of the store. Nobody sweeps meanwhile, so no revision is pinned.
fn write_database(way: &Way, store: &Store, path: &Path) -> Result<(), Failed> {
    let unread = |error| unread(way, error);
    let mut reader = store.readers().register();
    let state = reader.snapshot();
    let mut gathering = Gathering::new(&state).map_err(unread)?;
    while !gathering.step(SLICE).map_err(unread)? {}
    let mut file = SnapshotFile::new(gathering.finish());
    let view = View::new(&state);
    let layout = loop {
        if let Some(layout) = file.count(&view, SLICE).map_err(unread)? {
            break layout;
        }
    };
    let broken = |error| failed("write", path.display(), error);
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(broken)?;
    let mut out = BufWriter::with_capacity(PIECE_BYTES, created);
    let meter = Meter::new("writing the database", layout.bytes());
    loop {
        let (piece, is_last) = file.write(&view, PIECE_BYTES, usize::MAX).map_err(unread)?;
        out.write_all(&piece).map_err(broken)?;
        meter.add(piece.len() as u64);
        if is_last {
            break;
        }
    }
    out.into_inner()
        .map_err(|error| broken(error.into_error()))
        .and_then(|file| file.sync_all().map_err(broken))
}

/// Reads what was written.
fn look_again(staging: &Staging, database: &Path, applied: Applied) -> Result<(), Failed> {
    let file =
        FileSource::open(database).map_err(|error| Failed::file("open", database.display(), &error))?;
    let source = Metered { meter: Meter::new("looking at the database", file.bytes()), file: &file };
    Database::open(&source)
        .and_then(|database| check::check(&database))
        .map_err(|error| Failed::error(format!("the new database is not whole: {error}")))?;
    let folder = staging.member().join("wal");
    let unread = |error| Failed::file("read", folder.display(), &error);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(unread)?;
    paths.sort();
    let mut segments = Vec::new();
    for path in &paths {
        let name = path.file_name().and_then(|name| SegmentName::parse(name.to_str()?));
        segments
            .extend(name.map(|name| fs::read(path).map(|bytes| (name, bytes))).transpose().map_err(unread)?);
    }
    let segments: Vec<_> = segments.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
    let read = wal::recover(&segments, applied.index);
    let read = read.map_err(|error| Failed::error(format!("the new log is not whole: {error}")))?;
    let is_whole = read.state.commit >= applied.index && read.after == applied.index;
    if is_whole { Ok(()) } else { Err(Failed::error("the new log is not what was written")) }
}
