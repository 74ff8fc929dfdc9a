//! A member's new folder while it is made, and how it takes the place of the old one.
//!
//! A file in the folder says that the new member is complete, and which kind of member it replaces. It is made before
//! the new member takes its place and removed last, so a later attempt knows whether the folder has half of a new
//! member, which it removes, or all of an old one, which it keeps.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::super::Failed;
use super::super::folders::{Belongs, is_mount_point, move_segments};
use crate::server::boot::data_dir;
use crate::server::io::dir;
use crate::server::io::exchange::exchange;

/// The folder of what is not finished, within the data directory.
const MIGRATING: &str = "migrating";
/// The folder within the data directory that has all of a member.
const MEMBER: &str = "member";
/// The file that says that the new member is complete.
const COMPLETE: &str = "complete";
/// Folders on which an exchange is tried.
const TRIED: [&str; 2] = ["a", "b"];

/// Whose a member's folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Etcd,
    Kevel,
}

impl Kind {
    /// Whose the member is that has this folder; nobody's if there is none.
    ///
    /// # Errors
    /// When that cannot be seen.
    pub(super) fn of(member: &Path) -> Result<Option<Self>, Failed> {
        let store = member.join("kevel").join("store");
        if is_there(&store)? && data_dir::is_ours(&store) {
            return Ok(Some(Self::Kevel));
        }
        Ok(is_there(&member.join("snap").join("db"))?.then_some(Self::Etcd))
    }

    /// How it is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Kevel => "Kevel",
        }
    }

    /// What a member of this kind becomes.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Etcd => Self::Kevel,
            Self::Kevel => Self::Etcd,
        }
    }

    /// Where in a folder is kept what was a member's of this kind when one of the other kind has taken its place.
    pub(super) fn kept(self, folder: &Path) -> PathBuf {
        folder.join(format!("{MEMBER}.{}", self.name().to_lowercase()))
    }
}

/// Whether a file is there that can be read.
fn is_there(path: &Path) -> Result<bool, Failed> {
    match File::open(path) {
        Ok(_) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(false),
            io::ErrorKind::PermissionDenied => Err(Failed::error(format!(
                "cannot read {}: {error}; run this as the user that the member runs as",
                path.display()
            ))),
            _ => Err(Failed::file("open", path.display(), &error)),
        },
    }
}

/// From where to where, and whose member it is before.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// The data directory of the member.
    pub(super) source: PathBuf,
    /// The data directory that is made; the same, where the member changes in place.
    pub(super) target: PathBuf,
    /// Whose the member is.
    pub(super) kind: Kind,
    /// The folder of the log, where one was named.
    pub(super) wal_dir: Option<PathBuf>,
}

impl Way {
    /// The member's folder.
    pub(super) fn member(&self) -> PathBuf {
        self.source.join(MEMBER)
    }

    /// The folder of the member's log.
    pub(super) fn log(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.member().join("wal"))
    }

    /// The folder of the member's log where it lies outside the member's folder.
    pub(super) fn log_apart(&self) -> Option<PathBuf> {
        let log = self.wal_dir.as_ref()?.canonicalize().ok()?;
        let member = self.member().canonicalize().ok()?;
        (!log.starts_with(member)).then_some(log)
    }

    /// Whether the new member has the data directory of the old one.
    pub(super) fn is_in_place(&self) -> bool {
        match (self.source.canonicalize(), self.target.canonicalize()) {
            (Ok(source), Ok(target)) => source == target,
            _ => self.source == self.target,
        }
    }

    fn staged(&self) -> PathBuf {
        self.target.join(MIGRATING)
    }

    fn place(&self) -> PathBuf {
        self.target.join(MEMBER)
    }

    /// Ends an earlier attempt whose new member has its place already. The kind that it has replaced, if there was one.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub(super) fn end_earlier(&self) -> Result<Option<Kind>, Failed> {
        let Some(replaced) = self.noted()? else { return Ok(None) };
        if Kind::of(&self.place())? != Some(replaced.other()) {
            return Ok(None);
        }
        self.keep(replaced)?;
        Ok(Some(replaced))
    }

    /// The kind that a complete new member replaces. A note that is not whole was never followed by anything.
    fn noted(&self) -> Result<Option<Kind>, Failed> {
        let note = self.staged().join(COMPLETE);
        match fs::read(&note) {
            Ok(said) => Ok([Kind::Etcd, Kind::Kevel].into_iter().find(|kind| said == kind.name().as_bytes())),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(Failed::file("read", note.display(), &error)),
        }
    }

    /// Looks whether there is a member to begin with, and nothing in its way.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub(super) fn check(&self) -> Result<(), Failed> {
        let (source, wanted) = (self.source.display(), self.kind.name());
        match Kind::of(&self.member())? {
            Some(kind) if kind == self.kind => {}
            Some(_) => {
                return Err(Failed::error(format!(
                    "{source} holds a member of {} already: there is nothing to migrate",
                    self.kind.other().name()
                )));
            }
            None => {
                return Err(Failed::error(format!(
                    "{source} holds no member of {wanted}: name the folder that its --data-dir names"
                )));
            }
        }
        let replaced = "it is what an earlier migration has replaced: move it away, or delete it";
        let kept_log = self.log_apart().map(|log| (self.kind.kept(&log), replaced));
        let way = match self.is_in_place() {
            true => [Some((self.kind.kept(&self.target), replaced)), kept_log],
            false => [Some((self.place(), "name another --data-dir, where there is no member")), None],
        };
        match way.into_iter().flatten().find(|(path, _)| path.exists()) {
            None => Ok(()),
            Some((path, what)) => Err(Failed::error(format!("{} is in the way: {what}", path.display()))),
        }
    }

    /// Gives the name under which it is kept to what was replaced, and ends the migration.
    fn keep(&self, replaced: Kind) -> Result<(), Failed> {
        let (staged, kept) = (self.staged(), replaced.kept(&self.target));
        let old = staged.join(MEMBER);
        let moved = if old.exists() { fs::rename(&old, &kept) } else { Ok(()) };
        moved
            .and_then(|()| dir::sync(&self.target))
            .and_then(|()| fs::remove_file(staged.join(COMPLETE)))
            .and_then(|()| fs::remove_dir(&staged))
            .and_then(|()| dir::sync(&self.target))
            .map_err(|error| {
                Failed::error(format!(
                    "the new member has its place, but {} cannot be made {}: {error}; mend that, and run this again",
                    old.display(),
                    kept.display()
                ))
            })
    }
}

/// Where a new member is, and what it has replaced.
pub(super) struct Placed {
    /// Where the folder is that the member had before.
    pub(super) kept: PathBuf,
    /// Where the old log is kept that lay apart, or why it is where it was.
    pub(super) log: Option<Result<PathBuf, String>>,
}

/// The new folder. Dropped before it is finished, it is gone.
pub(super) struct Staging {
    way: Way,
    /// To whom the member belongs.
    owner: Belongs,
    /// The folders that were made for it, above it.
    made: Vec<PathBuf>,
    /// What is at its path may be the old folder.
    is_finished: bool,
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.is_finished {
            // What is left is removed by the next attempt.
            let _ = fs::remove_dir_all(self.data_dir());
        }
    }
}

impl Staging {
    /// Begins with an empty folder. What a crash has left of an earlier attempt is removed: no old member is in it,
    /// or [`Way::end_earlier`] had kept it.
    ///
    /// # Errors
    /// What the filesystem answers, and when it cannot do what comes last.
    pub(super) fn begin(way: &Way) -> Result<Self, Failed> {
        let path = way.staged();
        remove_earlier(&path)?;
        let failed = |error: io::Error| Failed::file("create", path.display(), &error);
        let owner = Belongs::of(&way.member()).map_err(failed)?;
        let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
        let made = way.target.ancestors().take_while(is_missing).map(Path::to_owned).collect();
        let staging = Self { way: way.clone(), owner, made, is_finished: false };
        dir::create(&staging.member()).map_err(failed)?;
        [&path, &staging.member()].into_iter().chain(&staging.made).try_for_each(|made| owner.give(made)).map_err(
            |error| {
                Failed::error(format!(
                    "{} cannot be given to the user of {}: {error}; run this as the user that the member runs as, or \
                     as root",
                    path.display(),
                    way.member().display()
                ))
            },
        )?;
        if way.is_in_place() {
            staging.try_exchange()?;
        }
        Ok(staging)
    }

    /// The data directory of which the new folder is a part, until it is finished.
    pub(super) fn data_dir(&self) -> PathBuf {
        self.way.staged()
    }

    /// The new folder.
    pub(super) fn member(&self) -> PathBuf {
        self.data_dir().join(MEMBER)
    }

    /// A folder within the new folder, which is made.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, Failed> {
        let path = self.member().join(name);
        dir::create(&path).map_err(|error| Failed::file("create", path.display(), &error))?;
        Ok(path)
    }

    /// Whoever has no filesystem that can exchange two folders is told before the work is done.
    fn try_exchange(&self) -> Result<(), Failed> {
        if is_mount_point(&self.way.place()) {
            return Err(self.cannot_exchange("something is mounted there"));
        }
        let pair = TRIED.map(|name| self.data_dir().join(name));
        let tried = pair.iter().try_for_each(fs::create_dir).and_then(|()| exchange(&pair[0], &pair[1]));
        tried
            .and_then(|()| pair.iter().try_for_each(fs::remove_dir))
            .map_err(|error| self.cannot_exchange(&error.to_string()))
    }

    fn cannot_exchange(&self, why: &str) -> Failed {
        Failed::error(format!(
            "{} cannot exchange its name with another folder ({why}): name another directory for the new member with \
             --data-dir",
            self.way.place().display()
        ))
    }

    /// Gives the new folder its place.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub(super) fn finish(mut self) -> Result<Placed, Failed> {
        let (member, place) = (self.member(), self.way.place());
        let failed = |error: io::Error| Failed::file("finish", member.display(), &error);
        self.owner.seal(&member).map_err(failed)?;
        self.note_complete().map_err(failed)?;
        let in_place = self.way.is_in_place();
        match in_place {
            true => exchange(&member, &place).map_err(|error| self.cannot_exchange(&error.to_string()))?,
            false => fs::rename(&member, &place).map_err(failed)?,
        }
        self.is_finished = true;
        dir::sync(&self.data_dir()).and_then(|()| dir::sync(&self.way.target)).map_err(failed)?;
        let log = if in_place { self.set_log_aside() } else { None };
        self.way.keep(self.way.kind)?;
        let kept = if in_place { self.way.kind.kept(&self.way.target) } else { self.way.member() };
        Ok(Placed { kept, log })
    }

    /// Makes the note that the new member is complete, durably.
    fn note_complete(&self) -> io::Result<()> {
        let path = self.data_dir().join(COMPLETE);
        let mut file = File::create(&path)?;
        file.write_all(self.way.kind.name().as_bytes())?;
        self.owner.give(&path)?;
        file.sync_all()?;
        dir::sync(&self.data_dir())
    }

    /// Sets a log aside that lies apart. With its folder named at a start, the new member would go on with it and
    /// forget the one that was made for it.
    fn set_log_aside(&self) -> Option<Result<PathBuf, String>> {
        let log = self.way.log_apart()?;
        let kept = self.way.kind.kept(&log);
        let moved = move_segments(&log, &kept);
        Some(moved.map(|()| kept).map_err(|error| format!("{}: {error}", log.display())))
    }
}

/// Removes what a crash has left. Nothing else is removed: the folder may be the operator's own.
fn remove_earlier(path: &Path) -> Result<(), Failed> {
    let failed = |error: io::Error| Failed::file("remove", path.display(), &error);
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed)?,
    };
    let is_known =
        |name: &std::ffi::OsStr| [MEMBER, COMPLETE].into_iter().chain(TRIED).any(|known| name == known);
    match entries.iter().find(|entry| !is_known(&entry.file_name())) {
        None => fs::remove_dir_all(path).map_err(failed),
        Some(stranger) => Err(Failed::error(format!(
            "{} is not of an earlier migration: move {} away",
            stranger.path().display(),
            path.display()
        ))),
    }
}
