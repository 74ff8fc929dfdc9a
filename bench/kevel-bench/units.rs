//! Numbers with units, as the command line takes them.
#![forbid(unsafe_code)]

use std::time::Duration;

/// A duration such as `1.5s`, `200ms` or `2m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or("a unit is missing: ms, s, m or h")?;
    let number: f64 = text[..at].parse().map_err(|_| "not a number and a unit")?;
    let seconds = match &text[at..] {
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err("the unit is none of ms, s, m and h".to_owned()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// A number such as `20`, `4k`, `1Mi`.
pub fn size(text: &str) -> Result<u64, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: u64 = text[..at].parse().map_err(|_| "not a number")?;
    let unit = match &text[at..] {
        "" => 1,
        "k" => 1000,
        "Ki" => 1 << 10,
        "M" => 1_000_000,
        "Mi" => 1 << 20,
        "G" => 1_000_000_000,
        _ => return Err("the unit is none of k, Ki, M, Mi and G".to_owned()),
    };
    number.checked_mul(unit).ok_or_else(|| "too large".to_owned())
}

/// As [`size`], and not zero.
pub fn size_positive(text: &str) -> Result<u64, String> {
    size(text).and_then(|number| if number > 0 { Ok(number) } else { Err("at least one".to_owned()) })
}

/// A positive number.
pub fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
        _ => Err("not a positive number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("5").is_err() && duration("-1s").is_err() && duration("1d").is_err());
        assert_eq!((size("4k"), size("1Mi"), size("7")), (Ok(4000), Ok(1 << 20), Ok(7)));
        assert!(
            size("1X").is_err() && size_positive("0").is_err() && rate("0").is_err() && rate("inf").is_err()
        );
    }
}
