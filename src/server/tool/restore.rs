//! `kevel snapshot restore FILE`: the data directory of a member of a new cluster that has what the file has.
//!
//! The store is named as that of the new member before anything is put into it, and the log is written last. A start
//! refuses a store of a member whose log is missing, so what was not finished is never taken for a member.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, Digest, SHA256, SHA256_OUTPUT_LEN};
use raft::eraftpb::{ConfState, HardState};

use super::{Failed, STATUS_BAD_ARGUMENTS};
use crate::bbolt::{Database, ReadError, Source};
use crate::btree::{Store, WriteTxn};
use crate::cluster::Cluster;
use crate::config::{InitialCluster, Url};
use crate::page::{self, Owner};
use crate::proto::membershippb::{Attributes, Member, RaftAttributes};
use crate::replica::bootstrap::{Foundation, Founder};
use crate::server::io::dir;
use crate::server::io::file_source::FileSource;
use crate::server::io::page_file::MappedFile;
use crate::snapshot::fill::{FillError, checkpoint, fill};
use crate::wal::{Appender, Metadata, SnapshotMark, Write};

/// Bytes that are read at a time for the checksum.
const PIECE_BYTES: usize = 1 << 20;
/// What a disk writes whole: a file whose length is no multiple of it has a checksum at its end.
const SECTOR_BYTES: u64 = 512;
/// The term of the entries that begin a log.
const TERM: u64 = 1;

/// What is asked for.
pub(super) struct Restoration {
    /// The snapshot.
    pub(super) file: PathBuf,
    /// The member's name.
    pub(super) name: String,
    /// Where the member is to live.
    pub(super) data_dir: PathBuf,
    /// Where its log is to lie.
    pub(super) wal_dir: Option<PathBuf>,
    /// Who founds the new cluster: `name=url,...`.
    pub(super) initial_cluster: String,
    /// The token of the new cluster.
    pub(super) token: String,
    /// Where the other members reach this one.
    pub(super) peer_urls: String,
    /// The file has no checksum, or it is to be ignored.
    pub(super) skip_hash_check: bool,
    /// What the revision is increased by.
    pub(super) bump_revision: u64,
    /// The new revision is compacted.
    pub(super) mark_compacted: bool,
}

pub(super) fn failed(what: &str, path: impl Display, error: impl Display) -> Failed {
    Failed::error(format!("cannot {what} {path}: {error}"))
}

impl Restoration {
    /// Makes the directory, and tells who belongs to the new cluster.
    ///
    /// # Errors
    /// What is wrong with the flags, the file or the disk.
    pub(super) fn run(&self) -> Result<String, Failed> {
        if (self.bump_revision > 0) != self.mark_compacted {
            let text = "--mark-compacted required if --revision-bump > 0";
            return Err(Failed::new(STATUS_BAD_ARGUMENTS, text));
        }
        let (foundation, member_id) = self.foundation()?;
        self.check_folders()?;
        let shown = self.file.display();
        let source = FileSource::open(&self.file).map_err(|error| Failed::file("open", &shown, &error))?;
        if !self.skip_hash_check {
            check_hash(&source)?;
        }
        let damaged = |error: ReadError| Failed::error(format!("{shown}: {error}"));
        let database = Database::open(&source).map_err(damaged)?;
        let path = self.data_dir.join("member").join("kevel").join("store");
        let snap = self.data_dir.join("member").join("snap");
        make_folders(path.parent().unwrap_or(Path::new(".")), &snap, &self.wal_dir())?;
        let mut store = new_store(&path, Owner { member_id, cluster_id: foundation.cluster_id })?;
        let unfilled = |error: FillError| match error {
            FillError::File(error) => damaged(error),
            FillError::Store(_) => Failed::error(error.to_string()),
        };
        let import = fill(&mut store, &database, false, || {}).map_err(unfilled)?;
        let mut txn = store.write();
        foundation.founders.iter().for_each(|founder| add(&mut txn, founder));
        let founders = foundation.founders.len() as u64;
        txn.set_applied(import.applied(founders, TERM, self.bump_revision).map_err(damaged)?);
        txn.commit();
        checkpoint(&mut store).map_err(unfilled)?;
        self.write_log(&foundation, member_id)?;
        Ok(foundation.founders.iter().map(|founder| added(founder, foundation.cluster_id)).collect())
    }

    /// The new cluster, and this member's id in it.
    fn foundation(&self) -> Result<(Foundation, u64), Failed> {
        let peer_urls = Url::parse_list(&self.peer_urls).map_err(Failed::error)?;
        let cluster = InitialCluster::parse(&self.initial_cluster).map_err(Failed::error)?;
        cluster.check(&self.name, &peer_urls, |one, other| one == other).map_err(Failed::error)?;
        let members = cluster.members.into_iter();
        let members = members.map(|(name, urls)| (name, urls.iter().map(Url::to_string).collect()));
        let foundation = Foundation::new(members, &self.token);
        let own = foundation.founders.iter().find(|founder| founder.name == self.name);
        let id = own.map(|founder| founder.id).ok_or_else(|| Failed::error("this member founds nothing"))?;
        Ok((foundation, id))
    }

    fn wal_dir(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.data_dir.join("member").join("wal"))
    }

    /// Nothing is written over what is there.
    fn check_folders(&self) -> Result<(), Failed> {
        let is_empty = |dir: &Path| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
        if self.data_dir.exists() && !is_empty(&self.data_dir) {
            let dir = self.data_dir.display().to_string();
            return Err(Failed::error(format!("data-dir {dir:?} not empty or could not be read")));
        }
        if self.wal_dir().exists() {
            let dir = self.wal_dir().display().to_string();
            return Err(Failed::error(format!("wal-dir {dir:?} exists")));
        }
        Ok(())
    }

    /// Writes a log that begins anew behind the store, like that of a member which has taken in a snapshot. The
    /// founders count as its entries, and none of them is in it: with them, the log would be that of a member without
    /// keys, and a start whose store is lost would make a store of it.
    fn write_log(&self, foundation: &Foundation, member_id: u64) -> Result<(), Failed> {
        let voters: Vec<u64> = foundation.founders.iter().map(|founder| founder.id).collect();
        let (index, vote) = (voters.len() as u64, voters[0]);
        let state = HardState { term: TERM, vote, commit: index };
        let conf_state = Some(ConfState { voters, ..ConfState::default() });
        let mark = SnapshotMark { index, term: TERM, conf_state };
        let metadata = Metadata { node_id: member_id, cluster_id: foundation.cluster_id };
        let write = Appender::create(metadata).restart(&mark, &state, Vec::new());
        put_log(&self.wal_dir(), &write)
    }
}

/// Makes the folders of a member that has joined its cluster and knows nothing yet: a store and a log that say whose
/// they are.
///
/// # Errors
/// What is wrong with the disk.
pub(super) fn make_empty(member: &Path, wal: &Path, owner: Owner) -> Result<(), Failed> {
    let kevel = member.join("kevel");
    make_folders(&kevel, &member.join("snap"), wal)?;
    new_store(&kevel.join("store"), owner)?;
    let Owner { member_id, cluster_id } = owner;
    let mut log = Appender::create(Metadata { node_id: member_id, cluster_id });
    put_log(wal, &log.append(&[], Some(&HardState::default()), None, Vec::new()))
}

fn make_folders(store: &Path, snap: &Path, wal: &Path) -> Result<(), Failed> {
    for folder in [store, snap, wal] {
        dir::create(folder).map_err(|error| failed("create", folder.display(), error))?;
    }
    Ok(())
}

/// Writes the beginning of a log.
fn put_log(folder: &Path, write: &Write) -> Result<(), Failed> {
    let path = folder.join(write.segment.to_string());
    let written = File::create_new(&path)
        .and_then(|mut file| file.write_all(&write.bytes).and_then(|()| file.sync_all()))
        .and_then(|()| dir::sync(folder));
    written.map_err(|error| failed("write", path.display(), error))
}

/// An empty store that is a member's.
pub(super) fn new_store(path: &Path, owner: Owner) -> Result<Store, Failed> {
    let file = MappedFile::open(path).map_err(|error| failed("open", path.display(), error))?;
    // The file's name has to outlive a power cut too.
    let parent = path.parent().unwrap_or(Path::new("."));
    dir::sync(parent).map_err(|error| failed("sync", parent.display(), error))?;
    let file = Arc::new(file);
    let mut store = Store::open(file.clone()).map_err(|error| failed("open", path.display(), error))?;
    page::claim(&*file, owner).map_err(|error| failed("write to", path.display(), error))?;
    store.set_owner(owner);
    Ok(store)
}

/// What is said of a founder, with the words that etcdutl has for it.
fn added(founder: &Founder, cluster_id: u64) -> String {
    let (id, urls) = (founder.id, founder.peer_urls.join(","));
    format!("added member {id:x} ({}, {urls}) to cluster {cluster_id:x}\n", founder.name)
}

fn add(txn: &mut WriteTxn<'_>, founder: &Founder) {
    let raft_attributes = Some(RaftAttributes { peer_urls: founder.peer_urls.clone(), is_learner: false });
    let member_attributes = Some(Attributes { name: founder.name.clone(), client_urls: Vec::new() });
    Cluster::default().set_member(txn, Member { id: founder.id, raft_attributes, member_attributes });
}

/// Compares the file with the checksum behind it.
fn check_hash(source: &FileSource) -> Result<(), Failed> {
    let expected = SHA256_OUTPUT_LEN as u64;
    if source.bytes() % SECTOR_BYTES != expected {
        return Err(Failed::error("snapshot missing hash but --skip-hash-check=false"));
    }
    let end = source.bytes() - expected;
    let mut stored = [0; SHA256_OUTPUT_LEN];
    let digest = source
        .read_at(end, &mut stored)
        .and_then(|()| hash(source, end))
        .map_err(|error| Failed::error(format!("cannot read the snapshot: {error}")))?;
    if digest.as_ref() == stored {
        return Ok(());
    }
    let numbers = |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
    let (stored, found) = (numbers(&stored), numbers(digest.as_ref()));
    Err(Failed::error(format!("expected sha256 [{stored}], got [{found}]")))
}

fn hash(source: &FileSource, end: u64) -> std::io::Result<Digest> {
    let (mut context, mut at, mut piece) = (Context::new(&SHA256), 0, vec![0; PIECE_BYTES]);
    while at < end {
        let len = (end - at).min(PIECE_BYTES as u64);
        let piece = &mut piece[..len as usize];
        source.read_at(at, piece)?;
        context.update(piece);
        at += len;
    }
    Ok(context.finish())
}
