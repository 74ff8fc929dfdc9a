//! The picture of folders and imports that ARCHITECTURE.md shows.
//!
//! An arrow says that the first folder imports the second. An arrow that follows from two others is left out, so that
//! the picture stays small: a folder may import whatever can be reached from it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

use crate::imports::{Edges, reachable};
use crate::source::root;

const BEGIN: &str = "<!-- begin imports -->";
const END: &str = "<!-- end imports -->";
/// Nodes that nearly everybody imports; arrows to them would hide the others.
const EVERYWHERE: [&str; 5] = ["limits", "stdx", "proto", "error", "version"];

/// Compares the picture in ARCHITECTURE.md with the code, or writes it if `UPDATE` is set.
///
/// # Errors
/// What differs, and the command that mends it.
pub fn check(edges: &Edges) -> Result<(), String> {
    let path = root().join("ARCHITECTURE.md");
    let text = fs::read_to_string(&path).map_err(|error| format!("ARCHITECTURE.md: {error}"))?;
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        return Err(format!("ARCHITECTURE.md has no {BEGIN} and {END}"));
    };
    let wanted = format!("{}{BEGIN}\n{}{}", &text[..begin], draw(edges), &text[end..]);
    if wanted == text {
        return Ok(());
    }
    if std::env::var_os("UPDATE").is_some() {
        return fs::write(&path, wanted).map_err(|error| format!("ARCHITECTURE.md: {error}"));
    }
    Err("the picture of imports in ARCHITECTURE.md is stale: run UPDATE=1 cargo test --test tidy".into())
}

fn draw(edges: &Edges) -> String {
    let shown: Edges = edges
        .iter()
        .filter(|((from, to), _)| !everywhere(from) && !everywhere(to))
        .map(|(pair, place)| (pair.clone(), place.clone()))
        .collect();
    let nodes: BTreeSet<&String> = shown.keys().flat_map(|(from, to)| [from, to]).collect();
    let mut out = String::from("```mermaid\nflowchart TD\n");
    let inside: Vec<&&String> = nodes.iter().filter(|node| node.starts_with("server/")).collect();
    out.push_str("  subgraph server\n");
    for node in inside {
        writeln!(out, "    {}[{}]", name(node), node.trim_start_matches("server/"))
            .expect("a String takes all");
    }
    out.push_str("  end\n");
    for (from, to) in shown.keys().filter(|(from, to)| !follows(&shown, from, to)) {
        writeln!(out, "  {} --> {}", name(from), name(to)).expect("a String takes all");
    }
    out.push_str("```\n");
    out
}

fn everywhere(node: &str) -> bool {
    EVERYWHERE.contains(&node)
}

/// A name that the drawing language takes.
fn name(node: &str) -> String {
    node.replace("server/", "server_")
}

/// Whether the second node can be reached from the first by way of a third.
fn follows(edges: &Edges, from: &str, to: &str) -> bool {
    edges
        .keys()
        .filter(|(first, second)| first == from && second != to)
        .any(|(_, second)| reachable(edges, second).contains(to))
}

#[test]
fn an_arrow_that_follows_from_others_is_left_out() {
    let edge = |from: &str, to: &str| ((from.to_string(), to.to_string()), String::new());
    let edges: Edges = [edge("a", "b"), edge("b", "c"), edge("a", "c")].into();
    let drawing = draw(&edges);
    assert!(drawing.contains("a --> b") && drawing.contains("b --> c"));
    assert!(!drawing.contains("a --> c"));
}
