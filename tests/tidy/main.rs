//! What the source must look like, as far as a program can tell: `cargo test --test tidy`.
//!
//! ```text
//!   rules     line length, trailing blanks, length of files and functions, pages, dead files, dead names,
//!             what the deterministic half may not name, who may name glommio, unsafe code
//!   imports   who imports whom; no circle between folders
//!   picture   the drawing of it in ARCHITECTURE.md (UPDATE=1 writes it)
//!   source    reading files, comments and tests told from code
//! ```
//!
//! Each rule lists what breaks it, with file and line. A rule that is broken on purpose has its exceptions beside it,
//! each with its reason.
#![forbid(unsafe_code)]

mod imports;
mod picture;
mod rules;
mod source;

use source::{Source, read};

fn everything() -> Vec<Source> {
    let mut sources = read("src");
    sources.extend(read("bench"));
    sources
}

fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn lines_are_short_and_end_where_they_end() {
    none("lines over 120 columns, or with blanks at their end", rules::lines(&everything()));
}

#[test]
fn files_and_functions_can_be_held_in_mind() {
    none("files over 800 lines of code, functions over 100", rules::sizes(&everything()));
}

#[test]
fn every_folder_begins_with_a_page_that_names_its_modules() {
    none("pages of folders that are short or silent about a module", rules::pages(&read("src")));
}

#[test]
fn every_file_is_part_of_the_program() {
    none("files that no module declares", rules::dead_files(&read("src")));
}

#[test]
fn every_public_name_is_used() {
    none("public names that only their own definition and tests mention", rules::dead_names(&everything()));
}

#[test]
fn the_core_reads_no_clock_and_opens_nothing() {
    none("input, output, clocks or chance in the deterministic half", rules::purity(&read("src")));
}

#[test]
fn one_folder_knows_glommio() {
    none("glommio outside src/server/io", rules::glommio(&read("src")));
}

#[test]
fn unsafe_code_stays_in_few_files_and_gives_its_reason() {
    none("unsafe code in a new file, or without SAFETY", rules::unsafe_code(&everything()));
}

#[test]
fn no_circle_between_folders() {
    let edges = imports::edges(&read("src"));
    let mut found = Vec::new();
    for circle in imports::circles(&edges) {
        let inside = |node: &String| circle.contains(node);
        let arrows = edges.iter().filter(|((from, to), _)| inside(from) && inside(to));
        found.extend(arrows.map(|((from, to), place)| format!("{from} -> {to} at {place}")));
    }
    none("folders that import one another", found);
}

#[test]
fn the_picture_of_imports_is_true() {
    let result = picture::check(&imports::edges(&read("src")));
    assert!(result.is_ok(), "{}", result.unwrap_err());
}

#[test]
fn every_script_says_how_it_is_called() {
    let scripts = ["tests/run", "tests/bench/smoke"].into_iter().map(str::to_owned);
    let compat = std::fs::read_dir("tests/compat").unwrap().map(|entry| entry.unwrap().path());
    let compat = compat.filter(|path| path.extension().is_some_and(|extension| extension == "sh"));
    for script in scripts.chain(compat.map(|path| path.display().to_string())) {
        // One that does not know the word would do its work instead of telling what that is.
        assert!(std::fs::read_to_string(&script).unwrap().contains("-h | --help)"), "{script} has no --help");
        let said = std::process::Command::new(&script).arg("--help").output().unwrap();
        let name = script.rsplit('/').next().unwrap();
        assert!(said.status.success() && said.stderr.is_empty(), "{script}: {said:?}");
        assert!(
            String::from_utf8_lossy(&said.stdout).contains(name),
            "{script} --help tells no way to call it"
        );
    }
}
