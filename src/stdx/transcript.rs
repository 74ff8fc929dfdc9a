//! Transcripts that tests play: what is done, a line each, and what comes of it, in the indented lines below.
//!
//! With `UPDATE` in the environment the answers are written anew, to be read as a change is read.
#![forbid(unsafe_code)]

use std::path::Path;

/// Plays a transcript. `answer` does what a line says, and tells what comes of it in indented lines. Empty lines and
/// those that begin with `#` are for readers.
///
/// # Panics
/// When the file cannot be read, or another answer comes than the file has.
pub fn play(file: &Path, mut answer: impl FnMut(&str) -> String) {
    let text = std::fs::read_to_string(file).unwrap();
    let mut played = String::new();
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        played += line;
        played.push('\n');
        if !line.is_empty() && !line.starts_with('#') {
            played += &answer(line);
        }
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, &played).unwrap();
    } else {
        assert_eq!(text, played, "{}", file.display());
    }
}
