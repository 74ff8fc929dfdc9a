//! `--log-level`, `--log-outputs` and `--log-format`: which log lines are written, where and how.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::settings::Settings;
use super::url::unescape;

/// Where log lines go, how they look and which are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `stderr`, `stdout`, or files; none of them twice. Empty when all lines are dropped.
    pub outputs: Vec<LogOutput>,
    /// The lowest level that is written.
    pub level: LogLevel,
    /// Tab separated for eyes instead of JSON.
    pub console: bool,
}

/// One place for log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// Levels, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// For developers.
    Debug,
    /// The course of things.
    Info,
    /// An operator may want to look.
    Warn,
    /// Something failed.
    Error,
    /// The process ends: a law of ours was broken.
    Panic,
    /// The process ends: it cannot go on.
    Fatal,
}

impl LogLevel {
    /// The level that a word of `--log-level` names, as zap reads it: in small letters or capitals, `warning` beside
    /// `warn`, nothing for `info`, and `dpanic`, a level above `error` at which nothing is written here.
    pub fn parse(text: &str) -> Option<LogLevel> {
        Some(match text.to_ascii_lowercase().as_str() {
            "debug" => LogLevel::Debug,
            "info" | "" => LogLevel::Info,
            "warn" | "warning" => LogLevel::Warn,
            "error" => LogLevel::Error,
            "dpanic" | "panic" => LogLevel::Panic,
            "fatal" => LogLevel::Fatal,
            _ => return None,
        })
    }

    /// The word in the line.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
            LogLevel::Panic => "panic",
            LogLevel::Fatal => "fatal",
        }
    }
}

/// The word for standard error that cannot stand beside other outputs.
const DEFAULT_OUTPUT: &str = "default";
/// The file beside which every other output is dropped.
const NULL_OUTPUT: &str = "/dev/null";

/// What the flags about the log mean together.
pub(super) fn log(settings: &Settings) -> Result<LogConfig, String> {
    match settings.text("logger") {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5".to_owned()),
        other => return Err(format!("unknown logger option {other:?}")),
    }
    let console = match settings.text("log-format") {
        "json" | "" => false,
        "console" => true,
        other => return Err(format!("unknown log format: {other}, supported values json, console")),
    };
    let level = settings.text("log-level");
    let level = LogLevel::parse(level).ok_or_else(|| format!("unrecognized level: {level:?}"))?;
    Ok(LogConfig { outputs: outputs(settings)?, level, console })
}

fn outputs(settings: &Settings) -> Result<Vec<LogOutput>, String> {
    let names = settings.words("log-outputs");
    if names.contains(&DEFAULT_OUTPUT) && names.iter().any(|name| *name != DEFAULT_OUTPUT) {
        return Err(format!("multi logoutput for {DEFAULT_OUTPUT:?} is not supported yet"));
    }
    if names.contains(&NULL_OUTPUT) {
        return Ok(Vec::new());
    }
    let mut outputs = Vec::new();
    for name in names {
        let output = output(name)?;
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    Ok(outputs)
}

/// One output as zap opens it: a word, the path of a file, or a URL of the scheme `file`.
fn output(name: &str) -> Result<LogOutput, String> {
    match name {
        "default" | "stderr" => return Ok(LogOutput::Stderr),
        "stdout" => return Ok(LogOutput::Stdout),
        "" => return Err("--log-outputs names an empty path".to_owned()),
        "systemd/journal" => {
            return Err("--log-outputs=systemd/journal is not built yet: it needs journald's protocol; under systemd \
                        stderr reaches the journal too"
                .to_owned());
        }
        _ => {}
    }
    if name.starts_with('/') {
        return Ok(LogOutput::File(PathBuf::from(name)));
    }
    let scheme = name.split_once(':').map(|(scheme, _)| scheme);
    match scheme.filter(|scheme| is_scheme(scheme)).map(str::to_ascii_lowercase).as_deref() {
        None => Ok(LogOutput::File(PathBuf::from(name))),
        Some("file") => file_url(name).map(|path| LogOutput::File(PathBuf::from(path))),
        Some(scheme) => Err(format!("couldn't open sink {name:?}: no sink found for scheme {scheme:?}")),
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// The path that a URL of the scheme `file` leads to.
fn file_url(url: &str) -> Result<String, String> {
    let refused = |why: &str| Err(format!("couldn't open sink {url:?}: {why}: got {url}"));
    let rest = url.split_once(':').map_or("", |(_, rest)| rest);
    let rest = match rest.strip_prefix("//") {
        Some(rest) => rest,
        None if rest.starts_with('/') => rest,
        None => return refused("file URLs must hold an absolute path"),
    };
    if rest.contains('#') {
        return refused("fragments not allowed with file URLs");
    }
    if rest.contains('?') {
        return refused("query parameters not allowed with file URLs");
    }
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if host.contains('@') {
        return refused("user and password not allowed with file URLs");
    }
    if host.contains(':') {
        return refused("ports not allowed with file URLs");
    }
    if !matches!(host, "" | "localhost") {
        return refused("file URLs must leave host empty or use localhost");
    }
    match unescape(path).and_then(|path| String::from_utf8(path).ok()) {
        Some(path) if !path.is_empty() => Ok(path),
        _ => refused("file URLs must hold an absolute path"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(flags: &[(&str, &str)]) -> Result<LogConfig, String> {
        let mut settings = Settings::default();
        flags.iter().for_each(|(name, value)| settings.set(name, value).unwrap());
        log(&settings)
    }

    #[test]
    fn levels_are_zaps() {
        for (text, level) in [
            ("INFO", LogLevel::Info),
            ("", LogLevel::Info),
            ("Warning", LogLevel::Warn),
            ("warning", LogLevel::Warn),
            ("WARN", LogLevel::Warn),
            ("dpanic", LogLevel::Panic),
            ("Fatal", LogLevel::Fatal),
        ] {
            assert_eq!(log_of(&[("log-level", text)]).unwrap().level, level, "{text}");
        }
        assert_eq!(LogLevel::parse("trace"), None);
        assert_eq!(LogLevel::parse(" info"), None);
    }

    #[test]
    fn outputs_are_words_paths_and_urls() {
        let file = |path: &str| LogOutput::File(PathBuf::from(path));
        for (text, outputs) in [
            ("default", vec![LogOutput::Stderr]),
            ("stdout,/tmp/l,stdout", vec![LogOutput::Stdout, file("/tmp/l")]),
            ("file:///tmp/a%20b", vec![file("/tmp/a b")]),
            ("FILE://localhost/tmp/a", vec![file("/tmp/a")]),
            ("file:/tmp/a", vec![file("/tmp/a")]),
            ("default,default", vec![LogOutput::Stderr]),
            ("logs/etcd", vec![file("logs/etcd")]),
            ("stderr,/dev/null", vec![]),
        ] {
            assert_eq!(log_of(&[("log-outputs", text)]).unwrap().outputs, outputs, "{text}");
        }
        for (text, complaint) in [
            ("", "--log-outputs names an empty path"),
            ("default,stdout", "multi logoutput for \"default\" is not supported yet"),
            ("x:y", "couldn't open sink \"x:y\": no sink found for scheme \"x\""),
            (
                "file://h/a",
                "couldn't open sink \"file://h/a\": file URLs must leave host empty or use localhost: got file://h/a",
            ),
            (
                "file:///a?x",
                "couldn't open sink \"file:///a?x\": query parameters not allowed with file URLs: got file:///a?x",
            ),
            ("file:a", "couldn't open sink \"file:a\": file URLs must hold an absolute path: got file:a"),
            (
                "file:///%zz",
                "couldn't open sink \"file:///%zz\": file URLs must hold an absolute path: got file:///%zz",
            ),
        ] {
            assert_eq!(log_of(&[("log-outputs", text)]).unwrap_err(), complaint);
        }
        let journal = log_of(&[("log-outputs", "systemd/journal")]).unwrap_err();
        assert!(journal.contains("not built yet"), "{journal}");
    }
}
