//! The command line of `kevel migrate`.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use super::super::flags::{CommandLine, Flag};
use super::super::{Failed, STATUS_BAD_ARGUMENTS, finish};
use super::staging::{Kind, Placed, Way};
use super::{from_etcd, to_etcd};
use crate::config::{self, Config, Surroundings};
use crate::page::Owner;

const HELP: &str = "\
Usage:
  kevel migrate --from DIR [flags]       makes a member of Kevel from a stopped member of etcd 3.5.26 to 3.7
  kevel migrate --to-etcd DIR [flags]    makes a member of etcd 3.7 from a stopped member of Kevel

Flags:
      --data-dir string   the data directory that is made (default DIR itself; what was there is kept in
                          DIR/member.etcd or DIR/member.kevel)
      --wal-dir string    the folder of the log that is read (default DIR/member/wal); the new log is in the new
                          data directory, so start the new member without its --wal-dir

DIR is what the member's --data-dir names. The member keeps its id, its cluster and its place there, its data, leases
and alarms: start it with the flags that it had, but for --wal-dir. Nothing is changed before the new member is whole
and durable; after an interruption run the same command again. What was there before is no way back once the new member
has run; the way back is to migrate again. Run this as the user that the member runs as.
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
    /// Where it is, and what it has replaced.
    pub(super) placed: Placed,
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
    let way = Way { source, target, kind, wal_dir: line.path("wal-dir") };
    if let Some(replaced) = way.end_earlier()?
        && replaced == kind
    {
        return Ok(ended(&way));
    }
    // A link is gone with the folder that it is in.
    let was_linked = way.wal_dir.is_none() && way.log().is_symlink();
    let done = match kind {
        Kind::Etcd => from_etcd::migrate(&way)?,
        Kind::Kevel => to_etcd::migrate(&way)?,
    };
    Ok(said(&way, was_linked, &done))
}

/// What is said where an earlier migration was complete but for the name of what it has replaced.
fn ended(way: &Way) -> String {
    let what = way.kind.other().name();
    let kept = match way.is_in_place() {
        true => way.kind.kept(&way.target),
        false => way.member(),
    };
    let log = way.log_apart().map(|log| {
        format!(
            " The log in {} was not touched: if {what} has run on it since, go on with --wal-dir, and otherwise move \
             it away.",
            log.display()
        )
    });
    format!(
        "{} has a member of {what} now: an earlier migration was complete, and is finished. What the member was before \
         is in {}.{}\n",
        way.target.display(),
        kept.display(),
        log.unwrap_or_default()
    )
}

fn said(way: &Way, was_linked: bool, done: &Done) -> String {
    let (target, what) = (way.target.display(), way.kind.other().name());
    let wal_dir = match (&done.placed.log, &way.wal_dir) {
        (Some(Ok(kept)), _) => format!(
            "Do not name --wal-dir any more: the log is in {target}/member/wal, and the old one is kept in {}.\n",
            kept.display()
        ),
        (Some(Err(why)), _) => format!(
            "Do not name --wal-dir any more: the log is in {target}/member/wal. The old one could not be set aside \
             ({why}): move it away before {what} starts.\n"
        ),
        (None, Some(_)) => format!("Do not name --wal-dir any more: the log is in {target}/member/wal.\n"),
        (None, None) if was_linked => format!(
            "The log was behind a symbolic link; {target}/member/wal is a folder now, on the disk of the data \
             directory.\n"
        ),
        (None, None) => String::new(),
    };
    format!(
        "{target} has {} now, as a member of {what}, at revision {} and entry {} of the log.\n\
         Start {what} there with the flags that the member had. What it was before is in {}: remove that when {what} \
         runs, and do not start anything on it any more.\n{wal_dir}",
        done.owner,
        done.revision,
        done.index,
        done.placed.kept.display()
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
