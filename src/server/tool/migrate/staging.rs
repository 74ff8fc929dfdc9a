//! A member's new folder while it is made, and how it takes the place of the old one.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use super::super::Failed;
use crate::server::boot::data_dir;
use crate::server::io::dir;
use crate::server::io::exchange::exchange;

/// The folder of what is not finished, within the data directory.
const MIGRATING: &str = "migrating";
/// The folder within the data directory that has all of a member.
const MEMBER: &str = "member";

/// Whose a member's folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Etcd,
    Kevel,
}

impl Kind {
    /// Whose the member is that has this folder; nobody's if there is none.
    pub(super) fn of(member: &Path) -> Option<Self> {
        if data_dir::is_ours(&member.join("kevel").join("store")) {
            return Some(Self::Kevel);
        }
        member.join("snap").join("db").exists().then_some(Self::Etcd)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Kevel => "Kevel",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Etcd => Self::Kevel,
            Self::Kevel => Self::Etcd,
        }
    }

    /// Where a member of this kind is kept when one of the other kind has taken its place.
    fn kept(self, data_dir: &Path) -> PathBuf {
        data_dir.join(format!("{MEMBER}.{}", self.name().to_lowercase()))
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
}

impl Way {
    /// The member's folder.
    pub(super) fn member(&self) -> PathBuf {
        self.source.join(MEMBER)
    }

    fn is_in_place(&self) -> bool {
        match (self.source.canonicalize(), self.target.canonicalize()) {
            (Ok(source), Ok(target)) => source == target,
            _ => self.source == self.target,
        }
    }

    fn staged(&self) -> PathBuf {
        self.target.join(MIGRATING)
    }

    /// Where what was there is kept.
    fn kept(&self) -> PathBuf {
        self.kind.kept(&self.target)
    }

    /// Ends an earlier attempt of which nothing but the last step was missing. True if there was one.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub(super) fn end_earlier(&self) -> Result<bool, Failed> {
        let replaced = self.staged().join(MEMBER);
        let is_done = self.is_in_place()
            && Kind::of(&replaced) == Some(self.kind)
            && Kind::of(&self.member()) == Some(self.kind.other());
        if is_done {
            self.keep(&replaced)?;
        }
        Ok(is_done)
    }

    /// Looks whether there is a member to begin with, and nothing in its way.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub(super) fn check(&self) -> Result<(), Failed> {
        let (source, wanted) = (self.source.display(), self.kind.name());
        match Kind::of(&self.member()) {
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
        let (way, what) = match self.is_in_place() {
            true => (self.kept(), "it is what an earlier migration has replaced: move it away, or delete it"),
            false => (self.target.join(MEMBER), "name another --data-dir, where there is no member"),
        };
        if way.exists() {
            return Err(Failed::error(format!("{} is in the way: {what}", way.display())));
        }
        Ok(())
    }

    fn keep(&self, replaced: &Path) -> Result<(), Failed> {
        let kept = self.kept();
        fs::rename(replaced, &kept)
            .and_then(|()| fs::remove_dir(self.staged()))
            .and_then(|()| dir::sync(&self.target))
            .map_err(|error| Failed::file("rename", replaced.display(), &error))
    }
}

/// The new folder. Dropped before it is finished, it is gone.
pub(super) struct Staging {
    way: Way,
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
    /// Begins with an empty folder. What a crash has left of an earlier attempt is removed.
    ///
    /// # Errors
    /// What the filesystem answers, and when it cannot do the last step.
    pub(super) fn begin(way: &Way) -> Result<Self, Failed> {
        let staging = Self { way: way.clone(), is_finished: false };
        let path = staging.data_dir();
        let made = match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => dir::create(&staging.member()),
        };
        made.map_err(|error| Failed::file("create", path.display(), &error))?;
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
        let pair = ["a", "b"].map(|name| self.data_dir().join(name));
        let tried = pair.iter().try_for_each(fs::create_dir).and_then(|()| exchange(&pair[0], &pair[1]));
        tried.and_then(|()| pair.iter().try_for_each(fs::remove_dir)).map_err(|error| {
            Failed::error(format!(
                "the filesystem of {} cannot exchange two folders in one step ({error}): name another directory for \
                 the new member with --data-dir",
                self.way.target.display()
            ))
        })
    }

    /// Gives the new folder its place. Says where the old one is.
    ///
    /// # Errors
    /// What the filesystem answers.
    pub(super) fn finish(mut self) -> Result<PathBuf, Failed> {
        let (member, place) = (self.member(), self.way.target.join(MEMBER));
        let failed = |error: io::Error| Failed::file("finish", member.display(), &error);
        let owner = fs::metadata(self.way.member()).map_err(failed)?;
        seal(&member, (owner.uid(), owner.gid())).map_err(failed)?;
        dir::sync(&self.data_dir()).map_err(failed)?;
        self.is_finished = true;
        if self.way.is_in_place() {
            exchange(&member, &place).and_then(|()| dir::sync(&self.way.target)).map_err(failed)?;
            self.way.keep(&member)?;
            return Ok(self.way.kept());
        }
        fs::rename(&member, &place)
            .and_then(|()| fs::remove_dir(self.data_dir()))
            .and_then(|()| dir::sync(&self.way.target))
            .map_err(failed)?;
        Ok(self.way.member())
    }
}

/// Makes everything in a folder durable, and gives it to the user whose the old folder is.
fn seal(path: &Path, owner: (u32, u32)) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if (found.uid(), found.gid()) != owner {
        chown(path, Some(owner.0), Some(owner.1))?;
    }
    if !found.is_dir() {
        return File::open(path)?.sync_all();
    }
    for entry in fs::read_dir(path)? {
        seal(&entry?.path(), owner)?;
    }
    dir::sync(path)
}
