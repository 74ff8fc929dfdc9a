//! The command line of `kevel migrate`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::super::flags::{CommandLine, Flag};
use super::super::{Failed, STATUS_BAD_ARGUMENTS, finish};
use super::staging::{Kind, Way};
use super::{from_etcd, to_etcd};
use crate::config::{self, Config, Surroundings};
use crate::page::Owner;

const HELP: &str = "\
Usage:
  kevel migrate --from DIR [flags]       makes a member of Kevel from a stopped member of etcd 3.5 to 3.7
  kevel migrate --to-etcd DIR [flags]    makes a member of etcd 3.7 from a stopped member of Kevel

Flags:
      --data-dir string   the data directory that is made (default DIR itself; what was there is kept in
                          DIR/member.etcd or DIR/member.kevel)
      --wal-dir string    the folder of the log that is read (default DIR/member/wal); the new log is in the new
                          data directory

DIR is what the member's --data-dir names. The member keeps its id, its cluster and its place there, its data, leases
and alarms: start it with the flags that it had. Nothing is changed before the new member is whole and durable. What was
there before is no way back once the new member has run; the way back is to migrate again. Run this as the user that the
member runs as.
";

const FLAGS: [Flag; 5] =
    [Flag::text("from"), Flag::text("to-etcd"), Flag::text("data-dir"), Flag::text("wal-dir"), Flag::HELP];

/// What has become of a member.
pub(super) struct Done {
    /// The member.
    pub(super) owner: Owner,
    /// Its store is at this revision,
    pub(super) revision: i64,
    /// and has the entries of the log up to this one.
    pub(super) index: u64,
    /// Where the folder is that the member had before.
    pub(super) kept: PathBuf,
}

/// Does what the arguments behind `kevel migrate` say.
pub fn run(args: &[String]) -> ExitCode {
    finish(command(args))
}

pub(super) fn command(args: &[String]) -> Result<String, Failed> {
    let line = CommandLine::read(args, &FLAGS)?;
    if line.get("help").is_some() || args.is_empty() {
        return Ok(HELP.to_owned());
    }
    let (source, kind) = match (line.path("from"), line.path("to-etcd")) {
        (Some(source), None) => (source, Kind::Etcd),
        (None, Some(source)) => (source, Kind::Kevel),
        _ => {
            return Err(misused(
                "migrate takes one of --from and --to-etcd, with the member's data directory",
            ));
        }
    };
    if let Some(word) = line.arguments.first() {
        return Err(misused(&format!("unknown argument {word:?}: migrate takes flags alone")));
    }
    let target = line.path("data-dir").unwrap_or_else(|| source.clone());
    let way = Way { source, target, kind };
    let shown = way.target.display().to_string();
    if way.end_earlier()? {
        return Ok(format!("{shown}: an earlier migration was complete, and is finished now\n"));
    }
    let wal_dir = line.path("wal-dir");
    let (done, what) = match kind {
        Kind::Etcd => (from_etcd::migrate(&way, wal_dir.as_deref())?, "Kevel"),
        Kind::Kevel => (to_etcd::migrate(&way, wal_dir.as_deref())?, "etcd"),
    };
    Ok(said(&shown, what, &done))
}

fn said(target: &str, what: &str, done: &Done) -> String {
    format!(
        "{target} has {} now, as a member of {what}, at revision {} and entry {} of the log.\n\
         Start {what} there with the flags that the member had. What it was before is in {}: remove that when {what} \
         runs, and do not start anything on it any more.\n",
        done.owner,
        done.revision,
        done.index,
        done.kept.display()
    )
}

fn misused(text: &str) -> Failed {
    Failed::new(STATUS_BAD_ARGUMENTS, text)
}

/// The configuration of a member of Kevel of which only the folders count.
pub(super) fn config_of(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Config, Failed> {
    let mut args = vec![format!("--data-dir={}", data_dir.display())];
    args.extend(wal_dir.map(|dir| format!("--wal-dir={}", dir.display())));
    let surroundings = Surroundings {
        env: &[],
        read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        default_host: &|| None,
    };
    match config::parse(&args, &surroundings) {
        Ok(config::Command::Run { config, .. }) => Ok(*config),
        _ => Err(misused(&format!("{} cannot be a data directory", data_dir.display()))),
    }
}
