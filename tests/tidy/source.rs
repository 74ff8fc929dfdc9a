//! The files under `src/` and `bench/`, read once, with comments and tests told apart from code.

use std::fs;
use std::path::{Path, PathBuf};

/// One source file.
pub struct Source {
    /// Path from the repository's root, such as `src/server/io/tcp.rs`.
    pub path: String,
    /// The file as it is.
    pub text: String,
    /// The file without comments, string contents and `#[cfg(test)]` modules; each line keeps its number.
    pub code: String,
}

impl Source {
    /// Whether the whole file is a test, a fuzz target or a model that tests compare with.
    pub fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or("");
        matches!(name, "tests.rs" | "fuzz.rs" | "model.rs") || self.path.contains("/tests/")
    }

    /// The lines of code, numbered from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below `folder`, by path.
pub fn read(folder: &str) -> Vec<Source> {
    let mut files = Vec::new();
    walk(&root().join(folder), &mut files);
    files.sort();
    files.iter().map(|file| source(file)).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository can be read") {
        let path = entry.expect("an entry of the repository can be read").path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn source(file: &Path) -> Source {
    let text = fs::read_to_string(file).expect("a source file is text");
    let path = file.strip_prefix(root()).expect("the file is below the root").to_string_lossy().into_owned();
    let code = without_tests(&without_comments(&text));
    Source { path, text, code }
}

/// What the scanner is inside of.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Code,
    LineComment,
    BlockComment(u32),
    Text,
    RawText(usize),
}

/// The text with comments, the contents of strings and their closing quotes blanked; line breaks stay.
fn without_comments(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut state = State::Code;
    let mut at = 0;
    while at < bytes.len() {
        let (next, seen) = step(&bytes[at..], state, at.checked_sub(1).map(|before| bytes[before]));
        let shown = state == State::Code && matches!(next, State::Code | State::Text | State::RawText(_));
        for &c in &bytes[at..at + seen] {
            out.push(if shown || c == '\n' { c } else { ' ' });
        }
        state = next;
        at += seen;
    }
    out
}

/// The state after the next few characters, and how many they are.
fn step(rest: &[char], state: State, before: Option<char>) -> (State, usize) {
    let starts = |pattern: &str| pattern.chars().enumerate().all(|(index, c)| rest.get(index) == Some(&c));
    match state {
        State::LineComment => (if rest[0] == '\n' { State::Code } else { state }, 1),
        State::BlockComment(depth) if starts("/*") => (State::BlockComment(depth + 1), 2),
        State::BlockComment(1) if starts("*/") => (State::Code, 2),
        State::BlockComment(depth) if starts("*/") => (State::BlockComment(depth - 1), 2),
        State::BlockComment(_) => (state, 1),
        State::Text if starts("\\") => (state, rest.len().min(2)),
        State::Text => (if rest[0] == '"' { State::Code } else { state }, 1),
        State::RawText(hashes) => {
            let closes = rest[0] == '"' && (1..=hashes).all(|index| rest.get(index) == Some(&'#'));
            if closes { (State::Code, 1 + hashes) } else { (state, 1) }
        }
        State::Code if starts("//") => (State::LineComment, 2),
        State::Code if starts("/*") => (State::BlockComment(1), 2),
        State::Code => code_step(rest, before),
    }
}

fn code_step(rest: &[char], before: Option<char>) -> (State, usize) {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest[0] == 'r' && (!in_word || before == Some('b')) {
        let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
        if rest.get(1 + hashes) == Some(&'"') {
            return (State::RawText(hashes), 2 + hashes);
        }
    }
    match rest {
        ['"', ..] => (State::Text, 1),
        // A character, not a lifetime.
        ['\'', '\\', _, rest @ ..] => {
            let end = rest.iter().position(|c| *c == '\'').map_or(0, |end| end + 1);
            (State::Code, 3 + end)
        }
        ['\'', _, '\'', ..] => (State::Code, 3),
        _ => (State::Code, 1),
    }
}

/// The code without items that only tests see, blanked line by line.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("#[cfg(test)]") || line.trim_start().starts_with("#[cfg(all(test") {
            out.push('\n');
            skip_item(&mut lines, &mut out);
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// Blanks the lines up to the end of the item that begins at the next line.
fn skip_item<'a>(lines: &mut impl Iterator<Item = &'a str>, out: &mut String) {
    let mut depth = 0_i64;
    for line in lines {
        out.push('\n');
        depth += line.matches('{').count() as i64 - line.matches('}').count() as i64;
        let ends = line.trim_end().ends_with([';', '}', ',']);
        if depth <= 0 && ends {
            return;
        }
    }
}

#[test]
fn comments_strings_and_tests_are_told_from_code() {
    let text = "let a = \"x // y\"; // z\nlet b = r#\"q\"#;\n/* c\nd */ let c = '\"';\n#[cfg(test)]\nmod tests {\n    x();\n}\nfn f() {}\n";
    let code = without_tests(&without_comments(text));
    let lines: Vec<&str> = code.lines().map(str::trim_end).collect();
    assert!(
        lines[0].starts_with("let a = \"") && lines[0].ends_with(';') && !lines[0].contains("//"),
        "{lines:?}"
    );
    assert!(lines[1].starts_with("let b = r#\""), "{:?}", lines[1]);
    assert_eq!(lines[3].trim(), "let c = '\"';");
    assert!(lines[4..8].iter().all(|line| line.is_empty()), "{lines:?}");
    assert_eq!(lines[8], "fn f() {}");
}
