//! The part of a request's target behind `?`, and percent-encoding.
#![forbid(unsafe_code)]

use std::borrow::Cow;

/// Names and values of a query.
pub struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// The query that stands behind `?`.
    pub fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The pairs that can be read. Go leaves out one with a broken escape or a semicolon, and so does this.
    fn pairs(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        let pairs = self.0.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescape(name, b' ')?, unescape(value, b' ')?))
        })
    }

    /// All values of a name.
    pub fn values(&self, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
        self.pairs().filter_map(move |(found, value)| (found == name).then_some(value))
    }

    /// Whether a name is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.pairs().any(|(found, _)| found == name)
    }
}

/// A path without its escapes; `None` if one of them is none.
pub fn unescape_path(path: &str) -> Option<Cow<'_, str>> {
    unescape(path, b'+')
}

/// Undoes `%XX`, with `plus` in the place of each `+`; `None` where a `%` begins no escape.
fn unescape(text: &str, plus: u8) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        bytes.push(match first {
            b'%' => {
                let byte = escaped(tail)?;
                rest = &tail[2..];
                byte
            }
            b'+' => plus,
            other => *other,
        });
    }
    Some(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The byte whose two hexadecimal digits come first.
fn escaped(text: &[u8]) -> Option<u8> {
    let [high, low, ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    Some((digit(*high)? * 16 + digit(*low)?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_unescaped() {
        let query = Query::new("exclude=a%2Fb&exclude=c+d&verbose&x=%zz");
        assert_eq!(query.values("exclude").collect::<Vec<_>>(), ["a/b", "c d"]);
        assert!(query.has("verbose") && !query.has("v"));
        assert_eq!(query.values("x").next(), None, "Go leaves out what it cannot read");
        assert!(!Query::new("a;b=c&d").has("a;b") && Query::new("a;b=c&d").has("d"));
    }

    #[test]
    fn a_path_with_a_broken_escape_is_none() {
        assert_eq!(unescape_path("/healt%68+").unwrap(), "/health+");
        assert_eq!(unescape_path("/plain").unwrap(), "/plain");
        for wrong in ["/%zz", "/%6", "/%"] {
            assert_eq!(unescape_path(wrong), None);
        }
    }
}
