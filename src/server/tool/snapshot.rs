//! `kevel snapshot status FILE` and `kevel snapshot restore FILE`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::flags::{CommandLine, Flag};
use super::restore::Restoration;
use super::{Failed, STATUS_BAD_ARGUMENTS, finish, print};
use crate::bbolt::Database;
use crate::config::go;
use crate::server::io::file_source::FileSource;
use crate::snapshot::status::status;

const HELP: &str = "\
Usage:
  kevel snapshot status FILE [flags]     tells what a snapshot has in it, once all of it was found whole
  kevel snapshot restore FILE [flags]    makes the data directory of a new cluster's member from it

Flags of status:
  -w, --write-out string   set the output format (fields, json, simple, table) (default \"simple\")

Flags of restore:
      --name string                          the member's name (default \"default\")
      --data-dir string                      the directory that is made (default NAME.kevel)
      --wal-dir string                       the folder of the log (default DATA_DIR/member/wal)
      --initial-cluster string               who founds the new cluster (default \"default=http://localhost:2380\")
      --initial-cluster-token string         the new cluster's token (default \"etcd-cluster\")
      --initial-advertise-peer-urls string   where this member is reached (default \"http://localhost:2380\")
      --skip-hash-check                      take a file without checksum, such as the database of a stopped etcd
      --bump-revision uint                   what the revision is increased by
      --mark-compacted                       compact to the new revision (goes with --bump-revision)

The file is one that `etcdctl snapshot save` has written, or the database of a stopped etcd. What status tells is the
file's hash, its revision, its keys, its length and the version of its storage.
";

const RESTORE: [Flag; 10] = [
    Flag::text("name"),
    Flag::text("data-dir"),
    Flag::text("wal-dir"),
    Flag::text("initial-cluster"),
    Flag::text("initial-cluster-token"),
    Flag::text("initial-advertise-peer-urls"),
    Flag::switch("skip-hash-check"),
    Flag::text("bump-revision"),
    Flag::switch("mark-compacted"),
    Flag::HELP,
];
const WRITE_OUT: Flag = Flag { name: "write-out", letter: 'w', is_switch: false };

/// Does what the arguments behind `kevel snapshot` say.
pub fn run(args: &[String]) -> ExitCode {
    finish(command(args))
}

pub(super) fn command(args: &[String]) -> Result<String, Failed> {
    match args.first().map(String::as_str) {
        Some("status") => show(&args[1..]),
        Some("restore") => restore(&args[1..]),
        None | Some("-h" | "--help" | "help") => Ok(HELP.to_owned()),
        Some(other) => {
            let text = format!("unknown command {other:?} for \"kevel snapshot\"");
            Err(Failed::new(STATUS_BAD_ARGUMENTS, text))
        }
    }
}

fn show(args: &[String]) -> Result<String, Failed> {
    let line = CommandLine::read(args, &[WRITE_OUT, Flag::HELP])?;
    if line.get("help").is_some() {
        return Ok(HELP.to_owned());
    }
    let [file] = &line.arguments[..] else {
        return Err(Failed::new(STATUS_BAD_ARGUMENTS, "snapshot status requires exactly one argument"));
    };
    let form = line.get("write-out").unwrap_or("simple");
    let source = FileSource::open(Path::new(file)).map_err(|error| Failed::file("stat", file, &error))?;
    print::check(form)?;
    let found = Database::open(&source).and_then(|database| status(&database));
    print::status(&found.map_err(|error| Failed::error(format!("{file}: {error}")))?, form)
}

fn restore(args: &[String]) -> Result<String, Failed> {
    let line = CommandLine::read(args, &RESTORE)?;
    if line.get("help").is_some() {
        return Ok(HELP.to_owned());
    }
    let [file] = &line.arguments[..] else {
        return Err(Failed::new(STATUS_BAD_ARGUMENTS, "snapshot restore requires exactly one argument"));
    };
    let text = |name: &str, default: &str| line.get(name).unwrap_or(default).to_owned();
    let name = text("name", "default");
    let restoration = Restoration {
        file: PathBuf::from(file),
        data_dir: line.path("data-dir").unwrap_or_else(|| PathBuf::from(format!("{name}.kevel"))),
        wal_dir: line.path("wal-dir"),
        initial_cluster: text("initial-cluster", "default=http://localhost:2380"),
        token: text("initial-cluster-token", "etcd-cluster"),
        peer_urls: text("initial-advertise-peer-urls", "http://localhost:2380"),
        skip_hash_check: switch(&line, "skip-hash-check")?,
        bump_revision: number(&line, "bump-revision")?,
        mark_compacted: switch(&line, "mark-compacted")?,
        name,
    };
    restoration.run()
}

fn switch(line: &CommandLine, name: &str) -> Result<bool, Failed> {
    let value = line.get(name).unwrap_or("false");
    go::parse_bool(value)
        .map_err(|_| invalid(name, value, &format!("strconv.ParseBool: parsing {value:?}: invalid syntax")))
}

fn number(line: &CommandLine, name: &str) -> Result<u64, Failed> {
    let value = line.get(name).unwrap_or("0");
    let said = |why| if why == go::RANGE_ERROR { why } else { "invalid syntax" };
    go::parse_uint(value)
        .map_err(|why| invalid(name, value, &format!("strconv.ParseUint: parsing {value:?}: {}", said(why))))
}

fn invalid(name: &str, value: &str, why: &str) -> Failed {
    Failed::error(format!("invalid argument {value:?} for \"--{name}\" flag: {why}"))
}
