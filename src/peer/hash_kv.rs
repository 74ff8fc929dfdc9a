//! HashKV between members: a question and its answer in JSON, at `/members/hashkv`.
//!
//! ```text
//!   GET {"revision":9}   ──▶   {"header":{"revision":12},"hash":…,"compact_revision":5,"hash_revision":9}
//! ```
//!
//! Both are what Go's encoder makes of etcd's messages: names as in the messages' definition, numbers as numbers, what
//! is zero left out. Go's decoder takes names in letters of either case, and `null` for a field that is left out.
#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};

use super::greeting::OTHER_CLUSTER;
use crate::mvcc::hash::KvHash;

/// Where the question is asked.
pub const PATH: &str = "/members/hashkv";

/// What is said of a revision that was compacted, with status 400.
pub const COMPACTED: &str = "mvcc: required revision has been compacted";
/// What is said of a revision that is not there yet, with status 400.
pub const FUTURE: &str = "mvcc: required revision is a future revision";

/// Why an answer has no hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The revision was compacted.
    Compacted,
    /// The revision is not there yet.
    Future,
    /// The member belongs to another cluster.
    OtherCluster,
    /// It is none of these; the text says what came.
    Other(String),
}

/// The question for the hash at a revision.
pub fn question(revision: i64) -> String {
    if revision == 0 { "{}".to_owned() } else { json!({ "revision": revision }).to_string() }
}

/// The revision that a question is about; none if it cannot be read.
pub fn asked(question: &[u8]) -> Option<i64> {
    match serde_json::from_slice(question).ok()? {
        Value::Null => Some(0),
        Value::Object(fields) => number(&fields, "revision"),
        _ => None,
    }
}

/// The answer with a hash.
pub fn answer(hash: &KvHash) -> String {
    let KvHash { hash, compact_revision, hash_revision, revision } = *hash;
    let header = if revision == 0 { "{}".to_owned() } else { format!(r#"{{"revision":{revision}}}"#) };
    let mut answer = format!(r#"{{"header":{header}"#);
    let fields =
        [("hash", i64::from(hash)), ("compact_revision", compact_revision), ("hash_revision", hash_revision)];
    for (name, value) in fields.into_iter().filter(|(_, value)| *value != 0) {
        answer.push_str(&format!(r#","{name}":{value}"#));
    }
    answer.push('}');
    answer
}

/// What an answer says.
///
/// # Errors
/// Why it has no hash.
pub fn told(status: u16, body: &[u8]) -> Result<KvHash, Refusal> {
    let text = String::from_utf8_lossy(body);
    match status {
        200 => hash(body).ok_or_else(|| Refusal::Other(format!("the answer cannot be read: {text}"))),
        400 if text.contains(COMPACTED) => Err(Refusal::Compacted),
        400 if text.contains(FUTURE) => Err(Refusal::Future),
        412 if text.contains(OTHER_CLUSTER) => Err(Refusal::OtherCluster),
        _ => Err(Refusal::Other(format!("unknown error: {text}"))),
    }
}

fn hash(body: &[u8]) -> Option<KvHash> {
    let Value::Object(fields) = serde_json::from_slice(body).ok()? else { return None };
    let revision = match field(&fields, "header") {
        Some(Value::Object(header)) => number(header, "revision")?,
        _ => 0,
    };
    Some(KvHash {
        hash: number(&fields, "hash")?.try_into().ok()?,
        compact_revision: number(&fields, "compact_revision")?,
        hash_revision: number(&fields, "hash_revision")?,
        revision,
    })
}

fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// A field that is a number, zero if it is left out; none if it is something else.
fn number(fields: &Map<String, Value>, name: &str) -> Option<i64> {
    match field(fields, name) {
        None | Some(Value::Null) => Some(0),
        Some(value) => value.as_i64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> KvHash {
        KvHash { hash: 4_000_000_000, compact_revision: -1, hash_revision: 9, revision: 12 }
    }

    #[test]
    fn questions_are_written_and_read_as_go_does() {
        assert_eq!((question(9), question(0)), (r#"{"revision":9}"#.to_owned(), "{}".to_owned()));
        for (text, revision) in [
            (r#"{"revision":9}"#, Some(9)),
            ("{}", Some(0)),
            ("null", Some(0)),
            (r#"{"revision":null}"#, Some(0)),
            (r#" {"REVISION" : -3, "other": [1]} "#, Some(-3)),
            (r#"{"revision":9223372036854775807}"#, Some(i64::MAX)),
            (r#"{"revision":9223372036854775808}"#, None),
            (r#"{"revision":1.5}"#, None),
            (r#"{"revision":"9"}"#, None),
            (r#"{"revision":9}x"#, None),
            ("[]", None),
            ("9", None),
            ("", None),
        ] {
            assert_eq!(asked(text.as_bytes()), revision, "{text}");
        }
    }

    #[test]
    fn an_answer_leaves_out_what_is_zero_and_is_read_back() {
        let text = r#"{"header":{"revision":12},"hash":4000000000,"compact_revision":-1,"hash_revision":9}"#;
        assert_eq!(answer(&example()), text);
        assert_eq!(told(200, text.as_bytes()), Ok(example()));
        let zero = KvHash { hash: 0, compact_revision: 0, hash_revision: 0, revision: 0 };
        assert_eq!(answer(&zero), r#"{"header":{}}"#);
        assert_eq!(told(200, b"{}"), Ok(zero));
    }

    #[test]
    fn what_is_no_hash_says_why() {
        let gone = "mvcc: required revision has been compacted\n";
        assert_eq!(told(400, gone.as_bytes()), Err(Refusal::Compacted));
        let future = "mvcc: required revision is a future revision\n";
        assert_eq!(told(400, future.as_bytes()), Err(Refusal::Future));
        assert_eq!(told(412, b"cluster ID mismatch\n"), Err(Refusal::OtherCluster));
        for (status, body) in [
            (400, "error unmarshalling request"),
            (404, "404 page not found"),
            (412, "incompatible version"),
            (500, gone),
            (200, "[]"),
            (200, r#"{"hash":-1}"#),
            (200, r#"{"hash":4294967296}"#),
            (200, r#"{"header":{"revision":"x"}}"#),
        ] {
            assert!(matches!(told(status, body.as_bytes()), Err(Refusal::Other(_))), "{status} {body}");
        }
    }
}
