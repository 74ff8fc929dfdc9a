//! The table.
#![forbid(unsafe_code)]

use std::fmt::Write;

use kevel::server::grpc::Code;

use super::QUANTILES;
use crate::phase::Outcome;
use crate::process::Use;
use crate::record::Class;

/// A phase as text.
pub fn table(outcome: &Outcome) -> String {
    let mut text = String::new();
    let seconds = outcome.elapsed.as_secs_f64();
    let (done, failed) = (outcome.record.successes(), outcome.record.failures());
    let mut put = |line: String| text.push_str(&(line + "\n"));
    put(format!(
        "{}: {done} operations in {seconds:.2} s, {failed} errors, {} connections{}",
        outcome.name,
        outcome.connections,
        if outcome.interrupted { ", interrupted" } else { "" },
    ));
    put(header());
    outcome
        .record
        .classes
        .iter()
        .filter(|class| !class.latency.is_empty())
        .for_each(|class| put(row(class, seconds)));
    for (code, (count, sample)) in &outcome.record.errors {
        put(format!("  error {}: {count} times, at first {sample:?}", Code::ALL[usize::from(*code)].label()));
    }
    if outcome.events_missing > 0 {
        put(format!("  {} events never came", outcome.events_missing));
    }
    if outcome.breaks > 0 {
        put(format!("  connections broke {} times", outcome.breaks));
    }
    if outcome.record.unsent > 0 {
        put(format!(
            "  {} operations were due and never sent: the rate is more than server or clients can do",
            outcome.record.unsent
        ));
    }
    if !outcome.record.lag.is_empty() {
        let late = |quantile| millis(outcome.record.lag.value_at_quantile(quantile));
        put(format!(
            "  sent later than planned (ms): p50 {}, p99 {}, max {}",
            late(0.5),
            late(0.99),
            late(1.0)
        ));
    }
    outcome.servers.iter().for_each(|server| put(usage("server", server, outcome, done)));
    outcome.client.iter().for_each(|client| put(usage("client", client, outcome, done)));
    text
}

fn header() -> String {
    let mut line = format!("  {:<16} {:>10} {:>10} {:>9} {:>9}", "", "ops", "ops/s", "MB/s in", "mean ms");
    QUANTILES.iter().for_each(|(_, name)| write!(line, " {name:>9}").expect("a string"));
    write!(line, " {:>9}", "max").expect("a string");
    line
}

fn row(class: &Class, seconds: f64) -> String {
    let latency = &class.latency;
    let per_second = |number: u64| if seconds > 0.0 { number as f64 / seconds } else { 0.0 };
    let mut line = format!(
        "  {:<16} {:>10} {:>10.1} {:>9.2} {:>9}",
        class.name,
        latency.len(),
        per_second(latency.len()),
        per_second(class.bytes) / 1e6,
        millis(latency.mean() as u64),
    );
    for (quantile, _) in QUANTILES {
        write!(line, " {:>9}", millis(latency.value_at_quantile(quantile))).expect("a string");
    }
    write!(line, " {:>9}", millis(latency.max())).expect("a string");
    if class.keys != latency.len() && class.keys > 0 {
        write!(line, "  {:.0} keys/s", per_second(class.keys)).expect("a string");
    }
    line
}

fn usage(who: &str, process: &Use, outcome: &Outcome, operations: u64) -> String {
    let cpu = process.cpu().as_secs_f64();
    let wall = outcome.elapsed.as_secs_f64().max(1e-9);
    let each = cpu * 1e6 / operations.max(1) as f64;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "  {who} {}: cpu {cpu:.2} s = {:.0}% of a core, {each:.1} us/op; rss {:.1} -> {:.1} MiB, peak {:.1}; \
         anon {:.1} -> {:.1}, peak {:.1}; written {:.1} MiB",
        process.pid,
        cpu * 100.0 / wall,
        mib(process.start.rss),
        mib(process.end.rss),
        mib(process.rss_peak),
        mib(process.start.rss_anon),
        mib(process.end.rss_anon),
        mib(process.rss_anon_peak),
        mib(process.written()),
    )
}

/// Nanoseconds as milliseconds with three significant digits or more.
fn millis(nanos: u64) -> String {
    let millis = nanos as f64 / 1e6;
    match millis {
        m if m < 100.0 => format!("{m:.3}"),
        m if m < 10_000.0 => format!("{m:.1}"),
        m => format!("{m:.0}"),
    }
}
