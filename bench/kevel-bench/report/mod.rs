//! What a run reports: a table for people, JSON for programs, distributions and plots as files.
#![forbid(unsafe_code)]

mod hgrm;
mod json;
mod plot;
mod table;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::args::ReportArgs;
use crate::phase::Outcome;

/// The quantiles that are reported, and their names.
pub const QUANTILES: [(f64, &str); 5] =
    [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99")];

/// Reports where the arguments say.
///
/// # Errors
/// When a file cannot be written.
pub fn report(outcomes: &[Outcome], command: &[String], args: &ReportArgs) -> Result<(), String> {
    let table: String = outcomes.iter().map(table::table).collect::<Vec<_>>().join("\n");
    match &args.json {
        Some(file) if file == Path::new("-") => {
            eprint!("{table}");
            print(&format!("{}\n", json::json(outcomes, command)));
        }
        Some(file) => {
            print(&table);
            write(file, &format!("{}\n", json::json(outcomes, command)))?;
        }
        None => print(&table),
    }
    // The phase of interest is the last: those before it prepare.
    let Some(last) = outcomes.last() else { return Ok(()) };
    if let Some(file) = &args.hgrm {
        let classes: Vec<_> = last.record.classes.iter().filter(|class| !class.latency.is_empty()).collect();
        for class in &classes {
            let file = if classes.len() > 1 { named(file, class.name) } else { file.clone() };
            write(&file, &hgrm::hgrm(&class.latency))?;
        }
    }
    if let Some(file) = &args.plot {
        write(file, &plot::plot(last)?)?;
    }
    Ok(())
}

/// Prints to standard output; a reader that has gone does not matter.
pub fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

/// `a/b.hgrm` and `put` make `a/b-put.hgrm`.
fn named(file: &Path, class: &str) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let extension =
        file.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
    file.with_file_name(format!("{stem}-{}{extension}", class.replace([' ', '/'], "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_per_class() {
        assert_eq!(named(Path::new("a/b.hgrm"), "pod status"), Path::new("a/b-pod-status.hgrm"));
        assert_eq!(named(Path::new("b"), "put"), Path::new("b-put"));
    }
}
