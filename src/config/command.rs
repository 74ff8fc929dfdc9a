//! From a command line and what surrounds it to a [`Command`].
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use super::args::{self, EnvError};
use super::resolve::resolve;
use super::settings::{Notice, Settings};
use super::{Config, Failure, file, help};

/// What a command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run a member.
    Run {
        /// How.
        config: Box<Config>,
        /// What came up on the way, to be logged.
        notices: Vec<Notice>,
    },
    /// Print this on standard output and be done.
    Print(String),
    /// Do something with a snapshot's file, as these arguments say.
    Snapshot(Vec<String>),
    /// Make the data directory of a member of etcd that of a member of Kevel, or the other way, as these arguments say.
    Migrate(Vec<String>),
    /// Have the cluster rebuild a damaged member, as these arguments say.
    Rebuild(Vec<String>),
    /// Prove the store in this data directory.
    Check(PathBuf),
}

/// What a configuration depends on besides the command line. The caller reads the world; nothing below here does.
pub struct Surroundings<'a> {
    /// The environment.
    pub env: &'a [(String, String)],
    /// Reads a file.
    pub read_file: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The address by which other machines reach this one, where the machine has a default route.
    pub default_host: &'a dyn Fn() -> Option<String>,
}

/// Understands a command line (without the program's name).
pub fn parse(args: &[String], surroundings: &Surroundings<'_>) -> Result<Command, Failure> {
    match args.first().map(String::as_str) {
        Some("check") => return check(args),
        Some("rebuild") => return Ok(Command::Rebuild(args[1..].to_vec())),
        Some("snapshot") => return Ok(Command::Snapshot(args[1..].to_vec())),
        Some("migrate") => return Ok(Command::Migrate(args[1..].to_vec())),
        Some(name @ ("gateway" | "grpc-proxy")) => {
            let error = format!("the sub command {name} is not built yet");
            return Err(Failure::Invalid { error, notices: Vec::new() });
        }
        _ => {}
    }
    let line = args::read_line(args).map_err(Failure::Usage)?;
    if line.help {
        return Ok(Command::Print(help::help()));
    }
    if let Some(word) = line.rest.first() {
        let error = format!("{word:?} is not a valid flag");
        return Err(Failure::Invalid { error, notices: line.settings.notices });
    }
    if line.settings.bool("version") {
        return Ok(Command::Print(help::version()));
    }
    let path = config_file(&line.settings, surroundings.env);
    let mut settings = match &path {
        Some(path) => settings_of_file(path, surroundings)?,
        None => settings_of_line(line, surroundings.env)?,
    };
    match resolve(&settings, path.is_some(), surroundings.default_host) {
        Ok((config, more)) => {
            settings.notices.extend(more);
            Ok(Command::Run { config: Box::new(config), notices: settings.notices })
        }
        Err(error) => {
            let error = path.map_or(error.clone(), |path| format!("{path}: {error}"));
            Err(Failure::Invalid { error, notices: settings.notices })
        }
    }
}

fn check(args: &[String]) -> Result<Command, Failure> {
    if args[1..].iter().any(|arg| matches!(arg.as_str(), "-h" | "-help" | "--help")) {
        return Ok(Command::Print(help::CHECK.to_owned()));
    }
    match args {
        [_, dir] if !dir.starts_with('-') => Ok(Command::Check(PathBuf::from(dir))),
        _ => Err(Failure::Usage(
            "check takes one argument: the data directory (kevel check --help)".to_owned(),
        )),
    }
}

/// The configuration file that is named, on the command line or else by its variable.
fn config_file(settings: &Settings, env: &[(String, String)]) -> Option<String> {
    match settings.text("config-file") {
        "" => {
            let named = env.iter().find(|(key, value)| key == "ETCD_CONFIG_FILE" && !value.is_empty());
            named.map(|(_, path)| path.clone())
        }
        path => Some(path.to_owned()),
    }
}

fn settings_of_file(path: &str, surroundings: &Surroundings<'_>) -> Result<Settings, Failure> {
    let text = (surroundings.read_file)(Path::new(path)).map_err(|error| format!("open {path}: {error}"));
    let mut settings = text
        .and_then(|text| file::read(&text).map_err(|error| format!("{path}: {error}")))
        .map_err(|error| Failure::Invalid { error, notices: Vec::new() })?;
    let notice = Notice::info(
        "loaded server configuration, other configuration command line flags and environment variables will be \
         ignored if provided",
    );
    settings.notices.push(notice.with("path", path));
    Ok(settings)
}

fn settings_of_line(mut line: args::CommandLine, env: &[(String, String)]) -> Result<Settings, Failure> {
    match line.add_env(env) {
        Ok(()) => Ok(line.settings),
        Err(EnvError::Shadowed(variable)) => Err(Failure::Shadowed(variable)),
        Err(EnvError::BadLevel(error)) => Err(Failure::Usage(error)),
        Err(EnvError::BadValue(error)) => Err(Failure::Invalid { error, notices: line.settings.notices }),
    }
}
