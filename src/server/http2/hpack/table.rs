//! The static table (RFC 7541, Appendix A): fields that both sides know, by number from 1 on.
#![forbid(unsafe_code)]

use super::Name;

/// See the module.
#[rustfmt::skip]
pub const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

/// What the name of the field with this number means.
pub fn meaning(number: usize) -> Name {
    match number {
        1 => Name::Authority,
        2 | 3 => Name::Method,
        4 | 5 => Name::Path,
        6 | 7 => Name::Scheme,
        8..=14 => Name::Invalid,
        23 => Name::Authorization,
        31 => Name::ContentType,
        38 => Name::Host,
        16 | 19 | 28 | 58 => Name::Unused,
        _ => Name::Metadata,
    }
}

/// The number of the first field with this name.
pub const fn number_of_name(name: &str) -> Option<usize> {
    let mut at = 0;
    while at < STATIC.len() {
        if is_same(STATIC[at].0.as_bytes(), name.as_bytes()) {
            return Some(at + 1);
        }
        at += 1;
    }
    None
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_mean_what_their_names_do() {
        for (at, (name, _)) in STATIC.iter().enumerate() {
            assert_eq!(meaning(at + 1), Name::of(name.as_bytes()), "{name}");
        }
        assert_eq!((number_of_name("content-type"), number_of_name("grpc-status")), (Some(31), None));
    }
}
