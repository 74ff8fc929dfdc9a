//! One line: put together field by field, written once.
#![forbid(unsafe_code)]

use std::fmt::{Debug, Display, Write};
use std::panic::Location;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{FLUSH_PATIENCE, LOG};
use crate::config::{LogLevel, go};

/// A line being put together. Nothing is logged until [`Line::write`].
#[must_use = "a line is logged by write()"]
pub struct Line {
    level: LogLevel,
    message: String,
    logger: Option<&'static str>,
    caller: String,
    /// JSON of the fields, each with a comma in front.
    fields: String,
}

impl Line {
    /// A line of this level, called from here.
    #[track_caller]
    pub fn new(level: LogLevel, message: impl Into<String>) -> Line {
        let place = Location::caller();
        Line::at(level, message, place.file(), place.line())
    }

    /// A line that comes from a given place in the source.
    pub fn at(level: LogLevel, message: impl Into<String>, file: &str, number: u32) -> Line {
        let from = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
        let caller = format!("{}:{number}", &file[from..]);
        Line { level, message: message.into(), logger: None, caller, fields: String::new() }
    }

    /// An information.
    #[track_caller]
    pub fn info(message: impl Into<String>) -> Line {
        Line::new(LogLevel::Info, message)
    }

    /// A warning.
    #[track_caller]
    pub fn warn(message: impl Into<String>) -> Line {
        Line::new(LogLevel::Warn, message)
    }

    /// Under the name of a part that logs for itself, such as `raft`.
    pub fn logger(mut self, name: &'static str) -> Line {
        self.logger = Some(name);
        self
    }

    /// A field with a text.
    pub fn text(mut self, name: &str, value: impl AsRef<str>) -> Line {
        self.key(name);
        push_json(&mut self.fields, value.as_ref());
        self
    }

    /// A field with a text made by `Debug`.
    pub fn debug(self, name: &str, value: &dyn Debug) -> Line {
        self.text(name, format!("{value:?}"))
    }

    /// A field with a number or a boolean.
    pub fn value(mut self, name: &str, value: impl Display) -> Line {
        self.key(name);
        let _ = write!(self.fields, "{value}");
        self
    }

    /// A field with a number that JSON may not be able to hold.
    pub fn float(self, name: &str, value: f64) -> Line {
        if value.is_finite() { self.value(name, value) } else { self.text(name, value.to_string()) }
    }

    /// A field with a list of texts.
    pub fn texts<T: AsRef<str>>(mut self, name: &str, values: impl IntoIterator<Item = T>) -> Line {
        self.key(name);
        self.fields.push('[');
        for (at, value) in values.into_iter().enumerate() {
            if at > 0 {
                self.fields.push(',');
            }
            push_json(&mut self.fields, value.as_ref());
        }
        self.fields.push(']');
        self
    }

    /// A field with a duration, as `1.5s`.
    pub fn duration(self, name: &str, value: Duration) -> Line {
        self.text(name, go::format_duration(value))
    }

    /// A field with a time, as the line's own.
    pub fn time(mut self, name: &str, value: SystemTime) -> Line {
        self.key(name);
        self.fields.push('"');
        push_time(&mut self.fields, value);
        self.fields.push('"');
        self
    }

    /// A field with the id of a member or a cluster.
    pub fn id(self, name: &str, value: u64) -> Line {
        self.text(name, format!("{value:x}"))
    }

    fn key(&mut self, name: &str) {
        self.fields.push(',');
        push_json(&mut self.fields, name);
        self.fields.push(':');
    }

    /// Logs it. Panic and fatal lines are written before this returns.
    pub fn write(self) {
        let Some(log) = LOG.get() else {
            // Before the log is open, or in a test: standard error, as it would be.
            eprint!("{}", self.render(SystemTime::now(), false));
            return;
        };
        let last_words = self.level >= LogLevel::Panic;
        let now = SystemTime::now();
        if self.level < log.level || !(last_words || log.sampler.admit(self.level, &self.message, now)) {
            return;
        }
        log.sink.push(self.render(now, log.console));
        if last_words {
            log.sink.flush(FLUSH_PATIENCE);
        }
    }

    /// The line as it is written, with its end.
    pub(super) fn render(&self, now: SystemTime, console: bool) -> String {
        let mut out = String::with_capacity(128 + self.message.len() + self.fields.len());
        if console {
            push_time(&mut out, now);
            let _ = write!(out, "\t{}\t", self.level.as_str());
            if let Some(logger) = self.logger {
                let _ = write!(out, "{logger}\t");
            }
            // A message must not break out of its line.
            let message = self.message.replace('\n', "\\n");
            let _ = write!(out, "{}\t{message}", self.caller);
            if let Some(fields) = self.fields.strip_prefix(',') {
                let _ = write!(out, "\t{{{fields}}}");
            }
        } else {
            let _ = write!(out, "{{\"level\":\"{}\",\"ts\":\"", self.level.as_str());
            push_time(&mut out, now);
            out.push('"');
            if let Some(logger) = self.logger {
                let _ = write!(out, ",\"logger\":\"{logger}\"");
            }
            out.push_str(",\"caller\":");
            push_json(&mut out, &self.caller);
            out.push_str(",\"msg\":");
            push_json(&mut out, &self.message);
            out.push_str(&self.fields);
            out.push('}');
        }
        out.push('\n');
        out
    }
}

/// UTC with microseconds.
fn push_time(out: &mut String, now: SystemTime) {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = time::OffsetDateTime::from_unix_timestamp(since.as_secs() as i64)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let _ = write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        since.subsec_micros()
    );
}

/// A text in JSON's quotes.
fn push_json(out: &mut String, text: &str) {
    out.push('"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain..at]);
        plain = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => {
                let _ = write!(out, "\\u{byte:04x}");
            }
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}
