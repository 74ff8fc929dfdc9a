//! The command line and the environment, as Go's `flag` package and etcd read them.
#![forbid(unsafe_code)]

use super::flag::{self, Group, Kind, env_name};
use super::settings::{Notice, SetError, Settings};

/// What the command line amounted to.
#[derive(Debug, Default)]
pub struct CommandLine {
    /// The values it set.
    pub settings: Settings,
    /// `-h` or `--help` was met.
    pub help: bool,
    /// The words after the last flag.
    pub rest: Vec<String>,
    /// Names that were given, old ones included.
    given: Vec<String>,
}

/// Reads the words behind the program's name: `-f`, `--f`, `--f=v`, `--f v`; booleans take a value only behind `=`.
/// `--` or the first word without a dash ends the flags. The error is Go's message.
pub fn read_line(args: &[String]) -> Result<CommandLine, String> {
    let mut line = CommandLine::default();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let Some(body) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|_| word != "-")
        else {
            line.rest = std::iter::once(word).chain(words).cloned().collect();
            break;
        };
        if word == "--" {
            line.rest = words.cloned().collect();
            break;
        }
        if body.is_empty() || body.starts_with(['-', '=']) {
            return Err(format!("bad flag syntax: {word}"));
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let present = flag::find(name).map(|flag| flag.kind == Kind::Bool);
        let Some(is_bool) = present.or_else(|| flag::find_old(name).map(|old| old.is_bool())) else {
            if matches!(name, "h" | "help") {
                line.help = true;
                return Ok(line);
            }
            return Err(format!("flag provided but not defined: -{name}"));
        };
        let value = match value {
            Some(value) => value,
            None if is_bool => "true",
            None => words.next().ok_or_else(|| format!("flag needs an argument: -{name}"))?,
        };
        line.settings.set(name, value).map_err(|error| match error {
            SetError::BadValue { is_bool: true, why } => {
                format!("invalid boolean value {value:?} for -{name}: {why}")
            }
            SetError::BadValue { is_bool: false, why } => {
                format!("invalid value {value:?} for flag -{name}: {why}")
            }
            SetError::Gone(why) => why,
            SetError::Unknown => format!("flag provided but not defined: -{name}"),
        })?;
        line.given.push(name.to_owned());
    }
    Ok(line)
}

/// Why the variables of the environment cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum EnvError {
    /// This variable repeats a flag of the command line: etcd ends with a fatal log line that names it.
    Shadowed(String),
    /// Not a value of its flag.
    BadValue(String),
    /// Not a level of the log. etcd ends with the status of a command line that cannot be read.
    BadLevel(String),
}

impl CommandLine {
    /// Adds the `ETCD_*` variables to what the command line set. A flag and its variable exclude each other, even
    /// when the variable is empty; variables that belong to no flag only warn.
    pub fn add_env(&mut self, env: &[(String, String)]) -> Result<(), EnvError> {
        let given: Vec<String> = self.given.iter().map(|name| env_name(name)).collect();
        let (mut bad, mut bad_level) = (None, None);
        let mut ours: Vec<&(String, String)> =
            env.iter().filter(|(key, _)| key.starts_with("ETCD_")).collect();
        ours.sort();
        for (key, value) in ours {
            let name = key["ETCD_".len()..].to_ascii_lowercase().replace('_', "-");
            // etcd's variables are those of etcd's flags.
            if flag::find(&name).is_some_and(|flag| flag.group == Group::Kevel) {
                self.unrecognized(key, value);
                continue;
            }
            if given.contains(key) {
                return Err(EnvError::Shadowed(key.clone()));
            }
            if key == "ETCD_VERSION" {
                let notice = Notice::warn("cannot set special environment variable");
                self.settings.notices.push(notice.with("key", key).with("value", value));
                continue;
            }
            if env_name(&name) != *key || flag::find(&name).is_none() && flag::find_old(&name).is_none() {
                self.unrecognized(key, value);
                continue;
            }
            if value.is_empty() {
                continue;
            }
            match self.settings.set(&name, value) {
                Ok(()) => {
                    let notice = Notice::info("recognized and used environment variable");
                    self.settings
                        .notices
                        .push(notice.with("variable-name", key).with("variable-value", value));
                }
                // etcd does not know the variables of flags that it once had.
                Err(_) if flag::find(&name).is_none() => self.unrecognized(key, value),
                Err(SetError::BadValue { why, .. } | SetError::Gone(why)) => {
                    let is_level = flag::find(&name).is_some_and(|flag| flag.kind == Kind::Level);
                    let bad = if is_level { &mut bad_level } else { &mut bad };
                    bad.get_or_insert(format!("invalid value {value:?} for {key}: {why}"));
                }
                Err(SetError::Unknown) => self.unrecognized(key, value),
            }
        }
        let error = bad.map(EnvError::BadValue).or(bad_level.map(EnvError::BadLevel));
        error.map_or(Ok(()), Err)
    }

    fn unrecognized(&mut self, key: &str, value: &str) {
        let notice = Notice::warn("unrecognized environment variable");
        self.settings.notices.push(notice.with("environment-variable", format!("{key}={value}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<CommandLine, String> {
        read_line(&words.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn all_forms_of_go() {
        for words in ["--name=x", "-name=x", "--name x", "-name x"] {
            assert_eq!(read(words).unwrap().settings.text("name"), "x", "{words}");
        }
        assert!(!read("--pre-vote=false").unwrap().settings.bool("pre-vote"));
        assert!(read("--unsafe-no-fsync").unwrap().settings.bool("unsafe-no-fsync"));
        assert_eq!(read("--name=a=b --name=").unwrap().settings.text("name"), "");
        assert_eq!(read("--name --x").unwrap().settings.text("name"), "--x");
        assert_eq!(read("--pre-vote false --name=x").unwrap().rest, ["false", "--name=x"]);
        assert_eq!(read("--name=x -- --pre-vote").unwrap().rest, ["--pre-vote"]);
        assert_eq!(read("- --pre-vote").unwrap().rest, ["-", "--pre-vote"]);
        assert!(read("--name x -h --foo").unwrap().help && read("--help").unwrap().help);
    }

    #[test]
    fn complaints_are_gos() {
        for (words, complaint) in [
            ("--foo", "flag provided but not defined: -foo"),
            ("-foo=1", "flag provided but not defined: -foo"),
            ("--name", "flag needs an argument: -name"),
            ("---name", "bad flag syntax: ---name"),
            ("-=x", "bad flag syntax: -=x"),
            ("--snapshot-count=abc", "invalid value \"abc\" for flag -snapshot-count: parse error"),
            ("--pre-vote=maybe", "invalid boolean value \"maybe\" for -pre-vote: parse error"),
            (
                "--grpc-keepalive-timeout=5",
                "invalid value \"5\" for flag -grpc-keepalive-timeout: parse error",
            ),
            (
                "--max-concurrent-streams=x",
                "invalid value \"x\" for flag -max-concurrent-streams: strconv.ParseUint: parsing \"x\": \
                 invalid syntax",
            ),
            (
                "--listen-peer-urls=a:1",
                "invalid value \"a:1\" for flag -listen-peer-urls: URL scheme must be http, https, unix, or unixs: a:1",
            ),
            (
                "--feature-gates=Foo=true",
                "invalid value \"Foo=true\" for flag -feature-gates: unrecognized feature gate: Foo",
            ),
        ] {
            assert_eq!(read(words).unwrap_err(), complaint);
        }
        let state = read("--initial-cluster-state=old").unwrap_err();
        assert!(
            state.starts_with("invalid value \"old\" for flag -initial-cluster-state: invalid value"),
            "{state}"
        );
        assert!(state.contains("new, existing"), "says what is allowed: {state}");
    }

    fn with_env(words: &str, env: &[(&str, &str)]) -> (CommandLine, Result<(), EnvError>) {
        let mut line = read(words).unwrap();
        let env: Vec<_> = env.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let result = line.add_env(&env);
        (line, result)
    }

    #[test]
    fn variables_fill_in_and_must_not_contradict() {
        let (line, result) =
            with_env("--name=x", &[("ETCD_MAX_WALS", "7"), ("HOME", "/"), ("ETCD_VERIFY", "all")]);
        assert_eq!((result, line.settings.uint("max-wals")), (Ok(()), 7));
        let messages: Vec<_> = line.settings.notices.iter().map(|notice| notice.message.as_str()).collect();
        assert_eq!(
            messages,
            ["recognized and used environment variable", "unrecognized environment variable"]
        );

        for value in ["y", ""] {
            let (_, result) = with_env("--name=x", &[("ETCD_NAME", value), ("ETCD_MAX_WALS", "bad")]);
            assert_eq!(result, Err(EnvError::Shadowed("ETCD_NAME".to_owned())));
        }
        let (_, result) = with_env("", &[("ETCD_HEARTBEAT_INTERVAL", "abc")]);
        let complaint = "invalid value \"abc\" for ETCD_HEARTBEAT_INTERVAL: parse error".to_owned();
        assert_eq!(result, Err(EnvError::BadValue(complaint)));
        let (_, result) = with_env("", &[("ETCD_LOG_LEVEL", "x")]);
        assert!(matches!(result, Err(EnvError::BadLevel(_))), "{result:?}");
        let (_, result) = with_env("", &[("ETCD_LOG_LEVEL", "x"), ("ETCD_MAX_WALS", "x")]);
        assert!(matches!(result, Err(EnvError::BadValue(_))), "{result:?}");
        let (line, _) =
            with_env("", &[("ETCD_VERSION", "9"), ("ETCD_EXPERIMENTAL_CORRUPT_CHECK_TIME", "1s")]);
        assert_eq!(line.settings.nanos("corrupt-check-time"), 1_000_000_000);
        assert!(!line.settings.bool("version"));
    }

    #[test]
    fn variables_that_etcd_does_not_know_only_warn() {
        for (key, value) in [
            ("ETCD_DEBUG", "no"),
            ("ETCD_DISCOVERY", "https://x"),
            ("ETCD_PROXY", "readonly"),
            ("ETCD_EXPERIMENTAL_INITIAL_CORRUPT_CHECK", "maybe"),
            ("ETCD_EXPERIMENTAL_CORRUPT_CHECK_TIME", "soon"),
            ("ETCD_snapshot_count", "5"),
            ("ETCD_SNAPSHOT-COUNT", "5"),
            ("ETCD_", "5"),
            ("ETCD_CORES", "x"),
            ("ETCD_CORES", "1"),
        ] {
            let (line, result) = with_env("", &[(key, value)]);
            assert_eq!(result, Ok(()), "{key}");
            let said = line.settings.notices.last().map(|notice| (notice.warning, notice.message.as_str()));
            assert_eq!(said, Some((true, "unrecognized environment variable")), "{key}");
            assert_eq!(line.settings.uint("snapshot-count"), 10_000);
        }
    }
}
