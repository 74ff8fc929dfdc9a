//! The rules, each a function from sources to the places that break it.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::Source;

/// Columns of a line.
const COLUMNS_MAX: usize = 120;
/// Lines of a file without its tests.
const FILE_LINES_MAX: usize = 800;
/// Lines of a function.
const FUNCTION_LINES_MAX: usize = 100;
/// Larger ones, each with the reason.
const LARGE: [(&str, &str); 1] = [("bench/mvcc.rs", "a list of measurements, one after the other")];
/// Lines of prose at the top of a folder's page.
const PAGE_LINES_MIN: usize = 6;

/// Folders and files of the deterministic half.
const PURE: [&str; 18] = [
    "bbolt", "btree", "cluster", "error", "lease", "limits", "mvcc", "nested", "page", "peer", "replica",
    "request", "response", "session", "snapshot", "wal", "watch", "wire",
];

/// What the deterministic half may not name.
const IMPURE: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::time",
    "Instant::now",
    "SystemTime",
    "rand::",
    "glommio",
    "tokio",
];

/// Files that have unsafe code.
const UNSAFE: [&str; 21] = [
    "bench/guard/clock.rs",
    "bench/store.rs",
    "src/page/mapping.rs",
    "src/page/pager.rs",
    "src/page/readers.rs",
    "src/page/table.rs",
    "src/page/witness.rs",
    "src/server/io/exchange.rs",
    "src/server/io/fault.rs",
    "src/server/io/log_map.rs",
    "src/server/io/names.rs",
    "src/server/io/ofd_lock.rs",
    "src/server/io/page_file.rs",
    "src/server/io/probe.rs",
    "src/server/io/process.rs",
    "src/server/io/rings.rs",
    "src/server/io/socket.rs",
    "src/server/io/tcp.rs",
    "src/server/io/watchdog.rs",
    "src/stdx/sync/queue.rs",
    "src/stdx/sync/waker.rs",
];

pub fn lines(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (index, line) in source.text.lines().enumerate() {
            let place = format!("{}:{}", source.path, index + 1);
            if line.chars().count() > COLUMNS_MAX {
                found.push(format!("{place} has {} columns", line.chars().count()));
            }
            if line.ends_with([' ', '\t']) {
                found.push(format!("{place} ends with a blank"));
            }
        }
    }
    found
}

pub fn sizes(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    let is_excused = |source: &Source| LARGE.iter().any(|(path, _)| *path == source.path);
    for source in sources.iter().filter(|source| !source.is_test() && !is_excused(source)) {
        let length = source.code.trim_end().lines().count();
        if length > FILE_LINES_MAX {
            found.push(format!("{} has {length} lines", source.path));
        }
        for (line, name, length) in functions(source) {
            if length > FUNCTION_LINES_MAX {
                found.push(format!("{}:{line} {name} has {length} lines", source.path));
            }
        }
    }
    found
}

/// Line, name and length of each function; one inside another counts for both.
fn functions(source: &Source) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = source.code.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = function_name(line) else { continue };
        let closing = format!("{}}}", " ".repeat(indent));
        let end = lines[index..].iter().position(|line| line.trim_end() == closing);
        found.push((index + 1, name, end.map_or(1, |end| end + 1)));
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let at = line.find("fn ")?;
    let head = &line[..at];
    let words = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];
    if !head.split_whitespace().all(|word| words.contains(&word) || word.starts_with("pub(")) {
        return None;
    }
    Some(word_at(&line[at + 3..]))
}

fn word_at(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

pub fn pages(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| is_page(&source.path)) {
        let prose: Vec<&str> = source.text.lines().take_while(|line| line.starts_with("//!")).collect();
        if prose.len() < PAGE_LINES_MIN {
            found.push(format!("{} begins with {} lines of prose", source.path, prose.len()));
        }
        let words: BTreeSet<String> = prose.iter().flat_map(|line| words(line)).collect();
        for name in modules(source).into_iter().filter(|name| !words.contains(name)) {
            found.push(format!("{} says nothing of its module {name}", source.path));
        }
    }
    found
}

/// Whether a file is a folder's page. A program's folder has its page in its main file.
fn is_page(path: &str) -> bool {
    path.ends_with("/mod.rs") || path == "src/sim/main.rs"
}

/// The modules that a file declares for more than its tests.
fn modules(source: &Source) -> Vec<String> {
    let declared = source.lines().filter_map(|(_, line)| {
        let line = line.trim().strip_suffix(';')?;
        let (head, name) = line.rsplit_once("mod ")?;
        (head.is_empty() || head.starts_with("pub")).then(|| name.to_string())
    });
    declared.collect()
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_string).collect()
}

pub fn dead_files(sources: &[Source]) -> Vec<String> {
    let mut declared = BTreeSet::new();
    for source in sources {
        let folder = folder_of(&source.path);
        for line in source.text.lines() {
            let Some(line) = line.trim().strip_suffix(';') else { continue };
            if let Some((_, name)) = line.rsplit_once("mod ").filter(|(head, _)| !head.contains("//")) {
                declared.insert(format!("{folder}/{name}.rs"));
                declared.insert(format!("{folder}/{name}/mod.rs"));
            }
        }
    }
    let root = |path: &str| path.ends_with("/main.rs") || path == "src/lib.rs";
    let dead = sources.iter().filter(|source| !root(&source.path) && !declared.contains(&source.path));
    dead.map(|source| source.path.clone()).collect()
}

/// The folder in which a file's modules lie.
fn folder_of(path: &str) -> String {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    for own in ["/mod", "/main", "/lib"] {
        if let Some(folder) = stem.strip_suffix(own) {
            return folder.to_string();
        }
    }
    stem.to_string()
}

pub fn dead_names(sources: &[Source]) -> Vec<String> {
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.path.ends_with("/tests.rs")) {
        for word in words(&source.code) {
            *uses.entry(word).or_default() += 1;
        }
    }
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("src/") && !source.is_test()) {
        for (line, text) in source.lines() {
            if let Some(name) = public_name(text).filter(|name| uses.get(name).copied().unwrap_or(0) < 2) {
                found.push(format!("{}:{line} {name}", source.path));
            }
        }
    }
    found
}

fn public_name(line: &str) -> Option<String> {
    let line = line.trim_start();
    let rest = line
        .strip_prefix("pub ")
        .or_else(|| line.strip_prefix("pub(").and_then(|l| l.split_once(") ").map(|p| p.1)))?;
    for kind in [
        "fn ",
        "const fn ",
        "async fn ",
        "unsafe fn ",
        "struct ",
        "enum ",
        "trait ",
        "type ",
        "const ",
        "static ",
    ] {
        if let Some(name) = rest.strip_prefix(kind) {
            return Some(word_at(name)).filter(|name| !name.is_empty());
        }
    }
    None
}

pub fn purity(sources: &[Source]) -> Vec<String> {
    let pure = |source: &&Source| {
        let inner = source.path.trim_start_matches("src/");
        let top = inner.split(['/', '.']).next().unwrap_or("");
        PURE.contains(&top) && !source.is_test()
    };
    naming(sources.iter().filter(pure), &IMPURE)
}

pub fn glommio(sources: &[Source]) -> Vec<String> {
    let outside = |source: &&Source| !source.path.starts_with("src/server/io/") && !source.is_test();
    naming(sources.iter().filter(outside), &["glommio::"])
}

fn naming<'a>(sources: impl Iterator<Item = &'a Source>, forbidden: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (line, text) in source.lines() {
            for name in forbidden.iter().filter(|name| text.contains(**name)) {
                found.push(format!("{}:{line} names {name}", source.path));
            }
        }
    }
    found
}

pub fn unsafe_code(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let lines: Vec<&str> = source.text.lines().collect();
        let is_listed = UNSAFE.contains(&source.path.as_str());
        if is_listed && !source.lines().any(|(_, text)| is_unsafe(text)) {
            found.push(format!("{} is listed and has no unsafe code", source.path));
        }
        for (line, text) in source.lines().filter(|(_, text)| is_unsafe(text)) {
            if !is_listed {
                found.push(format!("{}:{line} has unsafe code", source.path));
            }
            let reason = lines[line.saturating_sub(12)..line]
                .iter()
                .any(|line| line.contains("SAFETY") || line.contains("# Safety"));
            if !reason {
                found.push(format!("{}:{line} does not say why it is sound: {}", source.path, text.trim()));
            }
        }
    }
    found
}

fn is_unsafe(text: &str) -> bool {
    let block = text.contains("unsafe {") || text.contains("unsafe impl") || text.contains("unsafe extern");
    block || text.contains("unsafe fn") && !text.contains("unsafe fn(")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into(), code: text.into() }
    }

    #[test]
    fn each_rule_finds_what_breaks_it() {
        let long = "x".repeat(COLUMNS_MAX + 1);
        assert_eq!(lines(&[source("src/a.rs", &format!("{long}\n ok \n"))]).len(), 2);
        let function = format!("fn f() {{\n{}}}\n", "    x();\n".repeat(FUNCTION_LINES_MAX));
        assert_eq!(sizes(&[source("src/a.rs", &function)]).len(), 1);
        assert_eq!(pages(&[source("src/a/mod.rs", "//! Short.\nmod b;\n")]).len(), 2);
        assert_eq!(pages(&[source("src/sim/main.rs", "//! Short.\nmod b;\n")]).len(), 2);
        assert_eq!(dead_files(&[source("src/lib.rs", "mod b;"), source("src/c.rs", "")]), ["src/c.rs"]);
        assert_eq!(dead_names(&[source("src/a.rs", "pub fn f() {}\npub fn g() { g() }")]).len(), 1);
        assert_eq!(purity(&[source("src/mvcc/a.rs", "std::fs::read(x)")]).len(), 1);
        assert_eq!(glommio(&[source("src/server/run.rs", "use glommio::Task;")]).len(), 1);
        assert_eq!(unsafe_code(&[source("src/mvcc/a.rs", "unsafe { x() }")]).len(), 2);
        assert_eq!(unsafe_code(&[source(UNSAFE[0], "safe()")]).len(), 1);
    }
}
