//! The exposition text that Prometheus reads: families by name, each with its help, its type and its series.
//!
//! Numbers are written as Go writes them, so that the `le` labels of buckets equal etcd's: recording rules join on
//! them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write;

use super::cell::{Buckets, Observed};

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Values by bucket.
    Histogram,
}

impl Type {
    fn as_str(self) -> &'static str {
        match self {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        }
    }
}

/// Families being collected; they come out ordered by name.
#[derive(Debug, Default)]
pub struct Families {
    by_name: BTreeMap<&'static str, String>,
}

/// Label names and values of one series.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Families {
    /// A family's text; its head is written when it is new.
    fn family(&mut self, name: &'static str, kind: Type, help: &str) -> &mut String {
        self.by_name
            .entry(name)
            .or_insert_with(|| format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.as_str()))
    }

    /// One series of a counter or a gauge.
    pub fn number(&mut self, name: &'static str, kind: Type, help: &str, labels: Labels<'_>, value: f64) {
        let text = self.family(name, kind, help);
        push_series(text, name, "", labels, None, value);
    }

    /// One series of a histogram.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &str,
        labels: Labels<'_>,
        buckets: &Buckets,
        observed: &Observed,
    ) {
        let bounds = (0..buckets.count).map(|at| buckets.bound(at));
        let counts = observed.buckets[..=buckets.count].iter().copied();
        self.bounded(name, help, labels, bounds, counts, observed.sum as f64 / buckets.scale);
    }

    /// One series of a histogram with bounds of its own. `counts` are one more than `bounds`, and not cumulative.
    pub fn bounded(
        &mut self,
        name: &'static str,
        help: &str,
        labels: Labels<'_>,
        bounds: impl Iterator<Item = f64>,
        counts: impl IntoIterator<Item = u64>,
        sum: f64,
    ) {
        let text = self.family(name, Type::Histogram, help);
        let mut below = 0;
        let bounds = bounds.map(number).chain(std::iter::once("+Inf".to_owned()));
        for (bound, count) in bounds.zip(counts) {
            below += count;
            push_series(text, name, "_bucket", labels, Some(&bound), below as f64);
        }
        push_series(text, name, "_sum", labels, None, sum);
        push_series(text, name, "_count", labels, None, below as f64);
    }

    /// The whole text.
    pub fn finish(self) -> String {
        let len = self.by_name.values().map(String::len).sum();
        let mut text = String::with_capacity(len);
        self.by_name.values().for_each(|family| text.push_str(family));
        text
    }
}

fn push_series(
    text: &mut String,
    name: &str,
    suffix: &str,
    labels: Labels<'_>,
    le: Option<&str>,
    value: f64,
) {
    text.push_str(name);
    text.push_str(suffix);
    let labels = labels.iter().copied().chain(le.map(|le| ("le", le)));
    let mut separator = '{';
    for (label, value) in labels {
        let _ = write!(text, "{separator}{label}=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
        separator = ',';
    }
    if separator == ',' {
        text.push('}');
    }
    let _ = writeln!(text, " {}", number(value));
}

/// A number as Go's `strconv.FormatFloat(value, 'g', -1, 64)` writes it.
fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("Rust writes an exponent");
    let exponent: i32 = exponent.parse().expect("Rust writes a number there");
    if value != 0.0 && !(-4..GO_EXPONENT_FROM).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{value}")
}

/// From this exponent on, Go's shortest form is the scientific one.
const GO_EXPONENT_FROM: i32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_gos() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (0.001, "0.001"),
            (8.192, "8.192"),
            (0.0001, "0.0001"),
            (0.000_090_028, "9.0028e-05"),
            (20_480.0, "20480"),
            (819_200.0, "819200"),
            (1_572_864.0, "1.572864e+06"),
            (2_147_483_648.0, "2.147483648e+09"),
            (1e6, "1e+06"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_text_of_three_families() {
        let mut families = Families::default();
        families.number("z_total", Type::Counter, "Last.", &[("a", "x\"\\\n"), ("b", "")], 3.0);
        families.number("z_total", Type::Counter, "Last.", &[("a", "y"), ("b", "c")], 4.0);
        families.number("a_gauge", Type::Gauge, "First.", &[], -1.0);
        let mut observed = Observed::default();
        (observed.buckets[0], observed.buckets[2], observed.sum) = (2, 1, 5_000_000);
        families.histogram("m_seconds", "Middle.", &[("k", "v")], &Buckets::seconds(1_000, 2), &observed);
        assert_eq!(
            families.finish(),
            "# HELP a_gauge First.\n# TYPE a_gauge gauge\na_gauge -1\n\
             # HELP m_seconds Middle.\n# TYPE m_seconds histogram\n\
             m_seconds_bucket{k=\"v\",le=\"0.001\"} 2\nm_seconds_bucket{k=\"v\",le=\"0.002\"} 2\n\
             m_seconds_bucket{k=\"v\",le=\"+Inf\"} 3\nm_seconds_sum{k=\"v\"} 0.005\nm_seconds_count{k=\"v\"} 3\n\
             # HELP z_total Last.\n# TYPE z_total counter\n\
             z_total{a=\"x\\\"\\\\\\n\",b=\"\"} 3\nz_total{a=\"y\",b=\"c\"} 4\n"
        );
    }
}
