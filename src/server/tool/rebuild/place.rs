//! The folders of a member that is rebuilt.
#![forbid(unsafe_code)]

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::super::folders::{Belongs, is_mount_point, move_segments, segments};
use super::super::{Failed, restore};
use super::note::Note;
use crate::page::{self, Owner};
use crate::server::boot::data_dir;
use crate::server::io::page_file::MappedFile;
use crate::server::io::{dir, ofd_lock};
use crate::wal::{SegmentName, recover};

/// The folder of what is not finished, within the data directory.
const REBUILDING: &str = "rebuilding";
/// Where segments are kept that were damaged, within the folder of a log that lies apart.
const DAMAGED: &str = "damaged";
/// Bytes at the head of a segment that say whose it is.
const HEAD_BYTES: usize = 4096;

/// Where the member lives.
pub(super) struct Place {
    data_dir: PathBuf,
    /// Where its log is, if that lies elsewhere.
    wal_dir: Option<PathBuf>,
    /// The files that nobody else may use meanwhile.
    locks: Locks,
}

/// Locks of a store and of a log's segments. Not all of them can be opened.
#[derive(Default)]
struct Locks {
    store: Option<MappedFile>,
    _files: Vec<File>,
}

impl Place {
    /// Takes the locks of what is there.
    ///
    /// # Errors
    /// When somebody uses it.
    pub(super) fn open(data_dir: PathBuf, wal_dir: Option<PathBuf>) -> Result<Self, Failed> {
        let wal_dir = match wal_dir {
            // What is within the member's folder goes with it.
            Some(dir) if is_within(&dir, &data_dir.join("member")) => None,
            other => other,
        };
        let mut place = Self { data_dir, wal_dir, locks: Locks::default() };
        place.locks = place.lock()?;
        Ok(place)
    }

    pub(super) fn member(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    fn store(&self) -> PathBuf {
        self.member().join("kevel").join("store")
    }

    fn wal(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.member().join("wal"))
    }

    /// The folder of the log as a note has it.
    pub(super) fn wal_dir(&self) -> Option<String> {
        self.wal_dir.as_ref().map(|dir| dir.display().to_string())
    }

    /// Where what is damaged is kept.
    pub(super) fn kept(&self) -> PathBuf {
        self.data_dir.join("member.damaged")
    }

    fn kept_log(&self) -> Option<PathBuf> {
        self.wal_dir.as_ref().map(|dir| dir.join(DAMAGED))
    }

    /// Where notes are, and the new member until it is complete.
    pub(super) fn rebuilding(&self) -> PathBuf {
        self.data_dir.join(REBUILDING)
    }

    /// A file that cannot be opened keeps nobody from rebuilding the member; one that is in use does.
    fn lock(&self) -> Result<Locks, Failed> {
        let mut files = Vec::new();
        let store = MappedFile::open_existing(&self.store()).ok();
        if store.is_none()
            && let Ok(file) = File::open(self.store())
        {
            if let Err(TryLockError::WouldBlock) = file.try_lock() {
                return Err(in_use(&self.store()));
            }
            files.push(file);
        }
        for name in segments(&self.wal()).unwrap_or_default() {
            let path = self.wal().join(name.to_string());
            let Ok(file) = File::options().read(true).write(true).open(&path) else { continue };
            if ofd_lock::try_lock(&file).is_ok_and(|is_free| !is_free) {
                return Err(in_use(&path));
            }
            files.push(file);
        }
        Ok(Locks { store, _files: files })
    }

    /// Which member lives here, as its store and its log say.
    ///
    /// # Errors
    /// When neither says so, when they name two, and when it is no member of Kevel.
    pub(super) fn owner(&self) -> Result<Owner, Failed> {
        let (store, wal) = (self.store(), self.wal());
        let has_store = fs::symlink_metadata(&store).is_ok();
        let names = segments(&wal);
        let is_etcds = self.member().join("snap").join("db").exists();
        if !has_store && (is_etcds || names.as_ref().map_or(true, Vec::is_empty)) {
            return Err(Failed::error(data_dir::no_store(&self.data_dir, &store)));
        }
        let of_store = self.owner_of_store();
        let of_log = names.as_deref().unwrap_or_default().iter().rev().find_map(|&name| self.owner_of(name));
        let shown = (store.display(), wal.display());
        match (of_store, of_log) {
            (Some(store), Some(log)) if store != log => Err(Failed::error(format!(
                "{} is the store of {store}, and {} has the log of {log}: one of them is another member's, which may \
                 be well. Move away the one that does not belong here, or name the folder of the log with --wal-dir, \
                 and run this again",
                shown.0, shown.1
            ))),
            // Whoever forgets where the log is would get a second one.
            (Some(_), None) if names.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) => {
                Err(Failed::error(format!(
                    "{} is not there: name the folder of the member's log with --wal-dir. If the log is lost, make an \
                     empty folder of that name, and run this again",
                    shown.1
                )))
            }
            (Some(owner), _) | (None, Some(owner)) => Ok(owner),
            (None, None) => Err(Failed::error(format!(
                "neither {} nor the log in {} says which member it is: remove the member that has lived here and add \
                 it again (etcdctl member remove, etcdctl member add), then start it with an empty data directory and \
                 --initial-cluster-state=existing",
                shown.0, shown.1
            ))),
        }
    }

    fn owner_of_store(&self) -> Option<Owner> {
        page::owner(self.locks.store.as_ref()?).ok().flatten()
    }

    /// Whose a segment is. It is read and not mapped: a bad sector is an error then, and does not end the process.
    fn owner_of(&self, name: SegmentName) -> Option<Owner> {
        let file = File::open(self.wal().join(name.to_string())).ok()?;
        let mut head = vec![0; HEAD_BYTES.min(file.metadata().ok()?.len() as usize)];
        file.read_exact_at(&mut head, 0).ok()?;
        let found = recover::metadata(&head)?;
        Some(Owner { member_id: found.node_id, cluster_id: found.cluster_id })
    }

    /// Whether there is room for what is set aside.
    ///
    /// # Errors
    /// What is in the way.
    pub(super) fn check_room(&self) -> Result<(), Failed> {
        match [Some(self.kept()), self.kept_log()].into_iter().flatten().find(|kept| kept.exists()) {
            None => Ok(()),
            Some(kept) => {
                let kept = kept.display();
                Err(Failed::error(format!("{kept} is there from an earlier time: look at it, and remove it")))
            }
        }
    }

    /// Tries what is to be done with the folders once the cluster has another member.
    ///
    /// # Errors
    /// What cannot be done, and what to do.
    pub(super) fn try_folders(&self) -> Result<(), Failed> {
        if is_mount_point(&self.member()) {
            let member = self.member();
            return Err(Failed::error(format!(
                "something is mounted on {}, so it cannot be renamed: move the member's files to a folder where \
                 nothing is mounted, and name that with --data-dir",
                member.display()
            )));
        }
        let owner = self.belongs()?;
        let rebuilding = self.rebuilding();
        try_folder(&self.data_dir, &rebuilding, owner)?;
        match &self.wal_dir {
            None => Ok(()),
            Some(log) => {
                let tried = log.join(REBUILDING);
                try_folder(log, &tried, owner)?;
                fs::remove_dir(&tried).map_err(|error| failed("remove", &tried, &error))
            }
        }
    }

    /// To whom the member's files belong.
    fn belongs(&self) -> Result<Belongs, Failed> {
        let (member, kept) = (self.member(), self.kept());
        let known = [&member, &kept, &self.data_dir].into_iter().find(|folder| folder.exists());
        Belongs::of(known.unwrap_or(&member)).map_err(|error| failed("look at", &member, &error))
    }

    /// Whether the new member was at its place already when the locks were taken.
    pub(super) fn is_placed(&self, new: Owner) -> bool {
        self.owner_of_store() == Some(new)
    }

    /// Puts an empty member in the place of the one that was there. Each step may have been done before.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub(super) fn renew(&self, new: Owner) -> Result<(), Failed> {
        let (owner, rebuilding, member) = (self.belongs()?, self.rebuilding(), self.member());
        let made = rebuilding.join("member");
        match fs::remove_dir_all(&made) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &made, &error));
            }
            _ => {}
        }
        // A log that lies apart is made beside the member, too, and moved where the old one was.
        let wal = if self.wal_dir.is_some() { rebuilding.join("wal") } else { made.join("wal") };
        if self.wal_dir.is_some() && wal.exists() {
            fs::remove_dir_all(&wal).map_err(|error| failed("remove", &wal, &error))?;
        }
        restore::make_empty(&made, &wal, new)?;
        owner.seal(&made).map_err(|error| failed("make", &made, &error))?;
        if let (Some(log), Some(kept)) = (&self.wal_dir, self.kept_log()) {
            self.renew_log(&wal, log, &kept, (owner, new))
                .map_err(|error| failed("renew the log in", log, &error))?;
        }
        if member.exists() {
            fs::rename(&member, self.kept()).map_err(|error| failed("rename", &member, &error))?;
        }
        fs::rename(&made, &member)
            .and_then(|()| dir::sync(&self.data_dir))
            .map_err(|error| failed("rename", &made, &error))
    }

    /// Puts a new log in the place of one that lies apart, perhaps on another filesystem.
    fn renew_log(
        &self,
        made: &Path,
        log: &Path,
        kept: &Path,
        (owner, new): (Belongs, Owner),
    ) -> io::Result<()> {
        let names = segments(log)?;
        if names.iter().any(|&name| self.owner_of(name) == Some(new)) {
            return Ok(());
        }
        if !names.is_empty() {
            move_segments(log, kept)?;
        }
        for name in segments(made)? {
            // Not a name of a segment, until the segment is whole.
            let unfinished = log.join("rebuilding.tmp");
            fs::copy(made.join(name.to_string()), &unfinished)?;
            owner.seal(&unfinished)?;
            fs::rename(&unfinished, log.join(name.to_string()))?;
        }
        dir::sync(log)
    }

    /// Removes what an interruption would have needed.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub(super) fn forget(&self) -> Result<(), Failed> {
        let rebuilding = self.rebuilding();
        fs::remove_dir_all(&rebuilding)
            .and_then(|()| dir::sync(&self.data_dir))
            .map_err(|error| failed("remove", &rebuilding, &error))
    }

    /// What an earlier attempt has left.
    ///
    /// # Errors
    /// When it cannot be read, or was about another folder of the log.
    pub(super) fn note(&self) -> Result<Option<Note>, Failed> {
        let rebuilding = self.rebuilding();
        let note =
            Note::read(&rebuilding).map_err(|error| failed("read the note in", &rebuilding, &error))?;
        if let Some(note) = &note
            && note.wal_dir != self.wal_dir()
        {
            let named =
                note.wal_dir.as_deref().map_or("no --wal-dir".to_owned(), |dir| format!("--wal-dir {dir}"));
            return Err(Failed::error(format!(
                "an earlier attempt was run with {named}: run this with the same"
            )));
        }
        Ok(note)
    }

    /// Leaves a note.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub(super) fn leave(&self, note: &Note) -> Result<(), Failed> {
        let rebuilding = self.rebuilding();
        dir::create(&rebuilding)
            .and_then(|()| note.write(&rebuilding))
            .map_err(|error| failed("leave a note in", &rebuilding, &error))
    }
}

/// Makes a folder as those are made that come later, gives it to the member's user, and renames a file in it.
fn try_folder(above: &Path, tried: &Path, owner: Belongs) -> Result<(), Failed> {
    let (one, other) = (tried.join("one"), tried.join("other"));
    dir::create(tried)
        .and_then(|()| owner.give(tried))
        .and_then(|()| File::create(&one).map(drop))
        .and_then(|()| fs::rename(&one, &other))
        .and_then(|()| fs::remove_file(&other))
        .map_err(|error| {
            Failed::error(format!(
                "cannot make folders in {}, or not give them to the member's user: {error}. Nothing was changed: run \
                 this as root, or as the user that the member runs as",
                above.display()
            ))
        })
}

fn is_within(folder: &Path, above: &Path) -> bool {
    match (folder.canonicalize(), above.canonicalize()) {
        (Ok(folder), Ok(above)) => folder.starts_with(above),
        _ => folder.starts_with(above),
    }
}

fn in_use(path: &Path) -> Failed {
    Failed::error(format!(
        "another process uses {}, a member perhaps that runs already: stop it first, and keep it from being started",
        path.display()
    ))
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failed {
    Failed::error(format!("cannot {what} {}: {error}", path.display()))
}
