//! What a process used: CPU, memory and bytes written, as /proc tells.
#![forbid(unsafe_code)]

use std::fs;
use std::time::Duration;

/// The unit of CPU times in /proc: USER_HZ is 100 on every Linux that glommio runs on.
const TICK: Duration = Duration::from_millis(10);

/// A look at a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// User and system time of all its threads since its start.
    pub cpu: Duration,
    /// Resident bytes.
    pub rss: u64,
    /// Of these, bytes that no file backs.
    pub rss_anon: u64,
    /// Bytes it has caused to be written to storage; zero when we may not look.
    pub written: u64,
}

/// What a process used while it was watched.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    pub pid: u32,
    pub start: Sample,
    pub end: Sample,
    pub rss_peak: u64,
    pub rss_anon_peak: u64,
}

impl Use {
    /// Begins to watch.
    pub fn begin(pid: u32) -> Option<Self> {
        let start = sample(pid)?;
        Some(Self { pid, start, end: start, rss_peak: start.rss, rss_anon_peak: start.rss_anon })
    }

    /// Looks again. A process that is gone keeps its last figures.
    pub fn look(&mut self) {
        if let Some(now) = sample(self.pid) {
            self.end = now;
            self.rss_peak = self.rss_peak.max(now.rss);
            self.rss_anon_peak = self.rss_anon_peak.max(now.rss_anon);
        }
    }

    /// CPU time used while it was watched.
    pub fn cpu(&self) -> Duration {
        self.end.cpu.saturating_sub(self.start.cpu)
    }

    /// Bytes written while it was watched.
    pub fn written(&self) -> u64 {
        self.end.written.saturating_sub(self.start.written)
    }
}

/// A look at a process; None when it is not there.
pub fn sample(pid: u32) -> Option<Sample> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    Some(Sample {
        cpu: cpu(&stat)?,
        rss: kib(&status, "VmRSS:"),
        rss_anon: kib(&status, "RssAnon:"),
        written: number(&io, "write_bytes:"),
    })
}

/// Fields 14 and 15 of a stat line, counted from behind the command's name, which may hold anything.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * (user + system))
}

fn kib(text: &str, name: &str) -> u64 {
    number(text, name) * 1024
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        assert_eq!(cpu(stat), Some(Duration::from_secs(2)));
    }

    #[test]
    fn we_have_memory() {
        let own = sample(std::process::id()).expect("we are there");
        assert!(own.rss >= own.rss_anon && own.rss_anon > 0);
        assert!(sample(0).is_none());
    }
}
