//! The `kevel` server: reads flags, opens the log, runs.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use kevel::btree::Tree;
use kevel::config::{self, Command, Config, Failure, Notice, Surroundings};
use kevel::page::{self, OpenError};
use kevel::server::boot::data_dir;
use kevel::server::boot::default_host::default_host;
use kevel::server::io::page_file::MappedFile;
use kevel::server::io::{fault, process};
use kevel::server::log::{self, lines};
use kevel::server::{run, tool};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The command line cannot be read.
const STATUS_USAGE: u8 = 2;

fn main() -> ExitCode {
    process::early_init();
    fault::explain();
    let args: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let env: Vec<(String, String)> = std::env::vars_os()
        .map(|(key, value)| (key.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    let surroundings =
        Surroundings { env: &env, read_file: &|path| std::fs::read(path), default_host: &default_host };
    match config::parse(&args[1..], &surroundings) {
        Ok(Command::Run { config, notices }) => run(*config, &notices, &args),
        Ok(Command::Print(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Command::Snapshot(args)) => tool::snapshot::run(&args),
        Ok(Command::Migrate(args)) => tool::migrate::command::run(&args),
        Ok(Command::Rebuild(args)) => tool::rebuild::command::run(&args),
        Ok(Command::Check(dir)) => check(&dir),
        Err(Failure::Usage(message)) => {
            eprint!("{message}\n{}", config::help::USAGE);
            ExitCode::from(STATUS_USAGE)
        }
        Err(Failure::Invalid { error, notices }) => {
            lines::notices(&notices);
            lines::running(&args);
            lines::invalid(&error);
            ExitCode::FAILURE
        }
        Err(Failure::Shadowed(variable)) => {
            lines::shadowed(&variable);
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config, notices: &[Notice], args: &[String]) -> ExitCode {
    if let Err(error) = log::init(&config.reporting.log) {
        lines::fatal("cannot open the log", error);
        return ExitCode::FAILURE;
    }
    lines::notices(notices);
    lines::running(args);
    run::run(config)
}

/// Proves the store file in `dir` whole. The member must be stopped: the file is locked while one runs.
fn check(dir: &Path) -> ExitCode {
    let path = dir.join("member").join("kevel").join("store");
    if !path.exists() {
        eprintln!("{}", data_dir::no_store(dir, &path));
        return ExitCode::FAILURE;
    }
    let report = MappedFile::open_existing(&path)
        .map_err(OpenError::from)
        .and_then(|file| page::check::check(&file, Tree::NAMES));
    match report {
        Ok(report) => {
            println!("{}\n{report}", path.display());
            if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}
