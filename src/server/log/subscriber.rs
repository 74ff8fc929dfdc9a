//! `tracing` events as lines.
//!
//! Spans are not kept: nothing here uses them, and one per request would cost more than the request. Events of
//! libraries pass from level info up; some write dozens of debug events per request.
#![forbid(unsafe_code)]

use std::fmt::Debug;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata};

use super::line::Line;
use crate::config::LogLevel;

/// Turns events into lines.
pub struct Subscriber {
    level: LogLevel,
}

impl Subscriber {
    /// Passes this level and those above.
    pub fn new(level: LogLevel) -> Subscriber {
        Subscriber { level }
    }

    fn passes(&self, metadata: &Metadata<'_>) -> bool {
        let level = level(metadata.level());
        let own = metadata.target().starts_with("kevel") || logger(metadata).is_some();
        metadata.is_event() && level >= self.level && (own || level >= LogLevel::Info)
    }
}

fn level(level: &Level) -> LogLevel {
    match *level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        _ => LogLevel::Debug,
    }
}

/// Parts that log under a name of their own, by `target:`.
fn logger(metadata: &Metadata<'_>) -> Option<&'static str> {
    match metadata.target() {
        "raft" => Some("raft"),
        _ => None,
    }
}

impl tracing::Subscriber for Subscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.passes(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.passes(metadata)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        line_of(event).write();
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The line an event makes.
pub(super) fn line_of(event: &Event<'_>) -> Line {
    let metadata = event.metadata();
    let mut message = Message(String::new());
    event.record(&mut message);
    let (file, number) = (metadata.file().unwrap_or(metadata.target()), metadata.line().unwrap_or(0));
    let mut line = Line::at(level(metadata.level()), message.0, file, number);
    if let Some(name) = logger(metadata) {
        line = line.logger(name);
    }
    let mut fields = Fields(Some(line));
    event.record(&mut fields);
    fields.0.expect("every field gives the line back")
}

const MESSAGE: &str = "message";

/// Finds the message among the fields.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == MESSAGE {
            self.0 = format!("{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            self.0 = value.to_owned();
        }
    }
}

/// Adds the others to the line.
struct Fields(Option<Line>);

impl Fields {
    fn add(&mut self, field: &Field, add: impl FnOnce(Line, &str) -> Line) {
        if field.name() != MESSAGE {
            self.0 = self.0.take().map(|line| add(line, field.name()));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, |line, name| line.debug(name, value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, |line, name| line.text(name, value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, |line, name| line.value(name, value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, |line, name| line.value(name, value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, |line, name| line.value(name, value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, |line, name| line.float(name, value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, |line, name| line.text(name, value.to_string()));
    }
}
