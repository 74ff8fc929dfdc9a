//! Who imports whom, by folders.
//!
//! A node is a folder that has a page of prose: `btree`, `server/io`. A single file beside folders is a node of its own:
//! `limits`, `server/run`. Tests and fuzz targets do not count, because they may look at everything.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::Source;

/// For each pair of nodes, a place where the first names the second.
pub type Edges = BTreeMap<(String, String), String>;

/// The node that a module path belongs to.
pub fn node_of(path: &[&str]) -> Option<String> {
    match path {
        [] => None,
        ["server"] => None,
        ["server", sub, ..] => Some(format!("server/{sub}")),
        [top, ..] => Some((*top).to_string()),
    }
}

/// The module path of a file under `src/`: `src/server/io/tcp.rs` is `server io tcp`.
pub fn module_of(path: &str) -> Vec<&str> {
    let inner = path.strip_prefix("src/").unwrap_or(path);
    let inner = inner.strip_suffix(".rs").unwrap_or(inner);
    let mut parts: Vec<&str> = inner.split('/').collect();
    if matches!(parts.last(), Some(&"mod" | &"lib" | &"main")) && (parts.len() > 1 || parts[0] == "lib") {
        parts.pop();
    }
    parts
}

/// All edges between the nodes of `sources`.
pub fn edges(sources: &[Source]) -> Edges {
    let nodes: BTreeSet<String> =
        sources.iter().filter_map(|source| node_of(&module_of(&source.path))).collect();
    let mut edges = Edges::new();
    for source in sources.iter().filter(|source| !source.is_test()) {
        let module = module_of(&source.path);
        let Some(from) = node_of(&module) else { continue };
        for (line, path) in paths(&source.code) {
            let Some(target) = absolute(&module, &path) else { continue };
            let target: Vec<&str> = target.iter().map(String::as_str).collect();
            let Some(to) = node_of(&target).filter(|to| nodes.contains(to) && *to != from) else { continue };
            edges.entry((from.clone(), to)).or_insert_with(|| format!("{}:{line}", source.path));
        }
    }
    edges
}

/// Every path in the code that begins at the crate or at a parent, groups of a `use` spread out.
fn paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for start in ["crate::", "kevel::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let mut spread = Vec::new();
            tree(&code[at..], Vec::new(), &mut spread);
            found.extend(spread.into_iter().map(|path| (line, path)));
        }
    }
    found
}

/// Reads one path, with its groups, and returns how many bytes it took.
fn tree(code: &str, mut prefix: Vec<String>, out: &mut Vec<Vec<String>>) -> usize {
    let mut at = 0;
    loop {
        let word: String = code[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        at += word.len();
        if !word.is_empty() {
            prefix.push(word);
        }
        if !code[at..].starts_with("::") {
            out.push(prefix);
            return at;
        }
        at += 2;
        if code[at..].starts_with('{') {
            return at + group(&code[at..], &prefix, out);
        }
    }
}

fn group(code: &str, prefix: &[String], out: &mut Vec<Vec<String>>) -> usize {
    let mut at = 1;
    while at < code.len() {
        let skipped =
            code[at..].len() - code[at..].trim_start_matches(|c: char| c.is_whitespace() || c == ',').len();
        at += skipped;
        if code[at..].starts_with('}') {
            return at + 1;
        }
        let took = tree(&code[at..], prefix.to_vec(), out);
        // `*`, `as name`: whatever is no path is passed over.
        at += took.max(1);
        while at < code.len() && !code[at..].starts_with([',', '}']) {
            at += code[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The path from the crate's root, for one seen in `module`.
fn absolute(module: &[&str], path: &[String]) -> Option<Vec<String>> {
    let mut rest = path;
    let mut base: Vec<String> = Vec::new();
    if rest.first()? == "super" {
        base = module.iter().map(|part| (*part).to_string()).collect();
        // The parent of a file is its folder; a folder's page stands for the folder, whose parent is the one above.
        base.pop();
        rest = &rest[1..];
        while rest.first().is_some_and(|part| part == "super") {
            base.pop();
            rest = &rest[1..];
        }
    } else {
        rest = &rest[1..];
    }
    base.extend(rest.iter().cloned());
    Some(base)
}

/// Groups of nodes that import one another, directly or by way of others.
pub fn circles(edges: &Edges) -> Vec<BTreeSet<String>> {
    let nodes: BTreeSet<&String> = edges.keys().flat_map(|(from, to)| [from, to]).collect();
    let reach: BTreeMap<&String, BTreeSet<String>> =
        nodes.iter().map(|node| (*node, reachable(edges, node))).collect();
    let mut circles: Vec<BTreeSet<String>> = Vec::new();
    for node in nodes.iter().filter(|node| reach[**node].contains(**node)) {
        let circle: BTreeSet<String> =
            reach[*node].iter().filter(|other| reach[*other].contains(*node)).cloned().collect();
        if !circles.contains(&circle) {
            circles.push(circle);
        }
    }
    circles
}

/// What can be reached from a node by at least one edge.
pub fn reachable(edges: &Edges, node: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![node.to_string()];
    while let Some(at) = open.pop() {
        for (_, to) in edges.keys().filter(|(from, _)| *from == at) {
            if seen.insert(to.clone()) {
                open.push(to.clone());
            }
        }
    }
    seen
}

#[test]
fn groups_and_parents_are_followed() {
    let found = paths("use crate::{a::{self, b}, c};\nlet x = super::d::f();\n");
    let texts: Vec<String> = found.iter().map(|(line, path)| format!("{line} {}", path.join("."))).collect();
    assert_eq!(texts, ["1 crate.a.self", "1 crate.a.b", "1 crate.c", "2 super.d.f"]);
    let path = ["super".to_string(), "d".to_string()];
    assert_eq!(absolute(&["server", "io", "tcp"], &path).unwrap().join("."), "server.io.d");
    assert_eq!(absolute(&["server", "io"], &path).unwrap().join("."), "server.d");
}

#[test]
fn a_circle_is_found_and_a_line_is_none() {
    let edge = |from: &str, to: &str| ((from.to_string(), to.to_string()), String::new());
    let line: Edges = [edge("a", "b"), edge("b", "c")].into();
    assert!(circles(&line).is_empty());
    let ring: Edges = [edge("a", "b"), edge("b", "c"), edge("c", "b")].into();
    assert_eq!(circles(&ring), [BTreeSet::from(["b".to_string(), "c".to_string()])]);
}
