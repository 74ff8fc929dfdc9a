//! YAML as etcd's configuration file is read: YAML 1.1, made into what JSON can say.
//!
//! ```text
//!  bytes ── libyaml's events ──> nodes with anchors ──> Value
//! ```
//!
//! etcd reads its file with a port of libyaml, turns the result into JSON and gives that to Go's JSON decoder. The
//! rules of all three are the format: `yes` and `off` are booleans, `0x10` and `010` are numbers, the last of two
//! equal keys counts, a key may be a number, `<<` merges, a byte order mark is skipped, and only the first document
//! is looked at.
//!
//! Aliases can make a small text enormous and nesting can make it deep, so both are bounded.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use libyaml_safer::{EventData, Parser};

use super::go;

/// What one document says, as JSON could say it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number of 64 bits, signed or not.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// A sequence.
    List(Vec<Value>),
    /// A mapping. Go writes the keys of a JSON object in this order.
    Map(BTreeMap<String, Value>),
}

/// Values in one document, those that aliases repeat included.
const VALUES_MAX: usize = 100_000;
/// Sequences and mappings inside each other.
const DEPTH_MAX: usize = 100;

const TAG_PREFIX: &str = "tag:yaml.org,2002:";

/// Reads the first document; `Null` when there is none.
pub fn read(text: &[u8]) -> Result<Value, String> {
    let text = decode(text)?;
    // libyaml's port panics at a few texts that it does not understand, such as a tag right before a comma. Nothing of
    // the reader outlives such an end, and the file is refused like any other that cannot be read.
    catch_unwind(AssertUnwindSafe(|| document(text.as_bytes())))
        .unwrap_or_else(|_| Err("yaml: the text cannot be understood".to_owned()))
}

fn document(text: &[u8]) -> Result<Value, String> {
    let mut input = text;
    let mut parser = Parser::new();
    parser.set_input(&mut input);
    let mut reader = Reader { parser, anchors: HashMap::new(), values: 0 };
    loop {
        match reader.next()? {
            EventData::StreamStart { .. } => {}
            EventData::StreamEnd => return Ok(Value::Null),
            EventData::DocumentStart { .. } => break,
            _ => return Err("yaml: the document does not begin".to_owned()),
        }
    }
    let first = reader.next()?;
    let root = reader.node(first, 0)?;
    match reader.next()? {
        EventData::DocumentEnd { .. } => Ok(root.value),
        _ => Err("yaml: the document does not end".to_owned()),
    }
}

/// The text without its byte order mark, which also tells the encoding.
fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    let wide = |read: fn([u8; 2]) -> u16| {
        let (units, rest) = bytes[2..].as_chunks();
        let text = char::decode_utf16(units.iter().map(|unit| read(*unit))).collect::<Result<String, _>>();
        text.ok().filter(|_| rest.is_empty()).map(Cow::Owned).ok_or("yaml: invalid UTF-16".to_owned())
    };
    match bytes {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        _ => {
            let text = std::str::from_utf8(bytes).map_err(|error| format!("yaml: {error}"))?;
            Ok(Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text)))
        }
    }
}

struct Reader<'a> {
    parser: Parser<&'a mut &'a [u8]>,
    /// The value that each anchor names so far.
    anchors: HashMap<String, Value>,
    values: usize,
}

/// A value, and whether it stands where a key would be a merge.
struct Node {
    value: Value,
    merge: bool,
}

impl From<Value> for Node {
    fn from(value: Value) -> Node {
        Node { value, merge: false }
    }
}

impl Reader<'_> {
    fn next(&mut self) -> Result<EventData, String> {
        self.parser.parse().map(|event| event.data).map_err(|error| format!("yaml: {error}"))
    }

    /// The node that `event` begins.
    fn node(&mut self, event: EventData, depth: usize) -> Result<Node, String> {
        if depth > DEPTH_MAX {
            return Err(format!("yaml: blocks are nested more than {DEPTH_MAX} deep"));
        }
        self.count(1)?;
        match event {
            EventData::Alias { anchor } => self.alias(&anchor).map(Node::from),
            EventData::Scalar { anchor, tag, value, plain_implicit, .. } => {
                let tag = tag.unwrap_or_default();
                let merge = value == "<<" && (plain_implicit || tag == "tag:yaml.org,2002:merge");
                let value = if tag.is_empty() && !plain_implicit {
                    Value::Text(value)
                } else {
                    resolve(&tag, value)?
                };
                Ok(Node { value: self.named(anchor, value), merge })
            }
            EventData::SequenceStart { anchor, .. } => {
                let list = self.sequence(depth)?;
                Ok(self.named(anchor, list).into())
            }
            EventData::MappingStart { anchor, .. } => {
                let map = self.mapping(depth)?;
                Ok(self.named(anchor, map).into())
            }
            _ => Err("yaml: a value is missing".to_owned()),
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                EventData::SequenceEnd => return Ok(Value::List(items)),
                event => items.push(self.node(event, depth + 1)?.value),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, String> {
        let mut map = BTreeMap::new();
        loop {
            let key = match self.next()? {
                EventData::MappingEnd => return Ok(Value::Map(map)),
                event => self.node(event, depth + 1)?,
            };
            let event = self.next()?;
            let value = self.node(event, depth + 1)?.value;
            if key.merge {
                merge(&mut map, value)?;
            } else {
                map.insert(key_text(key.value)?, value);
            }
        }
    }

    fn named(&mut self, anchor: Option<String>, value: Value) -> Value {
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor, value.clone());
        }
        value
    }

    fn alias(&mut self, anchor: &str) -> Result<Value, String> {
        let named =
            self.anchors.get(anchor).ok_or_else(|| format!("yaml: unknown anchor '{anchor}' referenced"))?;
        let value = named.clone();
        self.count(size(&value))?;
        Ok(value)
    }

    fn count(&mut self, more: usize) -> Result<(), String> {
        self.values = self.values.saturating_add(more);
        if self.values > VALUES_MAX {
            Err("yaml: document contains excessive aliasing".to_owned())
        } else {
            Ok(())
        }
    }
}

/// How many values a value is made of.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(map) => map.values().map(size).sum(),
        _ => 0,
    }
}

/// `<<`: the pairs of a mapping, or of several of which the first counts.
fn merge(into: &mut BTreeMap<String, Value>, from: Value) -> Result<(), String> {
    let maps = match from {
        Value::List(maps) => maps,
        map => vec![map],
    };
    for map in maps.into_iter().rev() {
        let Value::Map(map) = map else {
            return Err("yaml: map merge requires map or sequence of maps as the value".to_owned());
        };
        into.extend(map);
    }
    Ok(())
}

/// A key as the key of a JSON object.
fn key_text(key: Value) -> Result<String, String> {
    match key {
        Value::Text(text) => Ok(text),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Int(value) => Ok(value.to_string()),
        Value::Float(value) => Ok(value.to_string()),
        Value::Null | Value::List(_) | Value::Map(_) => Err("yaml: unsupported map key".to_owned()),
    }
}

/// What a plain scalar, or one with a tag, means.
fn resolve(tag: &str, text: String) -> Result<Value, String> {
    let Some(kind) = tag.strip_prefix(TAG_PREFIX) else {
        return Ok(if tag.is_empty() { plain(&text) } else { Value::Text(text) });
    };
    let mismatch = |text: &str| Err(format!("yaml: cannot decode `{text}` as a !!{kind}"));
    match (kind, plain(&text)) {
        ("bool", value @ Value::Bool(_)) => Ok(value),
        ("int", value @ Value::Int(_)) => Ok(value),
        ("float", value @ Value::Float(_)) => Ok(value),
        ("float", Value::Int(value)) => Ok(Value::Float(value as f64)),
        ("null", Value::Null) => Ok(Value::Null),
        ("bool" | "int" | "float" | "null", _) => mismatch(&text),
        ("binary", _) => match base64(&text) {
            Some(bytes) => Ok(Value::Text(String::from_utf8_lossy(&bytes).into_owned())),
            None => Err("yaml: !!binary value contains invalid base64 data".to_owned()),
        },
        _ => Ok(Value::Text(text)),
    }
}

/// What a plain scalar means by itself.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Value::Text(text.to_owned());
    }
    let digits = text.replace('_', "");
    if let Ok(value) = go::parse_int(&digits) {
        return Value::Int(value.into());
    }
    if let Ok(value) = go::parse_uint(&digits) {
        return Value::Int(value.into());
    }
    match digits.parse::<f64>() {
        Ok(value) if value.is_finite() && is_decimal(&digits) => Value::Float(value),
        _ => Value::Text(text.to_owned()),
    }
}

/// A sign, digits with at most one point, an exponent: YAML's floats, which are fewer than Rust's.
fn is_decimal(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    !(whole.is_empty() && fraction.is_empty())
        && digits(whole)
        && digits(fraction)
        && !exponent.is_empty()
        && digits(exponent)
}

/// Base64 with its padding; line breaks between digits are skipped.
fn base64(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text: Vec<u8> = text.bytes().filter(|b| !matches!(b, b'\n' | b'\r')).collect();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let body = text.len() - text.iter().rev().take(2).take_while(|b| **b == b'=').count();
    let mut bytes = Vec::new();
    for chunk in text[..body].chunks(4) {
        let mut bits = 0u32;
        for byte in chunk {
            bits = bits << 6 | DIGITS.iter().position(|digit| digit == byte)? as u32;
        }
        bits <<= 6 * (4 - chunk.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(text: &str) -> Value {
        match read(format!("v: {text}\n").as_bytes()) {
            Ok(Value::Map(mut map)) => map.remove("v").unwrap(),
            other => panic!("{text}: {other:?}"),
        }
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn plain_words_are_those_of_yaml_1_1() {
        for (written, meant) in [
            ("yes", Value::Bool(true)),
            ("off", Value::Bool(false)),
            ("n", Value::Bool(false)),
            ("'yes'", text("yes")),
            ("tRUE", text("tRUE")),
            ("", Value::Null),
            ("~", Value::Null),
            ("''", text("")),
            ("0x10", Value::Int(16)),
            ("010", Value::Int(8)),
            ("0o10", Value::Int(8)),
            ("0b11", Value::Int(3)),
            ("1_000", Value::Int(1000)),
            ("-5", Value::Int(-5)),
            ("18446744073709551615", Value::Int(u64::MAX.into())),
            ("18446744073709551616", Value::Float(18_446_744_073_709_551_616.0)),
            ("8.589934592e+09", Value::Float(8_589_934_592.0)),
            ("1e3", Value::Float(1000.0)),
            (".5", Value::Float(0.5)),
            ("1:30", text("1:30")),
            ("1e", text("1e")),
            ("infinity", text("infinity")),
            ("+inf", text("+inf")),
            ("2001-01-01", text("2001-01-01")),
            ("!!str 5", text("5")),
            ("!!int '5'", Value::Int(5)),
            ("!!float 5", Value::Float(5.0)),
            ("!!bool 'no'", Value::Bool(false)),
            ("!mine 5", text("5")),
            ("!!binary aGVsbG8=", text("hello")),
            ("!!binary aGVsbA==", text("hell")),
        ] {
            assert_eq!(value(written), meant, "{written}");
        }
    }

    #[test]
    fn keys_merges_and_documents() {
        let map = |text: &str| match read(text.as_bytes()) {
            Ok(Value::Map(map)) => map,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(map("a: 1\na: 2\n")["a"], Value::Int(2));
        assert_eq!(map("1: a\nyes: b\n").keys().collect::<Vec<_>>(), ["1", "true"]);
        assert_eq!(map("b: &b {x: 1}\nx: 2\n<<: *b\n")["x"], Value::Int(1), "a merge counts where it stands");
        assert_eq!(map("b: &b {x: 1}\n<<: *b\nx: 2\n")["x"], Value::Int(2));
        assert_eq!(map("a: &a {x: 1}\nb: &b {x: 2}\n<<: [*a, *b]\n")["x"], Value::Int(1));
        assert_eq!(map("\u{feff}a: 1\n")["a"], Value::Int(1));
        assert_eq!(map("a: 1\n---\na: [\n")["a"], Value::Int(1));
        let wide: Vec<u8> = "\u{feff}a: 1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(&wide), read(b"a: 1"));
        assert!(read(b"\xff\xfea").is_err() && read(b"a: \xff").is_err());
        for empty in ["", "\n", "# only a comment\n", "---\n", "~"] {
            assert_eq!(read(empty.as_bytes()), Ok(Value::Null), "{empty:?}");
        }
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        for text in [
            "a: [",
            "~: 1",
            "? [a]\n: 1",
            "<<: 5",
            "a: *b",
            "a: &b [*b]",
            "a: !!int x",
            "a: '",
            "a: !!binary x",
            "a: \u{1}",
            "a: {!,b}",
        ] {
            assert!(read(text.as_bytes()).is_err(), "{text:?}");
        }
        let bomb = (1..30).fold("a0: &a0 [x]\n".to_owned(), |text, n| {
            format!("{text}a{n}: &a{n} [*a{0}, *a{0}, *a{0}]\n", n - 1)
        });
        assert!(read(bomb.as_bytes()).unwrap_err().contains("excessive aliasing"));
        assert!(read("[".repeat(100_000).as_bytes()).unwrap_err().contains("nested"));
    }

    /// What means something to YAML, between two words.
    const WORDS: [&str; 34] = [
        "-", ":", "#", "&", "*", "!", "|", ">", "'", "\"", "%", "@", "`", "{", "}", "[", "]", ",", " ", "  ",
        "\n", "\t", "?", "<<", ".", "~", "a", "1", ": ", "- ", "---\n", "...\n", "\u{feff}", "\u{85}",
    ];

    proptest! {
        /// Bytes that nearly are a configuration file end in a value or an error.
        #[test]
        fn no_text_panics(words in proptest::collection::vec(proptest::sample::select(&WORDS), 0..60)) {
            let _ = read(words.concat().as_bytes());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
