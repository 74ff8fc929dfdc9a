//! The YAML or JSON, flag names as keys, some flags inside blocks.
//!
//! It replaces command line and environment altogether. Values are taken as Go's JSON decoder takes them: a key in
//! other letters counts, a whole number may be written as a float, a null leaves what was there, and any other value of
//! the wrong kind is refused, be it a number in quotes. Durations are integer nanoseconds. Keys that etcd does not know
//! or has dropped are ignored, with a warning.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::flag::{self, FLAGS, FileKey, Flag, Kind, Old};
use super::go;
use super::settings::{Notice, SetError, Settings};
use super::yaml::{self, Value};

type Map = BTreeMap<String, Value>;

/// The block that etcd looks at a second time, and then takes a null for a mistake.
const PEER_TLS: &str = "peer-transport-security";

/// Reads the text of a configuration file.
pub fn read(text: &[u8]) -> Result<Settings, String> {
    let mut settings = Settings::default();
    match yaml::read(text)? {
        Value::Null => {}
        Value::Map(root) => {
            if root.get(PEER_TLS) == Some(&Value::Null) {
                return Err(format!("invalid {PEER_TLS}"));
            }
            block(&mut settings, &mut Vec::new(), &root)?;
        }
        _ => return Err("expected a mapping of flag names to values, such as `name: m1`".to_owned()),
    }
    Ok(settings)
}

/// Sets what stands in the block at `path`, its inner blocks included. Of two keys that differ only in their letters'
/// case the later one in the order of bytes counts, as in the JSON that etcd makes of the file.
fn block(settings: &mut Settings, path: &mut Vec<&'static str>, map: &Map) -> Result<(), String> {
    for (key, value) in map {
        let Some(known) = find_key(path, key) else {
            unknown(settings, path, key, value);
            continue;
        };
        path.push(known);
        match (flag_at(path), value) {
            (_, Value::Null) => {}
            (Some(flag), value) => set(settings, flag, value, path)?,
            (None, Value::Map(inner)) => block(settings, path, inner)?,
            (None, _) => return Err(format!("invalid {}", path.join("."))),
        }
        path.pop();
    }
    Ok(())
}

/// The places of all flags that a file can set.
fn places() -> impl Iterator<Item = (&'static Flag, &'static [&'static str])> {
    FLAGS.iter().filter_map(|flag| match flag.file {
        FileKey::Same => Some((flag, std::slice::from_ref(&flag.name))),
        FileKey::In(path) => Some((flag, path)),
        FileKey::Never => None,
    })
}

/// The key or block below `path` that a key of the file means: the one of that name, or else one of equal letters.
fn find_key(path: &[&'static str], key: &str) -> Option<&'static str> {
    let here = || places().filter_map(|(_, place)| place.strip_prefix(path)?.first().copied());
    here().find(|name| *name == key).or_else(|| here().find(|name| name.eq_ignore_ascii_case(key)))
}

fn flag_at(path: &[&'static str]) -> Option<&'static Flag> {
    places().find(|(_, place)| *place == path).map(|(flag, _)| flag)
}

/// A key that etcd ignores. Names of older releases are taken where their value still means something.
fn unknown(settings: &mut Settings, path: &[&'static str], key: &str, value: &Value) {
    if *value == Value::Null {
        return;
    }
    let text = match (flag::find_old(key).filter(|_| path.is_empty()), value) {
        (Some(Old::Renamed(present)), value) => flag::find(present).and_then(|flag| scalar(flag, value).ok()),
        (Some(Old::Gate(_)), Value::Bool(value)) => Some(value.to_string()),
        _ => None,
    };
    if text.is_none_or(|text| settings.set(key, &text).is_err()) {
        let key = path.iter().copied().chain([key]).collect::<Vec<_>>().join(".");
        settings
            .notices
            .push(Notice::warn("unknown key in the configuration file - ignoring").with("key", key));
    }
}

fn set(settings: &mut Settings, flag: &Flag, value: &Value, path: &[&str]) -> Result<(), String> {
    let place = path.join(".");
    if flag.kind == Kind::List && matches!(value, Value::List(items) if items.is_empty()) {
        return Ok(());
    }
    let text = scalar(flag, value)
        .map_err(|wanted| format!("{place} must be {wanted}, not {}{}", shown(value), hint(flag, value)))?;
    // An empty text stands for "not given" wherever etcd looks whether there is one, and it looks at no stage of the
    // deprecated store.
    if text.is_empty() && flag.kind.empty_is_default() || matches!(flag.kind, Kind::AnyOf(_)) {
        return Ok(());
    }
    settings.set(flag.name, &text).map_err(|error| match error {
        SetError::BadValue { why, .. } | SetError::Gone(why) => {
            format!("unexpected error setting up {place}: {why}")
        }
        SetError::Unknown => format!("{place} is no flag"),
    })
}

/// The value as it would stand on the command line, or what kind of value is wanted instead.
fn scalar(flag: &Flag, value: &Value) -> Result<String, &'static str> {
    match (flag.kind, value) {
        (Kind::Bool, Value::Bool(value)) => Ok(value.to_string()),
        (Kind::Bool, _) => Err("true or false"),
        (Kind::Uint | Kind::Uint32 | Kind::Int, value) => whole(value).ok_or("a whole number"),
        (Kind::Duration, value) => whole(value).map(|n| format!("{n}ns")).ok_or("a number of nanoseconds"),
        (Kind::List, Value::List(items)) => {
            // A null leaves what the default has in that place.
            let mut defaults = flag.default.split(',');
            let words = items.iter().map(|item| match (item, defaults.next()) {
                (Value::Text(text), _) => Some(text.as_str()),
                (Value::Null, default) => Some(default.unwrap_or("")),
                _ => None,
            });
            words.collect::<Option<Vec<_>>>().map(|words| words.join(",")).ok_or("a list of texts")
        }
        (Kind::List, _) => Err("a list of texts"),
        (_, Value::Text(text)) => Ok(text.clone()),
        _ => Err("a text"),
    }
}

/// What to write instead of a value of the wrong kind, behind a colon; empty where its meaning is not plain.
fn hint(flag: &Flag, value: &Value) -> String {
    let instead = match (flag.kind, value) {
        (Kind::Duration, Value::Text(text)) => go::parse_duration(text).ok().map(|nanos| nanos.to_string()),
        (Kind::Uint | Kind::Uint32 | Kind::Int, Value::Text(text)) if text.parse::<i64>().is_ok() => {
            Some(text.clone())
        }
        (Kind::Bool, Value::Text(text)) if matches!(yaml::read(text.as_bytes()), Ok(Value::Bool(_))) => {
            Some(text.clone())
        }
        (Kind::List, Value::Text(text)) => Some(format!("[{text:?}]")),
        (Kind::Bool | Kind::Uint | Kind::Uint32 | Kind::Int | Kind::Duration | Kind::List, _) => None,
        (_, Value::Int(_) | Value::Float(_) | Value::Bool(_)) => Some(format!("{:?}", shown(value))),
        _ => None,
    };
    instead.map(|instead| format!(": write {instead}")).unwrap_or_default()
}

/// A number that JSON would write without a point or an exponent.
fn whole(value: &Value) -> Option<String> {
    const EXPONENT_FROM: f64 = 1e21;
    match value {
        Value::Int(value) => Some(value.to_string()),
        Value::Float(value) if value.fract() == 0.0 && value.abs() < EXPONENT_FROM => Some(value.to_string()),
        _ => None,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) => format!("{text:?}"),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a block".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        super::read(text.as_bytes())
    }

    #[test]
    fn keys_blocks_durations_and_nulls() {
        let settings = read(
            "name: m1\ndata-dir:\nsnapshot-count: 50\npre-vote: false\nwatch-progress-notify-interval: 5000000000\n\
             socket-options:\n  reuse-port: true\nlog-outputs: [stdout, stderr]\nauto-compaction-retention: '0'\n\
             client-transport-security:\n  cert-file:\n  auto-tls: false\ncors:\nfeature-gates: 'AllAlpha=false'\n",
        )
        .unwrap();
        assert_eq!((settings.text("name"), settings.uint("snapshot-count")), ("m1", 50));
        assert!(!settings.bool("pre-vote") && settings.bool("socket-reuse-port"));
        assert_eq!(settings.nanos("watch-progress-notify-interval"), 5_000_000_000);
        assert_eq!(settings.words("log-outputs"), ["stdout", "stderr"]);
        assert_eq!((settings.text("cors"), settings.text("data-dir")), ("*", ""));
        assert!(!settings.is_set("cert-file") && settings.is_set("auto-tls"));
        assert!(settings.notices.is_empty());
        assert_eq!(read("{\"name\": \"j\", \"max-wals\": 2}").unwrap().text("name"), "j");
        assert_eq!(read("").unwrap().text("name"), "default");
    }

    #[test]
    fn numbers_letters_and_repetitions_are_taken_as_go_takes_them() {
        for (text, name, value) in [
            ("quota-backend-bytes: 8.589934592e+09", "quota-backend-bytes", "8589934592"),
            ("snapshot-count: 1e3", "snapshot-count", "1000"),
            ("snapshot-count: 0x10", "snapshot-count", "16"),
            ("snapshot-count: 1\nsnapshot-count: 2", "snapshot-count", "2"),
            ("SNAPSHOT-COUNT: 7", "snapshot-count", "7"),
            ("Snapshot-Count: 6\nsnapshot-count: 5", "snapshot-count", "5"),
            ("snapshot-count: 5\nSnapshot-Count: 6", "snapshot-count", "5"),
            ("snapshot-count: 5\n---\nsnapshot-count: wrong", "snapshot-count", "5"),
            ("strict-reconfig-check: no", "strict-reconfig-check", "false"),
            ("strict-reconfig-check: on", "strict-reconfig-check", "true"),
            ("Socket-Options: {Reuse-Port: yes}", "socket-reuse-port", "true"),
            ("max-concurrent-streams: 0", "max-concurrent-streams", "0"),
            ("listen-metrics-urls: ''", "listen-metrics-urls", ""),
            ("cors: ''", "cors", "*"),
            ("host-whitelist: a,b", "host-whitelist", "a,b"),
            ("initial-cluster-state: ''", "initial-cluster-state", "new"),
            ("grpc-keepalive-timeout: 5e9", "grpc-keepalive-timeout", "5000000000ns"),
            ("log-outputs: null", "log-outputs", "default"),
        ] {
            assert_eq!(read(text).unwrap().text(name), value, "{text}");
        }
    }

    #[test]
    fn unknown_and_legacy_keys_are_ignored_and_experimental_ones_mapped() {
        let settings = read(
            "proxy: 'on'\ndiscovery-fallback: proxy\nraft-read-timeout: 1\nfoo: 1\ndebug: true\n\
             experimental-initial-corrupt-check: true\nexperimental-compaction-batch-limit: 10\n\
             experimental-corrupt-check-time: soon\nsocket-options: {reuse-porch: 1}\n",
        )
        .unwrap();
        assert_eq!(settings.int("compaction-batch-limit"), 10);
        assert_eq!(settings.gates(), "InitialCorruptCheck=true,");
        let ignored = settings.notices.iter().filter(|notice| notice.message.starts_with("unknown key"));
        assert_eq!(ignored.count(), 7);
    }

    #[test]
    fn wrong_types_say_what_is_wanted() {
        for (text, complaint) in [
            ("pre-vote: 'yes'", "pre-vote must be true or false, not \"yes\": write yes"),
            ("pre-vote: 1", "pre-vote must be true or false, not 1"),
            ("snapshot-count: lots", "snapshot-count must be a whole number, not \"lots\""),
            ("snapshot-count: '5'", "snapshot-count must be a whole number, not \"5\": write 5"),
            ("snapshot-count: ''", "snapshot-count must be a whole number, not \"\""),
            ("snapshot-count: 1.5", "snapshot-count must be a whole number, not 1.5"),
            ("snapshot-count: -5", "unexpected error setting up snapshot-count: parse error"),
            ("initial-cluster-token: 123", "initial-cluster-token must be a text, not 123: write \"123\""),
            ("auto-compaction-retention: 0", "auto-compaction-retention must be a text, not 0: write \"0\""),
            (
                "log-outputs: stderr",
                "log-outputs must be a list of texts, not \"stderr\": write [\"stderr\"]",
            ),
            (
                "grpc-keepalive-timeout: 5s",
                "grpc-keepalive-timeout must be a number of nanoseconds, not \"5s\": write 5000000000",
            ),
            ("peer-transport-security: 1", "invalid peer-transport-security"),
            ("peer-transport-security:", "invalid peer-transport-security"),
            ("socket-options: []", "invalid socket-options"),
            ("[]", "expected a mapping of flag names to values, such as `name: m1`"),
            (
                "listen-client-urls: 'localhost:1'",
                "unexpected error setting up listen-client-urls: \
                 URL scheme must be http, https, unix, or unixs: localhost:1",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), complaint);
        }
        assert!(read("name: [").is_err());
    }
}
