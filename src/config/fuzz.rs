//! Fuzzing of the configuration file.
//!
//! What flags are set to is written down in one of the many ways that YAML has, and reading it gives the same settings.
//! And texts that nearly are a configuration file end in settings or an error, the same one each time.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::file;
use super::flag::{FLAGS, FileKey, Flag, Kind};
use super::settings::Settings;
use crate::stdx::prng::Prng;

/// One file; panics when a property does not hold.
pub fn run(seed: u64) {
    let mut prng = Prng::new(seed);
    let mut expected = Settings::default();
    let mut root = Block::default();
    for flag in FLAGS {
        if let Some((written, meant)) = prng.chance(1, 8).then(|| value(&mut prng, flag)).flatten() {
            expected.set(flag.name, &meant).expect("a value of the flag's kind");
            let path: &[&str] = match flag.file {
                FileKey::Same => std::slice::from_ref(&flag.name),
                FileKey::In(path) => path,
                FileKey::Never => continue,
            };
            root.put(path, written);
        }
    }
    let text = root.written(&mut prng);
    let read = file::read(text.as_bytes()).unwrap_or_else(|error| panic!("seed {seed}: {error}\n{text}"));
    for flag in FLAGS.iter().filter(|flag| flag.file != FileKey::Never) {
        assert_eq!(read.text(flag.name), expected.text(flag.name), "seed {seed}, {}:\n{text}", flag.name);
    }
    let spoilt = spoilt(&mut prng, text.into_bytes());
    let once = file::read(&spoilt).map(|settings| format!("{settings:?}"));
    assert_eq!(once, file::read(&spoilt).map(|settings| format!("{settings:?}")), "seed {seed}");
}

/// A value of a flag, as YAML may have it and as the command line has it; none for kinds whose values are few.
fn value(prng: &mut Prng, flag: &Flag) -> Option<(String, String)> {
    let same = |text: String| Some((text.clone(), text));
    match flag.kind {
        Kind::Bool => {
            let meant = prng.chance(1, 2);
            let words = if meant { ["true", "yes", "On", "y"] } else { ["false", "NO", "off", "n"] };
            Some((words[prng.below(4) as usize].to_owned(), meant.to_string()))
        }
        Kind::Uint | Kind::Uint32 | Kind::Int => {
            let number = prng.below(100_000);
            let written = match prng.below(4) {
                0 => format!("0x{number:x}"),
                1 => format!("{number}.0"),
                2 => format!("+{number}"),
                _ => number.to_string(),
            };
            Some((written, number.to_string()))
        }
        Kind::Duration => {
            let nanos = prng.next_u64() >> 20;
            Some((nanos.to_string(), format!("{nanos}ns")))
        }
        Kind::Urls => same(format!("http://127.0.0.1:{}", 1 + prng.below(60_000))),
        Kind::OneOf(words) => same(words[prng.below(words.len() as u64) as usize].to_owned()),
        Kind::List => {
            let words: Vec<String> = (0..1 + prng.below(3)).map(|_| word(prng)).collect();
            let quoted: Vec<String> = words.iter().map(|word| quoted(prng, word)).collect();
            Some((format!("[{}]", quoted.join(", ")), words.join(",")))
        }
        Kind::Text => {
            let text = word(prng);
            Some((quoted(prng, &text), text))
        }
        Kind::Origins | Kind::Words | Kind::AnyOf(_) | Kind::Level | Kind::Gates => None,
    }
}

/// A text that means something else to YAML where it stands bare.
fn word(prng: &mut Prng) -> String {
    const WORDS: [&str; 14] = [
        "a",
        "yes",
        "1",
        "0x1",
        "null",
        "~",
        "a: b",
        "#x",
        "it's",
        "say \"it\"",
        "\u{e9}\u{1f600}",
        "- x",
        "*y",
        "a\\b",
    ];
    WORDS[prng.below(WORDS.len() as u64) as usize].to_owned()
}

fn quoted(prng: &mut Prng, text: &str) -> String {
    if prng.chance(1, 2) {
        format!("'{}'", text.replace('\'', "''"))
    } else {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

/// Keys with values, or with blocks of their own.
#[derive(Default)]
struct Block(BTreeMap<String, Node>);

enum Node {
    Value(String),
    Block(Block),
}

impl Block {
    fn put(&mut self, path: &[&str], value: String) {
        let [key, inner @ ..] = path else { return };
        if inner.is_empty() {
            self.0.insert((*key).to_owned(), Node::Value(value));
            return;
        }
        let node = self.0.entry((*key).to_owned()).or_insert_with(|| Node::Block(Block::default()));
        if let Node::Block(block) = node {
            block.put(inner, value);
        }
    }

    /// The whole file.
    fn written(&self, prng: &mut Prng) -> String {
        if prng.chance(1, 3) {
            return self.flow();
        }
        let mut text = String::from(if prng.chance(1, 4) { "# first\n---\n" } else { "" });
        self.lines(prng, 0, &mut text);
        text
    }

    fn lines(&self, prng: &mut Prng, indent: usize, text: &mut String) {
        for (key, node) in &self.0 {
            let key = if prng.chance(1, 8) { key.to_ascii_uppercase() } else { key.clone() };
            let blank = if prng.chance(1, 4) { "   " } else { " " };
            text.push_str(&format!("{:indent$}{key}:", ""));
            match node {
                Node::Value(value) => text.push_str(&format!("{blank}{value}")),
                Node::Block(block) if prng.chance(1, 2) => text.push_str(&format!("{blank}{}", block.flow())),
                Node::Block(block) => {
                    text.push('\n');
                    let deeper = indent + 1 + prng.below(4) as usize;
                    block.lines(prng, deeper, text);
                    continue;
                }
            }
            text.push_str(if prng.chance(1, 6) { " # why\n" } else { "\n" });
        }
    }

    fn flow(&self) -> String {
        let pairs: Vec<String> = self
            .0
            .iter()
            .map(|(key, node)| match node {
                Node::Value(value) => format!("\"{key}\": {value}"),
                Node::Block(block) => format!("{key}: {}", block.flow()),
            })
            .collect();
        format!("{{{}}}", pairs.join(", "))
    }
}

/// The text with a few words of YAML somewhere in it.
fn spoilt(prng: &mut Prng, mut text: Vec<u8>) -> Vec<u8> {
    const WORDS: [&str; 20] = [
        "-", ":", "&a ", "*a", "!", "|\n", ">", "'", "\"", "%", "{", "}", "[", "]", ",", "\n", "\t", "? ",
        "<<: ", "\u{feff}",
    ];
    for _ in 0..1 + prng.below(4) {
        let at = prng.below(text.len() as u64 + 1) as usize;
        if prng.chance(1, 4) {
            text.truncate(at);
        } else {
            let word = WORDS[prng.below(WORDS.len() as u64) as usize];
            text.splice(at..at, word.bytes());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn some_hundred_files() {
        (0..300).for_each(super::run);
    }
}
