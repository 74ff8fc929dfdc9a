//! The configuration file: YAML or JSON, flag names as keys, some flags inside blocks.
//!
//! It replaces command line and environment altogether. Durations are integer nanoseconds; an empty (null) value
//! leaves the default; keys that etcd does not know or has dropped are ignored, with a warning.
#![forbid(unsafe_code)]

use serde_yaml_ng::Value;

use super::flag::{self, FLAGS, FileKey, Flag, Kind, Old};
use super::settings::{Notice, SetError, Settings};

/// Reads the text of a configuration file.
pub fn read(text: &str) -> Result<Settings, String> {
    let mut settings = Settings::default();
    let root = match serde_yaml_ng::from_str(text).map_err(|error| format!("configuration file: {error}"))? {
        Value::Null => return Ok(settings),
        Value::Mapping(root) => Value::Mapping(root),
        _ => return Err("configuration file: expected a mapping of flag names to values".to_owned()),
    };
    for flag in FLAGS {
        let path: &[&str] = match flag.file {
            FileKey::Same => &[flag.name],
            FileKey::In(path) => path,
            FileKey::Never => continue,
        };
        if let Some(value) = dig(&root, path)? {
            set(&mut settings, flag.name, flag, value, path)?;
        }
    }
    for (key, value) in root.as_mapping().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        let Some(key) = key.as_str() else { continue };
        let in_table = FLAGS.iter().any(|flag| match flag.file {
            FileKey::Same => flag.name == key,
            FileKey::In(path) => path[0] == key,
            FileKey::Never => false,
        });
        if in_table {
            continue;
        }
        match flag::find_old(key) {
            Some(Old::Renamed(present)) => {
                let flag = flag::find(present).expect("old names lead to present ones");
                set(&mut settings, key, flag, value, &[key])?;
            }
            Some(Old::Gate(_)) => {
                let text = scalar(Kind::Bool, value).map_err(|wanted| complaint(&[key], wanted, value))?;
                settings.set(key, &text).map_err(|error| refused(&[key], error))?;
            }
            _ => {
                let notice = Notice::warn("unknown key in the configuration file - ignoring");
                settings.notices.push(notice.with("key", key));
            }
        }
    }
    Ok(settings)
}

/// The value under a path of blocks; none where it or a block on the way is absent or null.
fn dig<'a>(root: &'a Value, path: &[&str]) -> Result<Option<&'a Value>, String> {
    let mut here = root;
    for key in path {
        here = match here {
            Value::Mapping(map) => match map.get(*key) {
                None | Some(Value::Null) => return Ok(None),
                Some(value) => value,
            },
            _ => return Err(format!("invalid {}", path[0])),
        };
    }
    Ok(Some(here))
}

fn set(settings: &mut Settings, name: &str, flag: &Flag, value: &Value, path: &[&str]) -> Result<(), String> {
    let text = scalar(flag.kind, value).map_err(|wanted| complaint(path, wanted, value))?;
    // An empty text stands for "not given" where etcd's own decoder makes no difference.
    if text.is_empty() && flag.kind != Kind::Text {
        return Ok(());
    }
    settings.set(name, &text).map_err(|error| refused(path, error))
}

fn refused(path: &[&str], error: SetError) -> String {
    match error {
        SetError::BadValue { why, .. } | SetError::Gone(why) => {
            format!("configuration file: unexpected error setting up {}: {why}", path.join("."))
        }
        SetError::Unknown => unreachable!("the name comes from the table"),
    }
}

/// The value as it would stand on the command line, or what kind of value is wanted instead.
fn scalar(kind: Kind, value: &Value) -> Result<String, &'static str> {
    match (kind, value) {
        (Kind::Bool, Value::Bool(value)) => Ok(value.to_string()),
        (Kind::Bool, _) => Err("true or false"),
        (Kind::Uint | Kind::Uint32, Value::Number(number)) if number.is_u64() => Ok(number.to_string()),
        (Kind::Uint | Kind::Uint32, _) => Err("a number"),
        (Kind::Int, Value::Number(number)) if !number.is_f64() => Ok(number.to_string()),
        (Kind::Int, _) => Err("a number"),
        (Kind::Duration, Value::Number(number)) if !number.is_f64() => Ok(format!("{number}ns")),
        (Kind::Duration, _) => Err("a number of nanoseconds"),
        (Kind::List, Value::Sequence(items)) => {
            let words = items.iter().map(|item| item.as_str().map(str::to_owned));
            words.collect::<Option<Vec<_>>>().map(|words| words.join(",")).ok_or("a list of words")
        }
        (_, Value::String(text)) => Ok(text.clone()),
        (_, Value::Number(number)) => Ok(number.to_string()),
        (_, Value::Bool(value)) => Ok(value.to_string()),
        (Kind::List, _) => Err("a list of words"),
        _ => Err("a text"),
    }
}

fn complaint(path: &[&str], wanted: &str, value: &Value) -> String {
    let found = serde_json::to_string(value).unwrap_or_else(|_| "something else".to_owned());
    format!("configuration file: {} must be {wanted}, not {found}", path.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_blocks_durations_and_nulls() {
        let settings = read(
            "name: m1\ndata-dir:\nsnapshot-count: 50\npre-vote: false\nwatch-progress-notify-interval: 5000000000\n\
             socket-options:\n  reuse-port: true\nlog-outputs: [stdout, stderr]\nauto-compaction-retention: 0\n\
             client-transport-security:\n  cert-file:\n  auto-tls: false\ncors:\nfeature-gates: 'AllAlpha=false'\n",
        )
        .unwrap();
        assert_eq!((settings.text("name"), settings.uint("snapshot-count")), ("m1", 50));
        assert!(!settings.bool("pre-vote") && settings.bool("socket-reuse-port"));
        assert_eq!(settings.nanos("watch-progress-notify-interval"), 5_000_000_000);
        assert_eq!(settings.list("log-outputs"), ["stdout", "stderr"]);
        assert_eq!((settings.text("cors"), settings.text("data-dir")), ("*", ""));
        assert!(!settings.is_set("cert-file") && settings.is_set("auto-tls"));
        assert!(settings.notices.is_empty());
        assert_eq!(read("{\"name\": \"j\", \"max-wals\": 2}").unwrap().text("name"), "j");
        assert_eq!(read("").unwrap().text("name"), "default");
    }

    #[test]
    fn unknown_and_legacy_keys_are_ignored_and_experimental_ones_mapped() {
        let settings = read(
            "proxy: 'on'\ndiscovery-fallback: proxy\nraft-read-timeout: 1\nfoo: 1\n\
             experimental-initial-corrupt-check: true\nexperimental-compaction-batch-limit: 10\n",
        )
        .unwrap();
        assert_eq!(settings.int("compaction-batch-limit"), 10);
        assert_eq!(settings.gates(), "InitialCorruptCheck=true,");
        let ignored =
            settings.notices.iter().filter(|notice| notice.message.starts_with("unknown key")).count();
        assert_eq!(ignored, 4);
    }

    #[test]
    fn wrong_types_say_what_is_wanted() {
        for (text, complaint) in [
            ("pre-vote: 'yes'", "configuration file: pre-vote must be true or false, not \"yes\""),
            ("snapshot-count: lots", "configuration file: snapshot-count must be a number, not \"lots\""),
            (
                "grpc-keepalive-timeout: 5s",
                "configuration file: grpc-keepalive-timeout must be a number of nanoseconds, not \"5s\"",
            ),
            ("peer-transport-security: 1", "invalid peer-transport-security"),
            ("[]", "configuration file: expected a mapping of flag names to values"),
            (
                "listen-client-urls: 'localhost:1'",
                "configuration file: unexpected error setting up listen-client-urls: \
                 URL scheme must be http, https, unix, or unixs: localhost:1",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), complaint);
        }
        assert!(read("name: [").is_err());
    }
}
