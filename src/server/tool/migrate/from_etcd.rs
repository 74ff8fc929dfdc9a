//! A member of Kevel from one of etcd.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use raft::eraftpb::ConfState;

use super::super::Failed;
use super::super::folders;
use super::super::restore::new_store;
use super::command::{Done, config_of};
use super::database::{self, Reached, Said};
use super::locks::Locks;
use super::members;
use super::meter::{Meter, Metered};
use super::new_log::write_log;
use super::staging::{Staging, Way};
use crate::bbolt::{Database, Source, check};
use crate::btree::{Applied, Store};
use crate::page::Owner;
use crate::replica::apply::State;
use crate::replica::{Opening, refusal, removal, unapplied};
use crate::server::boot::open::{belongs_together, open, owner_of};
use crate::server::io::file_source::FileSource;
use crate::server::io::log_map::LogMap;
use crate::server::tls::Ports;
use crate::snapshot::fill::{FillError, checkpoint, fill};
use crate::wal::segment::{first_needed, reach_back};
use crate::wal::{self, Recovered, SegmentName};

/// Entries before the store's last that are kept in the log, for members that lag: what etcd keeps by default.
const ENTRIES_KEPT: u64 = 15_000;

/// Makes the new member.
///
/// # Errors
/// What is wrong, and what to do. Then the member of etcd is what it was.
pub(super) fn migrate(way: &Way) -> Result<Done, Failed> {
    way.check()?;
    let snap = way.member().join("snap");
    let mut locks = Locks::take(&snap.join("db"))?;
    let log = Log::find(way.log())?;
    locks.take_log(&log.paths())?;
    let found = find(&snap, &log)?;
    let owner = owner_of(&found.recovered.metadata);
    let staging = Staging::begin(way)?;
    let store = fill_store(&staging, &found, owner)?;
    let conf_state = check_content(&store, &found, owner)?;
    if found.said.is_of_older() && conf_state.voters.len() + conf_state.learners.len() > 1 {
        eprintln!("{}", OLDER);
    }
    let applied = store.applied();
    drop(store);
    write_log(&staging, &found.recovered, applied, conf_state)?;
    look_again(&staging, applied)?;
    let placed = staging.finish()?;
    Ok(Done { owner, revision: applied.revision, index: applied.index, placed })
}

/// What is said of a member of an older etcd that is not alone.
const OLDER: &str = "warning: etcd 3.5 or 3.6 has written this member. Stop all members of its cluster before one of \
                     Kevel starts, and migrate all of them, or bring etcd to 3.7 first: older members cannot take the \
                     snapshot of a leader that is Kevel";

/// The log of etcd.
struct Log {
    folder: PathBuf,
    names: Vec<SegmentName>,
}

impl Log {
    fn find(folder: PathBuf) -> Result<Self, Failed> {
        let elsewhere = "name the log's folder with --wal-dir if it lies elsewhere";
        let shown = folder.display().to_string();
        let names = folders::segments(&folder).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failed::error(format!("{shown} is not there: {elsewhere}")),
            _ => Failed::file("read", &shown, &error),
        })?;
        if names.is_empty() {
            return Err(Failed::error(format!("{shown} has no segment of a log: {elsewhere}")));
        }
        Ok(Self { folder, names })
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.names.iter().map(|name| self.folder.join(name.to_string())).collect()
    }

    /// The log for a store that has applied the entries up to `index`.
    fn read(&self, index: u64) -> Result<Recovered, Failed> {
        let after = reach_back(&self.names, index, ENTRIES_KEPT);
        let recovered = self.read_after(after)?;
        if recovered.last_index < index && after < index {
            // A log that ends too early says what is wrong when nothing before the entry is asked for.
            return self.read_after(index);
        }
        Ok(recovered)
    }

    fn read_after(&self, after: u64) -> Result<Recovered, Failed> {
        let names = &self.names[first_needed(&self.names, after).unwrap_or(0)..];
        let mut maps = Vec::new();
        for name in names {
            let path = self.folder.join(name.to_string());
            let map = File::open(&path).and_then(|file| LogMap::new(&file));
            maps.push(map.map_err(|error| Failed::file("read", path.display(), &error))?);
        }
        let segments: Vec<_> = names.iter().copied().zip(maps.iter().map(|map| &**map)).collect();
        wal::recover(&segments, after)
            .map_err(|error| {
                Failed::error(format!(
                    "the log in {} cannot be used: {}. Nothing was changed. Start etcd once more; where it does not \
                     come up either, remove the member from its cluster and add a member of Kevel in its place",
                    self.folder.display(),
                    error.what()
                ))
            })
    }
}

/// What there is of a member of etcd.
struct Found {
    database: PathBuf,
    /// What the database says of itself.
    said: Said,
    recovered: Recovered,
}

/// Finds the database that the log continues: the member's own, or the snapshot of a leader that etcd has received and
/// has not taken in yet.
fn find(snap: &Path, log: &Log) -> Result<Found, Failed> {
    let mut database = snap.join("db");
    let mut said = look(&database)?;
    let mut recovered = log.read(said.reached.index)?;
    if recovered.after > said.reached.index {
        database = snap.join(format!("{:016x}.snap.db", recovered.after));
        if !database.exists() {
            return Err(Failed::error(format!(
                "the database has the entries up to {}, and the log begins behind entry {}: start etcd once more, let \
                 it come up, stop it with SIGTERM, and migrate again",
                said.reached.index, recovered.after
            )));
        }
        said = look(&database)?;
        recovered = log.read(said.reached.index)?;
    }
    let Reached { index, term } = said.reached;
    let applied = Applied { index, term, ..Applied::default() };
    belongs_together(None, applied, &recovered).map_err(|why| {
        let shown = log.folder.display();
        Failed::error(format!("{} and the log in {shown} do not belong together: {why}", database.display()))
    })?;
    Ok(Found { database, said, recovered })
}

fn look(path: &Path) -> Result<Said, Failed> {
    let shown = path.display().to_string();
    let source = FileSource::open(path).map_err(|error| Failed::file("open", &shown, &error))?;
    let database = Database::open(&source).map_err(|error| Failed::error(format!("{shown}: {error}")))?;
    database::look(&database, &shown)
}

/// Takes the whole database in.
fn fill_store(staging: &Staging, found: &Found, owner: Owner) -> Result<Store, Failed> {
    let shown = found.database.display().to_string();
    let damaged = |error: FillError| match error {
        FillError::File(error) => Failed::error(format!("{shown}: {error}")),
        FillError::Store(_) => Failed::error(error.to_string()),
    };
    let file = FileSource::open(&found.database).map_err(|error| Failed::file("open", &shown, &error))?;
    let step = |what| Metered { file: &file, meter: Meter::new(what, file.bytes()) };
    let source = step("looking at the database");
    Database::open(&source)
        .and_then(|database| check::check(&database))
        .map_err(|error| damaged(error.into()))?;
    let source = step("taking the database in");
    let database = Database::open(&source).map_err(|error| damaged(error.into()))?;
    staging.folder("snap")?;
    let mut store = new_store(&staging.folder("kevel")?.join("store"), owner)?;
    let import = fill(&mut store, &database, true, || {}).map_err(damaged)?;
    let Reached { index, term } = found.said.reached;
    let applied = import.applied(index, term, 0).map_err(|error| damaged(error.into()))?;
    let mut txn = store.write();
    txn.set_applied(applied);
    txn.commit();
    checkpoint(&mut store).map_err(damaged)?;
    Ok(store)
}

/// Looks whether Kevel can go on with what there is. The members as raft has them.
fn check_content(store: &Store, found: &Found, owner: Owner) -> Result<ConfState, Failed> {
    let Found { said, recovered, database } = found;
    let state = State::restore(&store.readers().register().snapshot(), 1, 0);
    let state = state
        .map_err(|_| Failed::error("the database has a member, an alarm or a lease that cannot be read"))?;
    let entries = unapplied(store, &recovered.entries);
    let why = refusal(store, entries, u64::MAX).or_else(|| removal(owner.member_id, store, entries));
    if let Some(why) = why {
        return Err(Failed::error(format!(
            "Kevel cannot go on with what is there: {why}. Where etcd was killed, start it once more, let it come up, \
             and stop it with SIGTERM; then migrate again"
        )));
    }
    let listed = state.cluster.conf_state();
    let told = said.conf_state.clone().or_else(|| members::of_log(recovered, said.reached));
    members::check(told, &listed).map_err(|why| Failed::error(format!("{}: {why}", database.display())))?;
    if !state.cluster.members.contains_key(&owner.member_id) {
        return Err(Failed::error(format!(
            "the database does not know the log's member {:x}: let etcd catch up with its cluster first",
            owner.member_id
        )));
    }
    Ok(listed)
}

/// Opens the new member as a start does, and looks whether everything is there.
fn look_again(staging: &Staging, applied: Applied) -> Result<(), Failed> {
    let config = config_of(&staging.data_dir(), None)?;
    let opened = open(&config, &Ports::none())
        .map_err(|why| Failed::error(format!("the new member cannot be opened: {why}")))?;
    let is_whole = matches!(opened.opening, Opening::Recover(..)) && opened.store.applied() == applied;
    if is_whole { Ok(()) } else { Err(Failed::error("the new member is not what was written")) }
}
