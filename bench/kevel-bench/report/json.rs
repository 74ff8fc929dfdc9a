//! Figures for programs. Latencies are milliseconds, sizes bytes, times seconds.
#![forbid(unsafe_code)]

use kevel::server::grpc::Code;
use serde_json::{Map, Value, json};

use super::QUANTILES;
use crate::phase::Outcome;
use crate::process::Use;
use crate::record::Class;

/// All phases, the one of interest last.
pub fn json(outcomes: &[Outcome], command: &[String]) -> Value {
    json!({
        "tool": concat!("kevel-bench ", env!("CARGO_PKG_VERSION")),
        "command": command,
        "phases": outcomes.iter().map(phase).collect::<Vec<_>>(),
    })
}

fn phase(outcome: &Outcome) -> Value {
    let record = &outcome.record;
    let seconds = outcome.elapsed.as_secs_f64();
    let classes: Map<String, Value> =
        record.classes.iter().map(|it| (it.name.to_owned(), class(it, seconds))).collect();
    let errors: Map<String, Value> = record
        .errors
        .iter()
        .map(|(code, (count, sample))| {
            (Code::ALL[usize::from(*code)].label().to_owned(), json!({ "count": count, "first": sample }))
        })
        .collect();
    let series: Vec<Value> = outcome
        .series
        .iter()
        .map(|interval| {
            json!({
                "at_s": interval.at,
                "ops_per_s": interval.latency.len() as f64 / interval.seconds,
                "errors": interval.errors,
                "p50_ms": millis(interval.latency.value_at_quantile(0.5)),
                "p99_ms": millis(interval.latency.value_at_quantile(0.99)),
                "max_ms": millis(interval.latency.max()),
            })
        })
        .collect();
    json!({
        "name": outcome.name,
        "connections": outcome.connections,
        "elapsed_s": seconds,
        "ops": record.successes(),
        "ops_per_s": rate(record.successes(), seconds),
        "classes": classes,
        "errors": errors,
        "unsent": record.unsent,
        "events_missing": outcome.events_missing,
        "connections_broken": outcome.breaks,
        "interrupted": outcome.interrupted,
        "send_lag_ms": { "p50": millis(record.lag.value_at_quantile(0.5)),
            "p99": millis(record.lag.value_at_quantile(0.99)), "max": millis(record.lag.max()) },
        "servers": outcome.servers.iter().map(|server| usage(server, record.successes())).collect::<Vec<_>>(),
        "client": outcome.client.as_ref().map(|client| usage(client, record.successes())),
        "series": series,
    })
}

fn class(class: &Class, seconds: f64) -> Value {
    let latency = &class.latency;
    let mut quantiles = Map::new();
    quantiles.insert("mean".to_owned(), json!(latency.mean() / 1e6));
    for (quantile, name) in QUANTILES {
        quantiles.insert(name.to_owned(), json!(millis(latency.value_at_quantile(quantile))));
    }
    quantiles.insert("max".to_owned(), json!(millis(latency.max())));
    json!({
        "ops": latency.len(),
        "ops_per_s": rate(latency.len(), seconds),
        "keys": class.keys,
        "bytes_in": class.bytes,
        "latency_ms": quantiles,
    })
}

fn usage(process: &Use, operations: u64) -> Value {
    let cpu = process.cpu().as_secs_f64();
    json!({
        "pid": process.pid,
        "cpu_s": cpu,
        "cpu_us_per_op": cpu * 1e6 / operations.max(1) as f64,
        "rss": { "start": process.start.rss, "peak": process.rss_peak, "end": process.end.rss },
        "rss_anon": { "start": process.start.rss_anon, "peak": process.rss_anon_peak, "end": process.end.rss_anon },
        "written": process.written(),
    })
}

fn rate(number: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { number as f64 / seconds } else { 0.0 }
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}
