//! What was set, by whom, as text: the step between three sources and one [`Config`](super::Config).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::LogLevel;
use super::flag::{self, Flag, Kind, Old};
use super::go;

/// Something to log once there is a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// True for a warning, false for information.
    pub warning: bool,
    /// The line's message.
    pub message: String,
    /// Its fields.
    pub fields: Vec<(&'static str, String)>,
}

impl Notice {
    /// A warning.
    pub fn warn(message: impl Into<String>) -> Notice {
        Notice { warning: true, message: message.into(), fields: Vec::new() }
    }

    /// Information.
    pub fn info(message: impl Into<String>) -> Notice {
        Notice { warning: false, message: message.into(), fields: Vec::new() }
    }

    /// With one more field.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Notice {
        self.fields.push((name, value.into()));
        self
    }
}

/// Why a value was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetError {
    /// No flag has that name.
    Unknown,
    /// The flag exists, the value is not one of its values.
    BadValue {
        /// Whether the flag is a boolean, which Go words differently.
        is_bool: bool,
        /// What is wrong with the value.
        why: String,
    },
    /// The name is known, and what it asks for is gone.
    Gone(String),
}

/// Values by flag, checked one by one but not against each other.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, String>,
    gates: Vec<String>,
    /// Things to log, in order.
    pub notices: Vec<Notice>,
}

impl Settings {
    /// Sets a flag, present or old, to `value`. The last one wins.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SetError> {
        if let Some(flag) = flag::find(name) {
            return self.set_present(flag, value);
        }
        let old = flag::find_old(name).ok_or(SetError::Unknown)?;
        if old.is_bool() && !matches!(old, Old::Dropped(_)) {
            go::parse_bool(value).map_err(|why| SetError::BadValue { is_bool: true, why: why.to_owned() })?;
        }
        match old {
            Old::Renamed(present) => {
                self.notices.push(Notice::warn(format!("--{name} is deprecated; use --{present}")));
                self.set(present, value)
            }
            Old::Gate(gate) => {
                self.notices
                    .push(Notice::warn(format!("--{name} is deprecated; use --feature-gates={gate}=...")));
                self.gates.push(format!("{gate}={value}"));
                Ok(())
            }
            Old::Debug => {
                self.notices.push(Notice::warn("--debug is deprecated; use --log-level=debug"));
                if go::parse_bool(value) == Ok(true) { self.set("log-level", "debug") } else { Ok(()) }
            }
            Old::Gone(harmless) if !harmless.contains(&value) => Err(SetError::Gone(format!(
                "--{name}={value} asks for something etcd removed; Kevel never had it"
            ))),
            Old::Gone(_) | Old::Dropped(_) => {
                let message = format!("flag is no longer supported - ignoring: --{name}");
                self.notices.push(Notice::warn(message).with("value", value));
                Ok(())
            }
        }
    }

    fn set_present(&mut self, flag: &'static Flag, value: &str) -> Result<(), SetError> {
        let is_bool = flag.kind == Kind::Bool;
        flag.kind.check(value).map_err(|why| SetError::BadValue { is_bool, why })?;
        self.values.insert(flag.name, value.to_owned());
        Ok(())
    }

    /// Whether a flag was set, be it to its default.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The value of a flag as text: what was set, or the default. An empty list of URLs leaves the default.
    pub fn text(&self, name: &str) -> &str {
        let flag = flag::find(name).unwrap_or_else(|| panic!("the table of flags has no --{name}"));
        match self.values.get(name) {
            Some(value) if !(flag.kind == Kind::Urls && value.is_empty()) => value,
            _ => flag.default,
        }
    }

    /// The value of a boolean.
    pub fn bool(&self, name: &str) -> bool {
        go::parse_bool(self.text(name)).expect("values are checked when they are set")
    }

    /// The value of an unsigned number.
    pub fn uint(&self, name: &str) -> u64 {
        go::parse_uint(self.text(name)).expect("values are checked when they are set")
    }

    /// The value of a signed number.
    pub fn int(&self, name: &str) -> i64 {
        go::parse_int(self.text(name)).expect("values are checked when they are set")
    }

    /// The value of a duration in nanoseconds.
    pub fn nanos(&self, name: &str) -> i64 {
        go::parse_duration(self.text(name)).expect("values are checked when they are set")
    }

    /// The words of a list; one empty word when the value is empty, as in Go.
    pub fn words(&self, name: &str) -> Vec<&str> {
        self.text(name).split(',').collect()
    }

    /// All feature gates, those of old flags first.
    pub fn gates(&self) -> String {
        let mut all = self.gates.clone();
        all.push(self.text("feature-gates").to_owned());
        all.join(",")
    }

    /// Whether the flag means anything other than its default.
    pub fn differs(&self, flag: &Flag) -> bool {
        let value = self.text(flag.name);
        match flag.kind {
            Kind::Bool => go::parse_bool(value) != go::parse_bool(flag.default),
            Kind::Uint | Kind::Uint32 => go::parse_uint(value) != go::parse_uint(flag.default),
            Kind::Int => go::parse_int(value) != go::parse_int(flag.default),
            Kind::Duration => go::parse_duration(value) != go::parse_duration(flag.default),
            Kind::Level => LogLevel::parse(value) != LogLevel::parse(flag.default),
            _ => value != flag.default,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_wins_and_defaults_stand_for_the_rest() {
        let mut settings = Settings::default();
        settings.set("name", "a").unwrap();
        settings.set("name", "b").unwrap();
        assert_eq!((settings.text("name"), settings.uint("max-txn-ops")), ("b", 128));
        settings.set("listen-peer-urls", "").unwrap();
        assert_eq!(settings.text("listen-peer-urls"), "http://localhost:2380");
    }

    #[test]
    fn old_names_are_mapped_dropped_or_refused() {
        let mut settings = Settings::default();
        settings.set("experimental-watch-progress-notify-interval", "5s").unwrap();
        settings.set("experimental-initial-corrupt-check", "true").unwrap();
        settings.set("debug", "true").unwrap();
        settings.set("enable-v2", "true").unwrap();
        settings.set("proxy", "off").unwrap();
        assert_eq!(settings.nanos("watch-progress-notify-interval"), 5_000_000_000);
        assert_eq!(settings.gates(), "InitialCorruptCheck=true,");
        assert_eq!(settings.text("log-level"), "debug");
        assert_eq!(settings.notices.len(), 5);
        assert!(matches!(settings.set("proxy", "on"), Err(SetError::Gone(_))));
        assert!(matches!(settings.set("debug", "maybe"), Err(SetError::BadValue { .. })));
        assert_eq!(settings.set("foo", "1"), Err(SetError::Unknown));
    }

    #[test]
    fn a_default_in_other_words_is_the_default() {
        let mut settings = Settings::default();
        for (name, value) in [("compact-hash-check-time", "60s"), ("max-wals", "0x5"), ("pre-vote", "T")] {
            settings.set(name, value).unwrap();
            assert!(!settings.differs(flag::find(name).unwrap()), "{name}");
        }
        settings.set("max-wals", "6").unwrap();
        assert!(settings.differs(flag::find("max-wals").unwrap()));
    }
}
