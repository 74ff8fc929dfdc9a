//! What a start finds on the disk: the store file, the log, and whether they belong together.
//!
//! A member acknowledges nothing before its store file says whose log it follows ([`Owner`]): the log's first write is
//! durable, then the owner is ([`record`]), then an answer goes out. So a store without owner has promised nothing,
//! and one with an owner is not opened without that owner's log.
//!
//! | store file | log | |
//! |---|---|---|
//! | new, or without owner and content | none | a cluster is founded, or joined |
//! | any | begins at or before the next entry that the store needs | recovered from |
//! | a snapshot of the leader, and nothing beyond it | does not say so yet | begins anew behind the snapshot |
//! | with owner or content | none, of another owner, or with other entries | refused |
//! | older than the snapshot behind which the log begins anew | any | refused |
//! | any | begins later, or has a gap | refused by recovery |
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use super::failure::at_path;
use super::{join, newborn};
use crate::btree::Store;
use crate::cluster::member::MemberContext;
use crate::cluster::stored;
use crate::config::{Config, Discovery, InitialCluster, Url};
use crate::error::RECOVERY;
use crate::page::{self, Applied, Owner, PageFile};
use crate::replica::Opening;
use crate::replica::bootstrap::Foundation;
use crate::replica::force::Forced;
use crate::server::io::dir;
use crate::server::io::page_file::MappedFile;
use crate::server::io::wal_dir::WalDir;
use crate::server::io::wal_file::OnFounded;
use crate::server::log::lines;
use crate::server::peers::reception;
use crate::server::tls::Ports;
use crate::snapshot::installed;
use crate::wal::segment::reach_back;
use crate::wal::{self, Metadata, Recovered, SegmentName};

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
    /// For a member that is founded now: what has to be done when the log's first write is durable.
    pub founded: Option<OnFounded>,
    /// For a member that joins a cluster now: its members.
    pub known: Vec<MemberContext>,
}

/// Opens the store and recovers the log; makes both where there is neither.
///
/// # Errors
/// When a file cannot be opened, is damaged beyond what a crash leaves, or is missing.
pub fn open(config: &Config, ports: &Ports) -> Result<Opened, String> {
    let (store_path, wal_path) = (config.store_path(), config.wal_dir());
    let file = store_file(config, &store_path)?;
    let mut store =
        Store::open(file.clone()).map_err(|error| failed("open", store_path.display(), &error))?;
    if !wal_path.exists() && (store.applied().index > 0 || store.owner().is_some()) {
        // Whoever mistypes a folder's name has no use for an empty one of that name.
        return Err(log_gone(&store_path, &wal_path, store.owner()));
    }
    let wal_dir = WalDir::open(&wal_path).map_err(|error| at_path("open", wal_path.display(), &error))?;
    let wal_dir = if config.unsafe_no_fsync { wal_dir.without_sync() } else { wal_dir };
    let names = wal_dir.segments().map_err(|error| at_path("read", wal_path.display(), &error))?;
    // A member that was joining has no log before its first snapshot, and may have left half of that.
    reception::clean(&store_path, &config.snap_dir())
        .map_err(|error| at_path("clean", config.snap_dir().display(), &error))?;
    let applied = store.applied();
    if names.is_empty() {
        if applied.index > 0 || store.owner().is_some() {
            return Err(log_gone(&store_path, &wal_path, store.owner()));
        }
        let (opening, (member_id, cluster_id), known) = beginning(config, ports)?;
        let owner = Owner { member_id, cluster_id };
        store.set_owner(owner);
        let founded: OnFounded = Box::new(move || record(&*file, owner));
        return Ok(Opened { store, opening, member_id, cluster_id, wal_dir, founded: Some(founded), known });
    }
    if matches!(config.founding.discovery, Some(Discovery::Service(_))) {
        lines::discovery_ignored(&wal_path);
    }
    let snapshot = installed::read(&store.readers().register().snapshot());
    let after = snapshot.map_or_else(|| read_after(config, &store, &names), |(index, _)| index);
    let mut recovered = read_log(&wal_dir, &names, after, snapshot)?;
    if recovered.last_index < applied.index && after < applied.index {
        // A log that ends too early is read as that of a member alone, which says what is wrong.
        recovered = read_log(&wal_dir, &names, applied.index, None)?;
    }
    belongs_together(store.owner(), applied, &recovered)
        .map_err(|why| apart(&store_path, &wal_path, &why))?;
    let owner @ Owner { member_id, cluster_id } = owner_of(&recovered.metadata);
    if store.owner().is_none() {
        record(&*file, owner)?;
        store.set_owner(owner);
    }
    wal_dir.mend_tail(&recovered.tail).map_err(|error| at_path("mend", wal_path.display(), &error))?;
    let recovered = Box::new(recovered);
    let opening = match config.founding.goes_on_alone {
        true => force(config, &store, recovered, names, owner)?,
        false => Opening::Recover(recovered, names),
    };
    Ok(Opened { store, opening, member_id, cluster_id, wal_dir, founded: None, known: Vec::new() })
}

/// A member that goes on alone, with all that its log has.
fn force(
    config: &Config,
    store: &Store,
    recovered: Box<Recovered>,
    names: Vec<SegmentName>,
    Owner { member_id, cluster_id }: Owner,
) -> Result<Opening, String> {
    let peer_urls = config.advertise.peer.iter().map(Url::to_string).collect();
    let own = MemberContext { id: member_id, peer_urls, ..MemberContext::default() };
    let forced = Forced::new(recovered, store, &own)?;
    lines::forced(member_id, cluster_id, &forced);
    Ok(Opening::Force(Box::new(forced), names))
}

/// The entry behind which the log is read. Those that the store has applied are for other members that lag, as many as
/// a leader keeps, from two segments at most.
fn read_after(config: &Config, store: &Store, names: &[SegmentName]) -> u64 {
    let applied = store.applied().index;
    let members = stored::members(&store.readers().register().snapshot()).unwrap_or_default();
    if members.iter().filter(|(_, member)| member.is_some()).count() < 2 {
        return applied;
    }
    reach_back(names, applied, config.catchup_entries())
}

/// The log behind the entry `after`, which is the last one in `snapshot` if the store is the snapshot of a leader.
fn read_log(
    wal_dir: &WalDir,
    names: &[SegmentName],
    after: u64,
    snapshot: Option<(u64, u64)>,
) -> Result<Recovered, String> {
    let content = wal_dir.read_after(names, after);
    let content = content.map_err(|error| at_path("read", wal_dir.path().display(), &error))?;
    let segments: Vec<_> = content.iter().map(|(name, bytes)| (*name, &**bytes)).collect();
    let recovered = match snapshot {
        Some(snapshot) => wal::recover_behind(&segments, snapshot),
        None => wal::recover(&segments, after),
    };
    recovered.map_err(|error| error.to_string())
}

/// What a member without data begins with: the opening, the ids of member and cluster, and the members of the cluster.
type Begun = (Opening, (u64, u64), Vec<MemberContext>);

/// How a member without data begins: its id, that of its cluster, and the members of a cluster that exists.
fn beginning(config: &Config, ports: &Ports) -> Result<Begun, String> {
    if config.founding.join_existing {
        let join::Place { cluster_id, member_id, members } = join::find(config, ports)?;
        return Ok((Opening::Join { cluster_id }, (member_id, cluster_id), members));
    }
    let (foundation, member_id) = foundation(config)?;
    let cluster_id = foundation.cluster_id;
    newborn::check(&foundation, member_id, ports)?;
    Ok((Opening::Found(foundation), (member_id, cluster_id), Vec::new()))
}

/// The cluster that a member without data founds, and the member's id in it.
///
/// # Errors
/// When the founders cannot be read, or this member is none of them.
pub fn foundation(config: &Config) -> Result<(Foundation, u64), String> {
    let InitialCluster { members } = config.founders()?;
    let members = members.into_iter().map(|(name, urls)| (name, urls.iter().map(Url::to_string).collect()));
    let foundation = Foundation::new(members, &config.founding.token);
    let own = foundation.founders.iter().find(|founder| founder.name == config.name);
    let id = own.ok_or("this member is not part of --initial-cluster")?.id;
    Ok((foundation, id))
}

/// Writes into the store file whose it is, once, before anything is acknowledged.
fn record(file: &dyn PageFile, owner: Owner) -> Result<(), String> {
    page::claim(file, owner).map_err(|error| failed("write to", file.name(), &error))
}

fn store_file(config: &Config, path: &Path) -> Result<Arc<dyn PageFile>, String> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    dir::create(parent).map_err(|error| at_path("create", parent.display(), &error))?;
    let file = MappedFile::open(path).map_err(|error| at_path("open", path.display(), &error))?;
    dir::sync(parent).map_err(|error| at_path("sync", parent.display(), &error))?;
    Ok(Arc::new(if config.unsafe_no_fsync { file.without_sync() } else { file }))
}

/// The member whose log it is.
pub fn owner_of(metadata: &Metadata) -> Owner {
    Owner { member_id: metadata.node_id, cluster_id: metadata.cluster_id }
}

/// Says why a log is not the one that a store follows.
///
/// # Errors
/// What does not fit.
pub fn belongs_together(owner: Option<Owner>, applied: Applied, recovered: &Recovered) -> Result<(), String> {
    let found = owner_of(&recovered.metadata);
    if let Some(owner) = owner.filter(|&owner| owner != found) {
        return Err(format!("the store is that of {owner}, the log that of {found}"));
    }
    if recovered.after > applied.index {
        return Err(format!(
            "the store holds the entries up to {}, and the log begins anew behind a snapshot at entry {}: that of a \
             leader, or the one that this member was restored from",
            applied.index, recovered.after
        ));
    }
    let entry = recovered.entries.iter().find(|entry| entry.index == applied.index);
    match entry.map(|entry| entry.term).or(recovered.term_before) {
        Some(term) if term != applied.term => Err(format!(
            "the store holds entry {} of term {}, the log has that entry of term {term}",
            applied.index, applied.term
        )),
        _ => Ok(()),
    }
}

fn log_gone(store: &Path, log: &Path, owner: Option<Owner>) -> String {
    let whose = owner.map(|owner| format!(" of {owner}")).unwrap_or_default();
    format!(
        "{} is the store{whose}, but the log in {} is gone: put it back, or name its folder with --wal-dir if it lies \
         elsewhere; otherwise, {RECOVERY}",
        store.display(),
        log.display()
    )
}

fn apart(store: &Path, log: &Path, why: &str) -> String {
    format!(
        "{} and the log in {} do not belong together: {why}. Nothing was changed: put back the one that was here \
         before; otherwise, {RECOVERY}",
        store.display(),
        log.display()
    )
}

fn failed(what: &str, path: impl Display, error: &dyn Display) -> String {
    format!("cannot {what} {path}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::wal::{Appender, Write};
    use raft::eraftpb::HardState;
    use std::fs;
    use std::path::PathBuf;

    /// A data directory of its own for each test.
    struct Member {
        root: PathBuf,
        foundation: Foundation,
        id: u64,
    }

    impl Member {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("kevel-open-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            let mut member = Self { root, foundation: Foundation::new([], ""), id: 0 };
            (member.foundation, member.id) = foundation(&member.config()).unwrap();
            member
        }

        fn config(&self) -> Config {
            config::of_line(&format!("--name=m --data-dir={}", self.root.display()))
        }

        fn open(&self) -> Result<Opened, String> {
            open(&self.config(), &Ports::none())
        }

        fn refusal(&self) -> String {
            self.open().err().expect("it has to refuse")
        }

        /// The first write of a member's log.
        fn write_log(&self, member_id: u64) {
            let metadata = Metadata { node_id: member_id, cluster_id: self.foundation.cluster_id };
            let state = HardState { term: 1, vote: 0, commit: 1 };
            let entries = self.foundation.entries();
            self.write(&Appender::create(metadata).append(&entries, Some(&state), None, Vec::new()));
        }

        fn write(&self, write: &Write) {
            fs::create_dir_all(self.wal()).unwrap();
            fs::write(self.wal().join(write.segment.to_string()), &write.bytes).unwrap();
        }

        fn wal(&self) -> PathBuf {
            self.config().wal_dir()
        }

        /// Founds a member, up to the moment before the first answer.
        fn found(&self) {
            let opened = self.open().unwrap();
            assert!(matches!(opened.opening, Opening::Found(_)) && opened.store.owner().is_some());
            self.write_log(self.id);
            opened.founded.unwrap()().unwrap();
        }

        fn entries(&self) -> usize {
            match self.open().unwrap().opening {
                Opening::Recover(recovered, _) => recovered.entries.len(),
                Opening::Force(forced, _) => forced.recovered.entries.len(),
                Opening::Found(_) | Opening::Join { .. } => panic!("founded anew"),
            }
        }
    }

    impl Drop for Member {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    #[test]
    fn a_member_whose_log_is_gone_is_not_founded_anew() {
        let member = Member::new("log-gone");
        member.found();
        assert_eq!(member.entries(), 1);
        fs::rename(member.wal(), member.root.join("elsewhere")).unwrap();
        for _ in 0..2 {
            let refusal = member.refusal();
            assert!(refusal.contains("is gone") && refusal.contains("--wal-dir"), "{refusal}");
            assert!(!member.wal().exists(), "no folder is left where none was");
        }
        fs::create_dir(member.wal()).unwrap();
        assert!(member.refusal().contains("is gone"), "nor is an empty one a log");
        fs::remove_dir(member.wal()).unwrap();
        fs::rename(member.root.join("elsewhere"), member.wal()).unwrap();
        assert_eq!(member.entries(), 1, "nothing was lost by refusing");
    }

    #[test]
    fn a_member_that_had_acknowledged_nothing_is_founded_again() {
        let member = Member::new("no-log-yet");
        drop(member.open().unwrap());
        // One that is to join may have been killed while it took in its first snapshot.
        let config = member.config();
        fs::create_dir_all(config.snap_dir()).unwrap();
        let left = [config.store_path().with_extension("next"), config.snap_dir().join("7.snap.db")];
        left.iter().for_each(|path| fs::write(path, "half").unwrap());
        member.found();
        assert!(left.iter().all(|path| !path.exists()), "nothing is left of it");
    }

    #[test]
    fn a_store_without_owner_gets_the_one_of_its_log() {
        let member = Member::new("not-recorded");
        drop(member.open().unwrap());
        member.write_log(member.id);
        assert_eq!(member.entries(), 1);
        fs::remove_dir_all(member.wal()).unwrap();
        assert!(member.refusal().contains("is gone"));
    }

    #[test]
    fn the_log_of_another_member_is_refused() {
        let member = Member::new("other-log");
        member.found();
        member.write_log(0xabc);
        let refusal = member.refusal();
        assert!(refusal.contains("do not belong together") && refusal.contains("member abc of"), "{refusal}");
    }

    #[test]
    fn a_log_with_other_entries_is_refused() {
        let metadata = Metadata { node_id: 1, cluster_id: 2 };
        let mut log = Appender::create(metadata);
        let entry = raft::eraftpb::Entry { index: 1, term: 3, ..Default::default() };
        let write = log.append(&[entry], None, None, Vec::new());
        let recovered = wal::recover(&[(write.segment, &write.bytes)], 1).unwrap();
        let applied = |term| Applied { index: 1, term, ..Applied::default() };
        assert_eq!(belongs_together(None, applied(3), &recovered), Ok(()));
        let why = belongs_together(None, applied(2), &recovered).unwrap_err();
        assert!(why.contains("entry 1 of term 2") && why.contains("of term 3"), "{why}");
    }

    #[test]
    fn a_lost_store_is_made_again_only_from_a_whole_log() {
        let member = Member::new("store-gone");
        member.found();
        fs::remove_file(member.config().store_path()).unwrap();
        assert_eq!(member.entries(), 1, "the log has everything");
        fs::remove_file(member.config().store_path()).unwrap();
        let names = [SegmentName { sequence: 0, index: 0 }, SegmentName { sequence: 4, index: 9 }];
        let [first, later] = names.map(|name| member.wal().join(name.to_string()));
        fs::rename(first, later).unwrap();
        let refusal = member.refusal();
        assert!(refusal.contains("no segment for entry 1") && refusal.contains("was lost"), "{refusal}");
    }
}
