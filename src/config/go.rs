//! Values as Go's standard library reads and prints them.
//!
//! Operators' scripts, unit files and etcd's own test suites write flag values for Go's `flag` package, so its
//! number, boolean and duration syntax is part of the interface.
#![forbid(unsafe_code)]

use std::time::Duration;

/// What Go's `flag` package says of a value it cannot read.
pub const PARSE_ERROR: &str = "parse error";
/// What it says of a number that does not fit.
pub const RANGE_ERROR: &str = "value out of range";

/// `strconv.ParseBool`: twelve spellings and no others.
pub fn parse_bool(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(PARSE_ERROR),
    }
}

/// A size as etcd's logs print it: one decimal below ten, in powers of a thousand.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let power = bytes.ilog10() / 3;
    let value = (bytes as f64 / 1000f64.powi(power as i32) * 10.0 + 0.5).floor() / 10.0;
    let unit = UNITS[power as usize];
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// `strconv.ParseUint(text, 0, 64)`: decimal, or with a base prefix; single underscores between digits, or behind the
/// prefix.
pub fn parse_uint(text: &str) -> Result<u64, &'static str> {
    let (digits, radix, prefixed) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16, true),
        [b'0', b'b' | b'B', ..] => (&text[2..], 2, true),
        [b'0', b'o' | b'O', ..] => (&text[2..], 8, true),
        [b'0', _, ..] => (&text[1..], 8, true),
        _ => (text, 10, false),
    };
    let digits = match digits.contains('_') {
        true if !prefixed && digits.starts_with('_') || digits.ends_with('_') || digits.contains("__") => {
            return Err(PARSE_ERROR);
        }
        _ => digits.replace('_', ""),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(PARSE_ERROR);
    }
    u64::from_str_radix(&digits, radix).map_err(|_| RANGE_ERROR)
}

/// `strconv.ParseInt(text, 0, 64)`.
pub fn parse_int(text: &str) -> Result<i64, &'static str> {
    let (negative, magnitude) = match text.as_bytes().first() {
        Some(b'-') => (true, parse_uint(&text[1..])?),
        Some(b'+') => (false, parse_uint(&text[1..])?),
        _ => (false, parse_uint(text)?),
    };
    let magnitude = i128::from(magnitude);
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| RANGE_ERROR)
}

/// `strconv.Atoi`: decimal digits with an optional sign; `None` for anything else, and for what does not fit.
pub fn atoi(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let decimal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    decimal.then(|| text.parse().ok()).flatten()
}

/// Units of a Go duration, longest spelling first where one is the beginning of another.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// `time.ParseDuration`, in nanoseconds: `1h15m30.5s`, `100ms`, `0`, with an optional sign.
pub fn parse_duration(text: &str) -> Result<i64, &'static str> {
    let (sign, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (-1i128, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(PARSE_ERROR);
    }
    let mut total = 0i128;
    while !rest.is_empty() {
        let number_len = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, after) = rest.split_at(number_len);
        let unit_len = after
            .char_indices()
            .find(|(_, c)| c.is_ascii_digit() || *c == '.')
            .map_or(after.len(), |(at, _)| at);
        let (unit, after) = after.split_at(unit_len);
        let scale = UNITS.iter().find(|(name, _)| *name == unit).ok_or(PARSE_ERROR)?.1;
        total += scaled(number, scale)?;
        rest = after;
    }
    i64::try_from(sign * total).map_err(|_| PARSE_ERROR)
}

/// A decimal number with at most one point, times `scale`; digits below a nanosecond are dropped.
fn scaled(number: &str, scale: u64) -> Result<i128, &'static str> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 20 {
        return Err(PARSE_ERROR);
    }
    let mut value =
        whole.bytes().fold(0i128, |sum, digit| sum * 10 + i128::from(digit - b'0')) * i128::from(scale);
    let mut unit = i128::from(scale);
    for digit in fraction.bytes().take(18) {
        unit /= 10;
        value += unit * i128::from(digit - b'0');
    }
    Ok(value)
}

/// `time.Duration.String`: `1m0s`, `1.5s`, `100ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (seconds, below) = (duration.as_secs(), duration.subsec_nanos());
    let fraction = |value: u128, digits: usize| {
        let text = format!("{value:0digits$}");
        let text = text.trim_end_matches('0');
        if text.is_empty() { String::new() } else { format!(".{text}") }
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}{}\u{b5}s", nanos / 1_000, fraction(nanos % 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{}{}ms", nanos / 1_000_000, fraction(nanos % 1_000_000, 6)),
        _ => {
            let rest = format!("{}{}s", seconds % 60, fraction(u128::from(below), 9));
            match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => rest,
                (0, minutes) => format!("{minutes}m{rest}"),
                (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_have_twelve_spellings() {
        for (text, value) in
            [("1", true), ("T", true), ("True", true), ("0", false), ("f", false), ("FALSE", false)]
        {
            assert_eq!(parse_bool(text), Ok(value), "{text}");
        }
        for text in ["", "yes", "tRUE", "on", " true", "2"] {
            assert_eq!(parse_bool(text), Err(PARSE_ERROR), "{text}");
        }
    }

    #[test]
    fn numbers_take_base_prefixes_and_refuse_the_rest() {
        for (text, value) in [
            ("0", 0),
            ("10", 10),
            ("0x1F", 31),
            ("0b101", 5),
            ("0o17", 15),
            ("017", 15),
            ("0x1_0", 16),
            ("10_000", 10_000),
            ("0_7", 7),
        ] {
            assert_eq!(parse_uint(text), Ok(value), "{text}");
        }
        assert_eq!(parse_uint("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(parse_uint("18446744073709551616"), Err(RANGE_ERROR));
        for text in ["", "-1", "+1", "1.5", "abc", "0x", "08", "_1", "1_", "1__0", "0x1_", " 1"] {
            assert_eq!(parse_uint(text), Err(PARSE_ERROR), "{text}");
        }
        assert_eq!(parse_int("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_int("+7"), Ok(7));
        assert_eq!(parse_int("9223372036854775808"), Err(RANGE_ERROR));
        assert_eq!(parse_int("--1"), Err(PARSE_ERROR));
        assert_eq!((atoi("007"), atoi("+0"), atoi("-5")), (Some(7), Some(0), Some(-5)));
        for text in ["", "-", "0x1", "1_0", " 1", "9223372036854775808"] {
            assert_eq!(atoi(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (16_000_000, "16 MB"),
            (2 << 30, "2.1 GB"),
            (8 << 30, "8.6 GB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }

    #[test]
    fn durations_read_and_print_as_go_does() {
        for (text, nanos, printed) in [
            ("100ms", 100_000_000, "100ms"),
            ("5s", 5_000_000_000, "5s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("10m", 600_000_000_000, "10m0s"),
            ("2h", 7_200_000_000_000, "2h0m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            (".5ms", 500_000, "500\u{b5}s"),
            ("1\u{b5}s", 1_000, "1\u{b5}s"),
            ("1us", 1_000, "1\u{b5}s"),
            ("2344323ns", 2_344_323, "2.344323ms"),
            ("0", 0, "0s"),
            ("7ns", 7, "7ns"),
        ] {
            assert_eq!(parse_duration(text), Ok(nanos), "{text}");
            assert_eq!(format_duration(Duration::from_nanos(nanos as u64)), printed, "{text}");
        }
        assert_eq!(parse_duration("-1s"), Ok(-1_000_000_000));
        for text in ["", "5", "s", "1x", "1.2.3s", ".s", "-", "1s5", "99999999999999999999h", "1 s"] {
            assert_eq!(parse_duration(text), Err(PARSE_ERROR), "{text}");
        }
    }
}
