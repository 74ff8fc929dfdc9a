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

    fn pairs(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        self.0.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(name), unescape(value))
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

/// Undoes `%XX` and `+`; what is no escape stays as it is.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, escaped(tail)) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// A path without its escapes; `None` if one of them is none.
pub fn unescape_path(path: &str) -> Option<Cow<'_, str>> {
    if !path.contains('%') {
        return Some(Cow::Borrowed(path));
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            bytes.push(escaped(tail)?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
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
        assert_eq!(query.values("x").next().unwrap(), "%zz");
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
