//! HdrHistogram's text format, as its plotting pages read it. Values are milliseconds.
#![forbid(unsafe_code)]

use std::fmt::Write;

use hdrhistogram::Histogram;

const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// The distribution as text.
pub fn hgrm(latency: &Histogram<u64>) -> String {
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for step in latency.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to() as f64 / 1e6, step.quantile_iterated_to());
        let line = if quantile < 1.0 {
            writeln!(text, "{value:12.3} {quantile:.12} {total:10} {:14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text, "{value:12.3} {quantile:.12} {total:10}")
        };
        line.expect("a string");
    }
    let tail = writeln!(
        text,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n#[Max     = {:12.3}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]",
        latency.mean() / 1e6,
        latency.stdev() / 1e6,
        latency.max() as f64 / 1e6,
        latency.len(),
        latency.buckets(),
        2048,
    );
    tail.expect("a string");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::histogram;

    #[test]
    fn the_last_line_holds_them_all() {
        let mut latency = histogram();
        (1..=1000u64).for_each(|micros| latency.record(micros * 1000).expect("within bounds"));
        let text = hgrm(&latency);
        assert!(text.lines().any(|line| line.contains(" 1.000000000000       1000")), "{text}");
        let median = text.lines().find(|line| line.contains(" 0.500000000000")).expect("a median");
        let value: f64 = median.split_ascii_whitespace().next().expect("a value").parse().expect("a number");
        assert!((0.499..=0.502).contains(&value), "{median}");
    }
}
