//! `--help` and `--version`.
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::flag::{FLAGS, Group, Kind, Standing};
use super::{ETCD_VERSION, GIT_SHA, KEVEL_VERSION, TOOLCHAIN};

/// How the program is called; also printed under a complaint about the command line.
pub const USAGE: &str = "\
Usage:
  kevel [flags]            run a member
  kevel check DATA_DIR     prove the store of a stopped member whole
  kevel rebuild --help     have the others rebuild a member whose data are damaged
  kevel snapshot --help    look at a snapshot, or make a member's data directory from it
  kevel migrate --help     make a member of etcd one of Kevel, or the other way
  kevel --version          print the version
  kevel -h | --help        print all flags
";

const GROUPS: [Group; 9] = [
    Group::Member,
    Group::Clustering,
    Group::Security,
    Group::Auth,
    Group::Store,
    Group::Monitoring,
    Group::Logging,
    Group::Unsafe,
    Group::Kevel,
];

/// The longest default that fits behind a sentence.
const DEFAULT_SHOWN_MAX: usize = 60;

/// What `kevel check --help` prints.
pub const CHECK: &str = "\
Usage:
  kevel check DATA_DIR

Reads every page of the store in DATA_DIR, the folder that --data-dir names (default: default.kevel), and proves that
each is whole and has one place. The member must be stopped. Nothing is written. Status 0: the store is sound; status 1:
it is not, or it cannot be read.
";

/// All flags, those that work first in each group; those that are not built only by name.
pub fn help() -> String {
    let mut text = String::from("Kevel, an etcd-v3-compatible store for the Kubernetes control plane.\n\n");
    text.push_str(USAGE);
    text.push_str(
        "\nFlags take the forms -f v, --f v and --f=v; booleans --f and --f=false. Each has a variable\n\
         (--data-dir is ETCD_DATA_DIR), and a key of its name in the YAML or JSON of --config-file,\n\
         which replaces all of them; durations there are nanoseconds.\n\
         [no effect]: accepted so that a command line for etcd works, but Kevel has nothing for it to act upon;\n\
         the log says why. Not built yet: anything but etcd's default is refused by name.\n",
    );
    for group in GROUPS {
        let _ = write!(text, "\n{}:\n", group.title());
        let here = || FLAGS.iter().filter(|flag| flag.group == group);
        for flag in here().filter(|flag| !matches!(flag.standing, Standing::NotBuilt(_))) {
            let default = match (flag.kind, flag.default) {
                (Kind::Bool, "false") | (_, "") => String::new(),
                (_, word) if word.len() > DEFAULT_SHOWN_MAX => String::new(),
                (Kind::Text | Kind::List, word) => format!(" (default {word:?})"),
                (_, default) => format!(" (default {default})"),
            };
            let idle = if matches!(flag.standing, Standing::NoEffect(_)) { " [no effect]" } else { "" };
            let head = format!("  --{}", flag.name);
            let line = format!("{}{default}{idle}", flag.help).replace('\n', &format!("\n{:<40}", ""));
            if head.len() < 38 {
                let _ = writeln!(text, "{head:<38}  {line}");
            } else {
                let _ = writeln!(text, "{head}\n{:<38}  {line}", "");
            }
        }
        let missing: Vec<&str> = here()
            .filter(|flag| matches!(flag.standing, Standing::NotBuilt(_)))
            .map(|flag| flag.name)
            .collect();
        if !missing.is_empty() {
            text.push_str("  not built yet:");
            let mut column = 16;
            for name in missing {
                if column + name.len() > 98 {
                    text.push_str("\n                ");
                    column = 16;
                }
                let _ = write!(text, " {name}");
                column += name.len() + 1;
            }
            text.push('\n');
        }
    }
    text
}

/// The processor's kind, in Go's words.
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The lines of `--version`: etcd's four, which tools parse, and Kevel's.
pub fn version() -> String {
    let arch = arch();
    let sha = GIT_SHA.unwrap_or("not recorded (KEVEL_GIT_SHA was not set when it was built)");
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: {sha}\nGo Version: {TOOLCHAIN}\nGo OS/Arch: {}/{arch}\n\
         Kevel Version: {KEVEL_VERSION}\n",
        std::env::consts::OS,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_flag_and_stays_readable() {
        let help = help();
        for flag in FLAGS {
            assert!(help.contains(flag.name), "{}", flag.name);
        }
        for line in help.lines() {
            assert!(line.chars().count() <= 140, "{line}");
        }
    }

    #[test]
    fn help_explains_what_it_marks() {
        let help = help();
        assert!(help.contains("[no effect]: accepted"), "the mark is explained");
        assert!(help.contains("(default \"default\")"), "a word is quoted");
        assert!(!help.contains("(default default)"));
    }

    #[test]
    fn version_has_etcds_four_lines_and_our_own() {
        let version = version();
        let heads: Vec<&str> =
            version.lines().filter_map(|line| line.split_once(": ")).map(|(head, _)| head).collect();
        assert_eq!(heads, ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch", "Kevel Version"]);
        assert!(version.starts_with("etcd Version: 3.7.3\n"));
    }
}
